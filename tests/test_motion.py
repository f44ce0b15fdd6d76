"""How layers move: a matrix turned by a known angle, numpy's formulas, a rank correlation."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import explorer as lx
from explorer.errors import (
    ChangedStackWarning,
    NumbersWarning,
    StackError,
    UnknownNameError,
    UsageError,
)
from explorer.stats import motion as motion_module
from explorer.stats.rank_correlation import against, moved_by_layer, spearman
from explorer.stats.spectra import as_matrix, spectral_norm, spectrum
from explorer.weights.stack import epoch_numbers, layer_names, read_layer
from tests.conftest import copy_bundled


@pytest.fixture(scope="module")
def moved(bundled):
    return lx.motion(bundled, sweep=lx.open_sweep("fcn3x256-digits"), progress=False)


class One(nn.Module):
    """A linear layer without a bias."""

    def __init__(self):
        super().__init__()
        self.only = nn.Linear(2, 2, bias=False)

    def forward(self, x):
        return self.only(x)


def motion_of(*matrices, epochs=None):
    states = [{"only.weight": torch.as_tensor(one, dtype=torch.float32)} for one in matrices]
    stack = lx.open_stack(states, model=One(), epochs=epochs)
    return lx.motion(stack, progress=False)


def test_a_layer_turned_by_a_known_angle_has_rotated_by_1_minus_its_cosine():
    """All four weights turn in the plane of two orthogonal matrices; lengths do not count."""
    a, b = np.array([[1.0, 2], [3, 4]]), np.array([[2.0, -1], [4, -3]])
    angles = (0, 1e-3, math.pi / 6, math.pi / 2, math.pi)
    turned = [2**k * (math.cos(t) * a + math.sin(t) * b) for k, t in enumerate(angles)]
    found = motion_of(*turned)["rotation"].values[0]
    np.testing.assert_allclose(found, [1 - math.cos(t) for t in angles], atol=1e-6)
    assert found[1] == pytest.approx(5e-7, rel=1e-3)  # far below float32's 1 − cos


def test_steps_signs_and_dead_units_can_be_counted():
    start = [[3.0, 0], [0, 4]]
    found = motion_of(start, [[3.0, 0], [-3, 0]], [[-3.0, 0], [-3, 0]], epochs=[0, 1, 3])
    np.testing.assert_allclose(found["step"].values, [[np.nan, 5, 6]])
    np.testing.assert_allclose(found["step_per_epoch"].values, [[np.nan, 5, 3]])
    np.testing.assert_allclose(found["sign_flips"].values, [[0, 0, 0.25]])
    np.testing.assert_allclose(found["spectral_norm"].values, [[4, math.sqrt(18), math.sqrt(18)]])
    np.testing.assert_allclose(found["stable_rank"].values, [[25 / 16, 1, 1]])
    np.testing.assert_allclose(found["dead_out"].values, [[0, 0.5, 0.5]])
    dead = motion_of([[1.0, 1], [0, 0]])
    assert (dead["dead_in"].item(), dead["dead_out"].item()) == (0.5, 0)


def test_every_number_is_that_of_the_plain_formula(bundled, moved):
    epochs = epoch_numbers(bundled)
    for layer in layer_names(bundled):
        states = [read_layer(bundled, layer, epoch) for epoch in epochs]
        flat = [np.concatenate([a.ravel() for a in s.values()]).astype(float) for s in states]
        row = moved.sel(layer=layer)
        cosines = [f @ flat[0] / np.linalg.norm(f) / np.linalg.norm(flat[0]) for f in flat]
        np.testing.assert_allclose(row["rotation"], 1 - np.array(cosines), atol=1e-12)
        steps = [np.linalg.norm(b - a) for a, b in itertools.pairwise(flat)]
        np.testing.assert_allclose(row["step"].values[1:], steps, rtol=1e-12)
        flips = [np.mean(f * flat[0] < 0) for f in flat]
        np.testing.assert_allclose(row["sign_flips"], flips)
        at = moved["of_layer"].values.tolist().index(layer)
        weights = next(a for a in states[-1].values() if a.ndim == 2).astype(float)
        norm = np.linalg.norm(weights, 2)
        assert moved["spectral_norm"].values[at, -1] == pytest.approx(norm, rel=1e-10)
        rank = np.linalg.norm(weights) ** 2 / norm**2
        assert moved["stable_rank"].values[at, -1] == pytest.approx(rank, rel=1e-10)


def test_the_largest_singular_value_by_lanczos_is_within_its_own_bound():
    matrix = np.random.default_rng(2).normal(size=(90, 40))
    exact, nothing = spectral_norm(matrix)
    found, bound = spectral_norm(matrix, exact_up_to=8)
    assert nothing == 0
    assert 0 < bound < 1e-6 * exact
    assert abs(found - exact) <= bound + 1e-12 * exact
    assert spectral_norm(matrix, exact_up_to=8) == (found, bound)  # the same every time


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (40, 7), (30, 30), (64, 300)])
@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1.0, 1e170, 1e290])
def test_the_largest_singular_value_is_that_of_a_full_decomposition_at_any_scale(shape, scale):
    matrix = scale * np.random.default_rng(4).normal(size=shape)
    assert spectral_norm(matrix)[0] == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-13)


def test_where_many_singular_values_are_the_largest_it_is_still_found():
    matrix = np.linalg.qr(np.random.default_rng(5).normal(size=(50, 50)))[0]
    assert spectral_norm(3 * matrix)[0] == pytest.approx(3, rel=1e-13)
    assert spectral_norm(np.outer(np.ones(50), np.ones(20)))[0] == pytest.approx(1000**0.5)


def test_of_a_convolution_the_rows_are_its_outputs():
    weights = np.random.default_rng(3).normal(size=(4, 3, 2, 2))
    assert as_matrix(weights).shape == (4, 12)
    expected = np.linalg.norm(weights.reshape(4, -1), 2)
    assert spectrum(as_matrix(weights))["spectral_norm"] == pytest.approx(expected)


def test_matrices_without_a_spectrum_are_not_given_one():
    zeros = spectrum(np.zeros((3, 3)))
    assert (zeros["spectral_norm"], zeros["dead_in"]) == (0, 1)
    assert math.isnan(zeros["stable_rank"])
    assert math.isnan(spectrum(np.full((2, 2), np.nan))["spectral_norm"])


def test_a_checkpoint_that_cannot_be_read_marks_its_column_and_the_step_after_it(tmp_path):
    folder = copy_bundled(tmp_path / "copy")
    (folder / "epoch-0003.safetensors").unlink()
    found = lx.motion(lx.open_stack(folder), progress=False)
    at = found["epoch"].values.tolist().index(3)
    for layer in range(4):  # the first is read one checkpoint at a time, the last all at once
        assert "epoch-0003" in found["reason"].values[layer, at]
        assert np.isnan(found["rotation"].values[layer]).tolist() == [k == at for k in range(8)]
        assert np.flatnonzero(np.isnan(found["step"].values[layer])).tolist() == [0, at, at + 1]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_weights_that_are_not_finite_mark_their_checkpoint_and_the_step_after_it(wrong):
    start = [[3.0, 0], [0, 4]]
    found = motion_of(start, [[wrong, 0], [0, 4]], [[3.0, 0], [0, 5]], [[3.0, 0], [0, 7]])
    assert found["reason"].values.tolist() == [["", "NaN or infinite weights", "", ""]]
    np.testing.assert_allclose(found["step"].values, [[np.nan, np.nan, np.nan, 2]])
    assert np.isnan(found["rotation"].values).tolist() == [[False, True, False, False]]
    assert np.isnan(found["spectral_norm"].values).tolist() == [[False, True, False, False]]
    no_start = motion_of([[wrong, 0], [0, 4]], start, [[3.0, 0], [0, 5]])
    assert np.isnan(no_start["rotation"].values).all()
    assert no_start["step"].values[0, 2] == 1


def test_small_parameters_are_read_at_all_checkpoints_in_one_call(bundled, moved, monkeypatch):
    """What fits is: of a large one, two checkpoints are in memory and no more."""
    calls, read = [], xr.Variable.__getitem__

    def counted(variable, key):
        calls.append((variable.nbytes, key))
        return read(variable, key)

    monkeypatch.setattr(xr.Variable, "__getitem__", counted)
    again = lx.motion(bundled, progress=False)
    whole = [size for size, key in calls if key == slice(None)]
    one = [size for size, key in calls if isinstance(key, int)]
    assert len(whole) == 7
    assert max(whole) <= motion_module.AT_ONCE
    assert one == 8 * [8 * 784 * 256 * 4]
    monkeypatch.setattr(motion_module, "AT_ONCE", 0)
    xr.testing.assert_identical(again, lx.motion(bundled, progress=False))
    xr.testing.assert_identical(again, moved[list(again)])


def test_ctrl_c_keeps_the_layers_that_are_finished(bundled, monkeypatch):
    original, seen = motion_module._layer, []

    def stopped(node, epochs):
        seen.append(node)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(node, epochs)

    monkeypatch.setattr(motion_module, "_layer", stopped)
    found = lx.motion(bundled, progress=False)
    assert found.attrs["complete"] == 0
    assert np.isfinite(found["rotation"].values[:, -1]).tolist() == [True, True, False, False]
    assert found["reason"].values[2, 0] == "not measured yet"


# --- beside the error -----------------------------------------------------------------------------


def test_the_rank_correlation_and_its_interval_are_those_of_the_formula():
    x = np.array([1.0, 2, 3, 4, 5, np.nan])
    y = np.array([2.0, 1, 4, 3, 5, 0])
    rho = 1 - 6 * (1 + 1 + 1 + 1) / (5 * 24)  # Σd² = 4
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / 2)
    found = spearman(x, y)
    np.testing.assert_allclose(found[0], rho)
    np.testing.assert_allclose(found[1:3], np.tanh(np.arctanh(rho) + np.array([-half, half])))
    assert found[3] == 5


def test_four_pairs_are_the_fewest_that_have_an_interval():
    x, y = np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 3, 4])
    rho = 0.8  # 1 − 6·2 / (4·15)
    half = 1.959964 * math.sqrt(1 + rho**2 / 2)
    expected = [rho, *np.tanh(np.arctanh(rho) + np.array([-half, half]))]
    np.testing.assert_allclose(spearman(x, y)[:3], expected)
    three = spearman(x[:3], y[:3])
    assert three[0] == pytest.approx(0.5)
    assert np.isnan(three[1:3]).all()
    assert np.isfinite(spearman(np.array([1.0, 2]), np.array([1.0, 2]))[0])


@pytest.mark.parametrize("sign", [1, -1])
def test_where_the_order_is_the_same_or_the_opposite_there_is_no_interval(sign):
    x = np.arange(5.0)
    rho, low, high, n = spearman(x, sign * x**3)
    assert (rho, n) == (pytest.approx(sign), 5)
    assert math.isnan(low)
    assert math.isnan(high)


def by_hand():
    """Motion of two layers at three epochs; the second layer has two matrices."""
    layer, matrix = ("layer", "epoch"), ("matrix", "epoch")
    return xr.Dataset(
        {
            "rotation": (layer, [[0, 0.1, 0.2], [0, 0.6, 0.4]]),
            "step": (layer, [[np.nan, 1, 2], [np.nan, np.nan, np.nan]]),
            "sign_flips": (layer, [[0, 0.5, 0.25], [0, 0, 0.125]]),
            "spectral_norm": (matrix, [[1, 3, 2], [4, 4, 1], [5, 1, 3.0]]),
            "stable_rank": (matrix, [[2, 1, 4], [1, 1, 1], [6, 1, 2.0]]),
        },
        {
            "layer": ["a", "b"],
            "epoch": [0, 1, 2],
            "of_layer": ("matrix", np.array(["a", "b", "b"], object)),
        },
    )


def test_how_far_a_layer_has_come_is_read_at_the_last_checkpoint_and_of_its_largest_matrix():
    found = moved_by_layer(by_hand())
    assert list(found) == [
        *("rotation", "way", "sign_flips", "spectral_norm_change", "stable_rank_change"),
    ]
    for values, expected in zip(
        found.values(),
        ([0.2, 0.4], [3, np.nan], [0.25, 0.125], np.log([2, 5 / 3]), np.log([2, 3])),
        strict=True,
    ):
        np.testing.assert_allclose(values, expected)
    without = by_hand().isel(matrix=[1])  # a layer without a matrix, and one of 0 at the start
    without["spectral_norm"][0, 0] = 0
    changes = moved_by_layer(without)
    assert math.isnan(changes["spectral_norm_change"][0])
    assert changes["spectral_norm_change"][1] == math.inf


def test_what_is_compared_is_the_error_at_the_first_checkpoint_whatever_the_order_of_the_sweep():
    sweep = xr.Dataset(
        {"error": (("layer", "epoch"), [[0.5, 0.1, 0.9], [0.5, 0.1, 0.3]])},
        {"layer": ["other", "a"], "epoch": [1, 2, 0]},
    )
    found = against(by_hand(), sweep)
    np.testing.assert_array_equal(found["error_when_put_back"], [0.3, np.nan])
    np.testing.assert_array_equal(found["moved"].sel(quantity="rotation"), [0.2, 0.4])
    assert found["layers_compared"].values.tolist() == [1] * 5
    with pytest.raises(UnknownNameError, match=r"'a'(.|\n)*other"):
        against(by_hand(), sweep.isel(layer=[0]))
    with pytest.raises(UnknownNameError, match=r"no epoch 0(.|\n)*Known: 1, 2"):
        against(by_hand(), sweep.isel(epoch=[0, 1]))


@pytest.mark.parametrize(
    ("x", "y", "n"), [([1.0, 1, 1], [1.0, 2, 3], 3), ([1.0, np.nan], [1.0, 2.0], 1)]
)
def test_a_correlation_that_does_not_exist_is_not_given(x, y, n):
    assert np.isnan(spearman(np.array(x), np.array(y))[:3]).all()
    assert spearman(np.array(x), np.array(y))[3] == n


@pytest.mark.slow
def test_the_interval_of_unrelated_quantities_holds_0_about_as_often_as_it_says():
    generator, held = np.random.default_rng(5), 0
    for _ in range(2000):
        _, low, high, _ = spearman(generator.normal(size=14), generator.normal(size=14))
        held += low <= 0 <= high
    assert 0.93 <= held / 2000 <= 0.98


def test_what_moved_most_is_set_beside_the_error(moved):
    """The paper's point: layer 4 moved farthest, and layer 1 matters most."""
    assert moved["moved"].sel(quantity="rotation").idxmax().item() == "layer4"
    assert moved["error_when_put_back"].idxmax().item() == "layer1"
    low, high = moved["rank_low"].values, moved["rank_high"].values
    assert ((low < 0) & (high > 0)).all()  # four layers show nothing
    assert set(moved["layers_compared"].values) == {4}


