"""How far outputs are from each other: formulas written out, invariances, and a copied network."""

from __future__ import annotations

import copy
import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from torch import nn
from torch.utils.data import TensorDataset

import explorer as lx
from explorer.data.datasets import load_test_set
from explorer.engine.evaluator import Evaluator
from explorer.engine.outputs import outputs_parts
from explorer.engine.similarity import Comparison, Gram, Moments, Slice, _spread, jensen_shannon
from explorer.errors import UnknownNameError, UsageError
from explorer.weights.families.known import build_network
from explorer.weights.stack import read_epoch
from tests import toy
from tests.members import examples, initial_state


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
    for name, expected in (("softmax_cosine", 1), ("js_divergence", 0), ("cka", 1)):
        assert (trained[name].values == expected).all(), name  # not by rounding: bit for bit
    assert (trained["penultimate_cka"].values == 1).all()
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


def test_classes_have_the_names_that_the_data_gives_them():
    data = TensorDataset(*toy.one_hot_examples())
    data.classes = ("left", "right", "none")
    stack = lx.open_stack(toy.switch_states(), model=toy.Switch())
    found = lx.outputs(stack, model=toy.Switch(), data=data, draws=0, device="cpu", progress=False)
    assert found["class"].values.tolist() == ["left", "right", "none"]


def test_the_damage_to_a_class_of_one_example_is_all_or_nothing():
    inputs, labels = toy.one_hot_examples()
    first = [labels.tolist().index(one) for one in range(3)]
    data = inputs[first], labels[first]
    stack = lx.open_stack(toy.switch_states(), model=toy.Switch())
    found = lx.outputs(stack, model=toy.Switch(), data=data, draws=0, device="cpu", progress=False)
    assert found["class_examples"].values.tolist() == [1, 1, 1]
    assert found["class_damage"].values[0, 0].tolist() == [0, 1, 1]


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


# --- inside the network ---------------------------------------------------------------------------


class Watched(nn.Module):
    """ReLU units before a linear head, and a second kind of unit that stays near zero."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.gate = nn.Linear(4, 3)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        hidden = torch.relu(self.body(x))
        return self.head(torch.nn.functional.gelu(self.gate(hidden)))


def watched_state(push, seed=0):
    """Units that see one input each; a push of −9 keeps the last two of the four below 0."""
    generator = torch.Generator().manual_seed(seed)
    body = torch.cat([torch.eye(3), torch.ones(1, 3)])
    return {
        "body.weight": body,
        "body.bias": torch.tensor([0.0, 0.0, push, push]),
        "gate.weight": torch.eye(4)[:3] + 0.1 * torch.rand(3, 4, generator=generator),
        "gate.bias": torch.zeros(3),
        "head.weight": torch.randn(3, 3, generator=generator),
        "head.bias": torch.zeros(3),
    }


def watched(states, **options):
    return lx.outputs(
        lx.open_stack(states, model=Watched()),
        model=Watched(),
        data=toy.one_hot_examples(),
        device="cpu",
        progress=False,
        **options,
    )


def test_units_that_nothing_activates_are_counted_whatever_their_weights_are():
    """At epoch 0 two of four ReLU units are below 0 for every input; of 7 units in all: 2/7."""
    found = watched([watched_state(-9.0), watched_state(1.0)])
    assert found["activation"].values.tolist() == ["body", "gate"]
    assert found["of_layer"].values.tolist() == ["body", "gate"]
    assert found["units"].values.tolist() == [4, 3]
    assert found["intact_never_active"].values.tolist() == [0, 0]
    by_activation = found["never_active_by_activation"].sel(epoch=0)
    assert by_activation.sel(layer="body").values.tolist() == [0.5, 0]
    assert found["never_active"].sel(layer="body", epoch=0) == pytest.approx(2 / 7)
    assert by_activation.sel(layer="head").values.tolist() == [0, 0]
    assert (found["never_active"].sel(epoch=1) == 0).all()


def test_a_gelu_unit_counts_as_active_only_above_0():
    """Below 0 a GELU is not 0, and its unit passes on next to nothing all the same."""
    low = {**watched_state(1.0), "gate.bias": torch.tensor([-9.0, 0.0, 0.0])}
    found = watched([low, watched_state(1.0)])
    share = found["never_active_by_activation"].sel(layer="gate", epoch=0)
    assert share.values.tolist() == pytest.approx([0, 1 / 3])


def test_penultimate_values_do_not_move_when_the_head_does_and_are_blind_to_rotations():
    """Units in another order are the same geometry: CKA 1, whatever the head makes of them."""
    order = [2, 0, 1]
    final = watched_state(1.0)
    moved = {name: final[name][order] for name in ("gate.weight", "gate.bias")}
    other_head = {"head.weight": watched_state(1.0, seed=7)["head.weight"]}
    found = watched([{**final, **moved, **other_head}, final])
    at = found.sel(epoch=0)
    assert at["penultimate_cka"].sel(layer="head") == pytest.approx(1, abs=1e-12)
    assert at["penultimate_cka"].sel(layer="gate") == pytest.approx(1, abs=1e-6)
    assert at["cka"].sel(layer="head") < 0.999
    assert at["cka"].sel(layer="gate") < 0.999


def hooked(network, state, inputs, modules, head):
    """What a plain copy's modules give, and what its head reads, by hooks."""
    twin = copy.deepcopy(network)
    twin.load_state_dict(state)
    twin.eval()
    seen = {}
    for name in modules:
        twin.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.__setitem__(name, torch.relu(out))
        )
    twin.get_submodule(head).register_forward_pre_hook(
        lambda _m, given: seen.__setitem__("head", given[0])
    )
    with torch.no_grad():
        twin(inputs)
    return seen


