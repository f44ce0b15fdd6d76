"""How far outputs are from each other: formulas written out, invariances, and a copied network."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from torch import nn

import explorer as lx
from explorer.data.datasets import load_test_set
from explorer.engine.evaluator import Evaluator
from explorer.engine.similarity import Comparison, Moments, jensen_shannon
from explorer.errors import UnknownNameError
from explorer.weights.families.known import build_network
from explorer.weights.stack import read_epoch
from tests import toy


def gram_cka(x, y):
    """CKA from the example × example Gram matrices, as the paper writes it."""
    x, y = x - x.mean(0), y - y.mean(0)
    k, l = x @ x.T, y @ y.T  # noqa: E741 - the paper's names
    return (k * l).sum() / math.sqrt((k * k).sum() * (l * l).sum())


def ece_by_hand(p, labels, bins=15):
    total = 0.0
    confidence, right = p.max(1), p.argmax(1) == labels
    for k in range(bins):
        inside = (confidence > k / bins) & (confidence <= (k + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def logits_of(network, state, inputs):
    twin = copy.deepcopy(network)
    twin.load_state_dict(state)
    twin.eval()
    with torch.no_grad():
        return twin(inputs).double().numpy()


@pytest.fixture(scope="module")
def found(bundled):
    return lx.outputs(bundled, epochs=[0, 8, 100], draws=1, device="cpu", progress=False)


@pytest.mark.parametrize(("layer", "epoch"), [("layer1", 0), ("layer2", 8), ("layer4", 0)])
def test_every_number_is_that_of_a_copied_network_and_the_written_out_formula(
    bundled, found, layer, epoch
):
    examples = load_test_set("digits28")
    network = build_network(bundled.attrs["family"], bundled.attrs["sizes"])
    final, early = (
        {name: torch.from_numpy(array) for name, array in read_epoch(bundled, at).items()}
        for at in (100, epoch)
    )
    own = {name: tensor for name, tensor in early.items() if name.startswith(layer)}
    x = logits_of(network, final, examples.inputs)
    y = logits_of(network, {**final, **own}, examples.inputs)
    p, q, labels = softmax(x, 1), softmax(y, 1), examples.labels.numpy()
    cosine = (p * q).sum(1) / (np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1))
    wrong = {name: answers.argmax(1) != labels for name, answers in (("x", x), ("y", y))}
    damage = [wrong["y"][labels == c].mean() - wrong["x"][labels == c].mean() for c in range(10)]
    cell = found.sel(layer=layer, epoch=epoch)
    expected = {
        "softmax_cosine": cosine.mean(),
        "js_divergence": (jensenshannon(p, q, axis=1) ** 2).mean(),
        "cka": gram_cka(x, y),
        "ece": ece_by_hand(q, labels),
        "error": wrong["y"].mean(),
        "class_damage": damage,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(cell[name], value, rtol=2e-5, atol=2e-7, err_msg=name)
    assert found.attrs["intact_ece"] == pytest.approx(ece_by_hand(p, labels), abs=1e-6)


def test_the_trained_network_is_like_itself(found):
    trained = found.sel(epoch=100)
    np.testing.assert_allclose(trained["softmax_cosine"], 1, atol=1e-12)
    np.testing.assert_allclose(trained["js_divergence"], 0, atol=1e-15)
    np.testing.assert_allclose(trained["cka"], 1, atol=1e-12)
    assert (trained["class_damage"].values == 0).all()
    assert (trained["ece"].values == found.attrs["intact_ece"]).all()


def test_errors_are_those_of_a_sweep_and_damage_adds_up_to_them(bundled, found):
    sweep = lx.open_sweep("fcn3x256-digits").sel(epoch=found["epoch"])
    np.testing.assert_allclose(found["error"], sweep["error"], atol=1e-12)
    weights = found["class_examples"] / int(found["class_examples"].sum())
    grown = (found["class_damage"] * weights).sum("class")
    np.testing.assert_allclose(grown, found["error"] - found.attrs["final_error"], atol=1e-12)
    evaluator = Evaluator(bundled, device="cpu")
    expected = evaluator.result(lx.rerandomise("layer2", 0)).error
    fresh = found["rerandomized_error"].sel(layer="layer2", draw=0).item()
    assert fresh == pytest.approx(expected, abs=1e-12)


def test_without_labels_what_needs_none_is_the_same(bundled, found):
    inputs = load_test_set("digits28").inputs
    for given in (inputs, inputs.numpy()):
        bare = lx.outputs(
            bundled, epochs=[0], layers=["layer2"], data=given, device="cpu", progress=False
        )
        for name in ("softmax_cosine", "js_divergence", "cka"):
            expected = found[name].sel(layer=["layer2"], epoch=[0])
            np.testing.assert_allclose(bare[name], expected, rtol=1e-9)
        assert not {"error", "ece", "class_damage", "class"} & set(bare.variables)
        assert not {"final_error", "intact_ece", "chance_error"} & set(bare.attrs)
        assert bare.attrs["labelled"] == 0


def test_slices_of_any_size_give_the_same(bundled, found):
    for size in (7, 1800):
        again = lx.outputs(
            bundled, epochs=[0], layers=["layer1"], device="cpu", batch_size=size, progress=False
        )
        for name in ("js_divergence", "cka", "ece", "class_damage"):
            expected = found[name].sel(layer=["layer1"], epoch=[0])
            np.testing.assert_allclose(again[name], expected, rtol=1e-5, atol=1e-8)


# --- closed forms ---------------------------------------------------------------------------------


def random_features(seed, n=60, classes=5):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, classes)) + 3)


def cka(x, y, parts=1):
    moments = Moments()
    for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
        moments.add(a, b)
    return moments.cka()


def test_cka_does_not_see_permuted_units_rotations_shifts_and_scale():
    x = random_features(0)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
    assert cka(x, x[:, [4, 2, 0, 1, 3]]) == pytest.approx(1, abs=1e-12)
    assert cka(x, 7 * x @ torch.from_numpy(rotation) - 2) == pytest.approx(1, abs=1e-12)
    assert cka(x, random_features(2)) < 0.3


def test_cka_of_orthogonal_features_is_0_and_of_half_shared_ones_is_known():
    """Of two equal, uncorrelated features one is shared: ‖K·L‖ = 1 and ‖K‖ = ‖L‖ = √2."""
    signs = ([1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1])
    a, b, c = (torch.tensor(one, dtype=torch.float64) for one in signs)
    assert cka(torch.stack([a], 1), torch.stack([b], 1)) == pytest.approx(0, abs=1e-15)
    assert cka(torch.stack([a, b], 1), torch.stack([a, c], 1)) == pytest.approx(0.5)


def test_cka_in_parts_is_that_of_the_whole_and_of_the_gram_matrices():
    x, y = random_features(3), random_features(3)[:, :3] ** 2
    assert cka(x, y, parts=4) == pytest.approx(cka(x, y), rel=1e-12)
    assert cka(x, y) == pytest.approx(gram_cka(x.numpy(), y.numpy()), rel=1e-10)


def test_cka_of_outputs_that_do_not_vary_is_not_known():
    x = random_features(4)
    assert math.isnan(cka(x, torch.ones_like(x)))
    assert math.isnan(Moments().cka())


def test_outputs_that_share_nothing_are_ln_2_apart():
    log = torch.tensor([[0.0, -1000.0], [0.0, -1000.0]], dtype=torch.float64)
    found = jensen_shannon(log, torch.stack([log[0], log[0].flip(0)]))
    np.testing.assert_allclose(found, [0, math.log(2)], atol=1e-15)


def compared(confidence, right, n=100):
    """Answers of two classes with one confidence, of which a share is right."""
    logit = math.log(confidence / (1 - confidence))
    logits = torch.tensor([[logit, 0.0]], dtype=torch.float64).expand(n, 2)
    labels = (torch.arange(n) >= round(right * n)).long()
    one = Comparison(2)
    one.add(labels, logits, logits)
    return one


@pytest.mark.parametrize(
    ("confidence", "right", "ece"), [(0.75, 0.75, 0), (0.75, 0.5, 0.25), (0.999, 0, 0.999)]
)
def test_a_network_is_calibrated_when_it_is_right_as_often_as_it_says(confidence, right, ece):
    found = compared(confidence, right)
    assert found.ece == pytest.approx(ece)
    assert found.error == pytest.approx(1 - right)


class Stuck(nn.Module):
    """Answers with its bias alone."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(x)