def test_a_sweep_of_another_network_is_refused_and_it_is_warned_of(bundled):
    with (
        pytest.warns(ChangedStackWarning, match="other checkpoints"),
        pytest.raises(UnknownNameError, match="layer1"),
    ):
        lx.motion(bundled, sweep=lx.open_sweep("vgg11-digits"), progress=False)


def test_a_sweep_of_another_run_of_the_same_network_is_warned_of(bundled, moved):
    sweep = lx.open_sweep("fcn3x256-digits").assign_attrs(content_hash="0123456789abcdef")
    with pytest.warns(
        ChangedStackWarning, match=r"The sweep was .*other.*\(content hash 0123"
    ) as told:
        found = lx.motion(bundled, sweep=sweep, progress=False)
    assert told[0].filename == __file__
    xr.testing.assert_identical(found, moved)


def test_state_dicts_without_a_known_hash_are_compared_with_the_sweep_too():
    """A sweep of the reader's own stack knows the hash of its tensors."""
    states = [{"only.weight": torch.full((2, 2), float(k))} for k in range(2)]
    stack = lx.open_stack(states, model=One())
    data = torch.eye(2), torch.arange(2)
    with pytest.warns(NumbersWarning):
        sweep = lx.sweep(stack, model=One(), data=data, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lx.motion(stack, sweep=sweep, progress=False)
    other = lx.open_stack(states[::-1], model=One())
    with pytest.warns(ChangedStackWarning):
        lx.motion(other, sweep=sweep, progress=False)


@pytest.mark.parametrize(
    ("sweep", "match"),
    [
        ("fcn3x256-digits", r"sweep is 'fcn3x256-digits'(.|\n)*open_sweep\('fcn3x256-digits'\)"),
        (xr.Dataset(), r"sweep is a Dataset without the error"),
        (xr.Dataset({"error": ("layer", [0.5])}), r"sweep is a Dataset without the error"),
        (5, r"sweep is a int without(.|\n)*leave it out"),
    ],
)
def test_what_is_no_sweep_is_refused_with_what_to_pass(bundled, sweep, match):
    with pytest.raises(UsageError, match=match):
        lx.motion(bundled, sweep=sweep, progress=False)


def test_the_motion_of_what_is_no_stack_is_refused_with_what_to_pass(bundled):
    for wrong, match in (
        ("fcn3x256-digits", r"This str is no stack(.|\n)*open_stack\('fcn3x256-digits'\)"),
        ([{"only.weight": torch.ones(2, 2)}], r"This list is no stack"),
        (None, r"This NoneType is no stack"),
        (bundled.isel(epoch=0), r"This Stack is no stack"),
        (bundled.isel(epoch=slice(0)), r"epochs of this stack are \[\]"),
    ):
        with pytest.raises(StackError, match=match):
            lx.motion(wrong, progress=False)


def test_a_layer_of_buffers_alone_does_not_move_and_says_why():
    """Position numbers that are registered on the network itself are such a layer."""
    network = nn.Sequential(nn.Linear(4, 3))
    network.register_buffer("positions", torch.arange(4))
    states = [
        {n: t + (k if t.ndim > 1 else 0) for n, t in network.state_dict().items()} for k in (0, 1)
    ]
    found = lx.motion(lx.open_stack(states, model=network), progress=False)
    alone = found.sel(layer="(root)")
    assert np.isnan(alone["rotation"]).all()
    assert set(alone["reason"].values) == {"the layer has no parameters, only buffers"}
    assert np.isfinite(found.sel(layer="0")["rotation"]).all()
    assert found["matrix"].values.tolist() == ["0.weight"]