def test_what_happens_inside_is_what_hooks_on_a_copied_network_see(bundled, found):
    inputs = load_test_set("digits28").inputs
    network = build_network(bundled.attrs["family"], bundled.attrs["sizes"])
    final, early = (
        {name: torch.from_numpy(array) for name, array in read_epoch(bundled, at).items()}
        for at in (100, 0)
    )
    layers = ["layer1", "layer2", "layer3"]
    intact = hooked(network, final, inputs, layers, "layer4")
    for layer in ("layer1", "layer3"):
        own = {name: tensor for name, tensor in early.items() if name.startswith(layer)}
        patched = hooked(network, {**final, **own}, inputs, layers, "layer4")
        expected = [float((patched[one] <= 0).all(0).float().mean()) for one in layers]
        cell = found.sel(layer=layer, epoch=0)
        assert cell["never_active_by_activation"].values.tolist() == pytest.approx(expected)
        x, y = (seen["head"].double().numpy() for seen in (intact, patched))
        assert cell["penultimate_cka"].item() == pytest.approx(gram_cka(x, y), rel=1e-5)
    dead = [float((intact[one] <= 0).all(0).float().mean()) for one in layers]
    assert found["intact_never_active"].values.tolist() == pytest.approx(dead)
    assert dead[0] > 0  # one unit of 256, so that there is something to find


MANY_UNITS = ["vgg11", "resnet18", "vit", "transformer-tied"]


@pytest.mark.parametrize("member", MANY_UNITS)
def test_every_family_is_watched_where_its_units_are(member):
    network, final = initial_state(member)
    stack = lx.open_stack([initial_state(member, 1)[1], final], model=network)
    inputs = examples(member, 5)
    data = (inputs, inputs) if member.startswith("transformer") else inputs.numpy()
    last = lx.outputs(
        stack, model=network, data=data, epochs=[0], device="cpu", batch_size=3, progress=False
    )
    counted = {"relu": nn.ReLU, "gelu": nn.GELU}
    modules = [m for m in network.modules() if isinstance(m, tuple(counted.values()))]
    seen = []
    for module in modules:
        module.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        network.load_state_dict(final)
        network(inputs)
    assert seen
    assert last.sizes["activation"] == len(seen)
    for k, out in enumerate(seen):
        images = member.startswith(("vgg", "resnet")) and out.ndim == 4
        units = out.movedim(1, -1) if images else out
        never = (units.reshape(-1, units.shape[-1]) <= 0).all(0).float().mean()
        assert last["intact_never_active"].values[k] == pytest.approx(float(never))
        assert last["units"].values[k] == units.shape[-1]
    assert np.isfinite(last["penultimate_cka"].values).all()
    order = [stack.attrs["layers"].index(layer) for layer in last["of_layer"].values]
    assert order == sorted(order)  # that of a skip's end is the block's, not the skip's source