def test_a_cell_whose_weights_are_not_finite_says_so():
    eye = torch.eye(3)
    states = [
        {"head.weight": torch.full((3, 3), float("nan")), "head.bias": torch.zeros(3)},
        {"head.weight": torch.zeros(3, 3), "head.bias": torch.zeros(3)},
        {"head.weight": eye, "head.bias": torch.zeros(3)},
    ]
    found = lx.outputs(
        lx.open_stack(states, model=Stuck()),
        model=Stuck(),
        data=toy.one_hot_examples(),
        device="cpu",
        progress=False,
    )
    ((reason, *others),) = found["reason"].values.tolist()
    assert reason.startswith("NaN or infinite weights: 9 of head.weight.")
    assert others == ["", ""]
    assert np.isnan(found["js_divergence"].values[0]).tolist() == [True, False, False]
    assert np.isnan(found["cka"].values[0]).tolist() == [True, True, False]  # it does not vary


def test_ctrl_c_keeps_the_layers_that_are_finished(bundled, monkeypatch):
    original, groups = Evaluator.answers, []

    def stopped(self, replacements):
        groups.append(len(replacements))
        if len(groups) == 3:  # the trained network, then layer 1
            raise KeyboardInterrupt
        return original(self, replacements)

    monkeypatch.setattr(Evaluator, "answers", stopped)
    found = lx.outputs(bundled, epochs=[0], device="cpu", progress=False)
    assert found.attrs["complete"] == 0
    assert np.isfinite(found["cka"].values[:, 0]).tolist() == [True, False, False, False]
    assert found["reason"].values[1, 0] == "not measured: the sweep was stopped"


@pytest.mark.parametrize(("kind", "name"), [("layers", "layre1"), ("epochs", 7)])
def test_what_is_not_there_is_refused(bundled, kind, name):
    with pytest.raises(UnknownNameError, match=str(name)):
        lx.outputs(bundled, **{kind: [name]}, device="cpu")