class Unrecorded(nn.Module):
    """A network whose pass depends on its data, which cannot be recorded."""

    def __init__(self):
        super().__init__()
        self.net = Watched()

    def forward(self, x):
        return self.net(x) if bool(x.isfinite().all()) else x


def test_a_pass_that_cannot_be_recorded_says_that_nothing_is_known_of_its_inside():
    states = [{f"net.{name}": t for name, t in watched_state(push).items()} for push in (-9.0, 1.0)]
    found = lx.outputs(
        lx.open_stack(states, model=Unrecorded()),
        model=Unrecorded(),
        data=toy.one_hot_examples(),
        device="cpu",
        progress=False,
    )
    assert found.attrs["inside"] == "the engine could not record the network's pass"
    assert found[["penultimate_cka", "never_active"]].isnull().all().to_array().all()
    assert np.isfinite(found["cka"].values).all()
    assert "activation" not in found.dims


def test_without_memory_to_look_inside_the_outputs_are_compared_all_the_same(monkeypatch):
    original = Evaluator.answers

    enough_for = []

    def short(self, replacements, watch=None, intact=True):
        if watch is not None and len(replacements) > enough_for[-1]:
            raise MemoryError("for this test")
        return original(self, replacements, watch, intact)

    monkeypatch.setattr(Evaluator, "answers", short)
    unlike = [[True, False], [False, False], [False, False]]  # the one cell that differs
    for most, unknown in ((0, unlike), (-1, [[True, True]] * 3)):  # of interventions, 0: none
        enough_for.append(most)
        found = watched([watched_state(-9.0), watched_state(1.0)])
        assert (found["reason"] == "").all()
        assert np.isfinite(found["js_divergence"]).all()
        assert np.isnan(found["penultimate_cka"].values).tolist() == unknown


def test_without_memory_at_all_every_cell_says_so(monkeypatch):
    def none(self, replacements, watch=None, intact=True):
        raise MemoryError("for this test")

    monkeypatch.setattr(Evaluator, "answers", none)
    found = watched([watched_state(-9.0), watched_state(1.0)])
    reasons = set(found["reason"].values.ravel().tolist())
    assert reasons == {"the trained network: out of memory on CPU"}
    assert found[["js_divergence", "error"]].isnull().all().to_array().all()


def test_what_is_not_kept_of_the_trained_network_is_computed_anew(bundled, found, monkeypatch):
    from explorer.engine import compared as module

    asked, original = [], Evaluator.answers

    def noted(self, replacements, watch=None, intact=True):
        asked.append(intact)
        return original(self, replacements, watch, intact)

    monkeypatch.setattr(Evaluator, "answers", noted)
    for room, expected in ((module.REMEMBERED, [True, False]), (1000, [True, True])):
        monkeypatch.setattr(module, "REMEMBERED", room)
        again = lx.outputs(bundled, epochs=[0], layers=["layer2"], device="cpu", progress=False)
        same = found.sel(layer=["layer2"], epoch=[0])
        for name in ("js_divergence", "softmax_cosine", "cka", "penultimate_cka", "never_active"):
            np.testing.assert_array_equal(again[name], same[name], err_msg=name)
        assert asked == expected
        asked.clear()


# --- closed forms ---------------------------------------------------------------------------------


def random_features(seed, n=60, classes=5):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, classes)) + 3)


def cka(x, y, parts=1):
    moments = Moments(Gram())
    for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
        moments.x.add(a)
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
    assert math.isnan(Moments(Gram()).cka())


def test_outputs_that_share_nothing_are_ln_2_apart():
    log = torch.tensor([[0.0, -1000.0], [0.0, -1000.0]], dtype=torch.float64)
    found = jensen_shannon(log, torch.stack([log[0], log[0].flip(0)]))
    np.testing.assert_allclose(found, [0, math.log(2)], atol=1e-15)


def test_the_divergence_is_that_of_60_digits_however_near_or_far_the_outputs_are():
    """Near 0 the logarithms' difference has no digits left: 1e-17 for 1e-19, and signs."""
    generator = np.random.default_rng(8)
    logits = torch.from_numpy(generator.normal(size=(9, 5)))
    shifts = torch.tensor([0, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3, 0.1, 3, 400], dtype=torch.float64)
    moved = logits + shifts.unsqueeze(1) * torch.from_numpy(generator.normal(size=(9, 5)))
    log_p, log_q = logits.log_softmax(1), moved.log_softmax(1)
    expected = []
    with localcontext(prec=60):
        for a, b in zip(log_p.tolist(), log_q.tolist(), strict=True):
            pairs = [(Decimal(x).exp(), Decimal(y).exp()) for x, y in zip(a, b, strict=True)]
            halves = [p * (2 * p / (p + q)).ln() + q * (2 * q / (p + q)).ln() for p, q in pairs]
            expected.append(float(sum(halves) / 2))
    found = jensen_shannon(log_p, log_q)
    assert found[0] == 0
    assert (found >= 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=0)


def test_a_small_share_is_spread_to_the_last_digit():
    """Σ t²ᵏ / (k (2k − 1)), in fractions."""
    for t in (1e-8, 3e-4, 9.9e-4):
        series = sum(Fraction(t) ** (2 * k) / (k * (2 * k - 1)) for k in range(1, 8))
        found = float(_spread(torch.tensor(t, dtype=torch.float64)))
        assert found == pytest.approx(float(series), rel=1e-15, abs=0)


def compared(confidence, right, n=100):
    """Answers of two classes with one confidence, of which a share is right."""
    logit = math.log(confidence / (1 - confidence))
    logits = torch.tensor([[logit, 0.0]], dtype=torch.float64).expand(n, 2)
    labels = (torch.arange(n) >= round(right * n)).long()
    one = Comparison(2)
    one.add(Slice.of(labels, logits))
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

    def stopped(self, replacements, watch=None, intact=True):
        groups.append(len(replacements))
        if len(groups) == 3:  # the trained network, then layer 1
            raise KeyboardInterrupt
        return original(self, replacements, watch, intact)

    monkeypatch.setattr(Evaluator, "answers", stopped)
    found = lx.outputs(bundled, epochs=[0], device="cpu", progress=False)
    assert found.attrs["complete"] == 0
    assert np.isfinite(found["cka"].values[:, 0]).tolist() == [True, False, False, False]
    assert found["reason"].values[1, 0] == "not measured yet"


@pytest.mark.parametrize(("kind", "name"), [("layers", "layre1"), ("epochs", 7)])
def test_what_is_not_there_is_refused(bundled, kind, name):
    with pytest.raises(UnknownNameError, match=str(name)):
        lx.outputs(bundled, **{kind: [name]}, device="cpu")
    with pytest.raises(UsageError, match=rf"{kind} is {name!r}(.|\n)*Pass \[{name!r}\]"):
        lx.outputs(bundled, **{kind: name}, device="cpu")


@pytest.mark.parametrize("click_first", [True, False])
def test_what_a_click_keeps_and_what_is_kept_here_are_not_mixed_up(click_first):
    """The watched pass has other values under the numbers of the pass that a click runs."""
    stack, layer = lx.open_stack("vit-digits"), "layer6.mlp"
    alone = Evaluator(stack, device="cpu")
    click = lx.reinitialise(layer, 0)
    expected = alone.result(click), _last_outputs(Evaluator(stack, device="cpu"), layer)
    run = Evaluator(stack, device="cpu")
    if click_first:
        found = run.result(click), _last_outputs(run, layer)
    else:
        found = tuple(reversed((_last_outputs(run, layer), run.result(click))))
    assert found[0] == expected[0]
    xr.testing.assert_equal(found[1], expected[1])


def _last_outputs(run, layer):
    *_, last = outputs_parts(run, layers=[layer], epochs=[0])
    return last.dataset()
