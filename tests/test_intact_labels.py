"""Labels of the intact network where its pass is in lower precision, too: those of float32."""

from __future__ import annotations

import pytest
import torch

import explorer as lx
from explorer.engine import counting
from explorer.engine import screen as screen_module
from explorer.engine.counting import Counting
from explorer.engine.evaluator import Evaluator
from explorer.engine.intact_labels import IntactLabels
from explorer.engine.interventions import Intervention
from explorer.engine.replay import Replay
from explorer.engine.screen import error_to_go_by
from explorer.weights.stack import epoch_numbers, layer_names
from tests import toy

INTACT = Intervention(())


@pytest.fixture(autouse=True)
def bfloat16(monkeypatch):
    """Have the processor screen in bfloat16, fast or not."""
    monkeypatch.setattr("explorer.engine.execution.low_precision", lambda _device: torch.bfloat16)


@pytest.fixture
def walks(monkeypatch):
    """Per walk along the intact pass whether it is in lower precision, and goes on to the end."""
    found = []
    run = Replay.run

    def noted(self, inputs, prepared, intact, kept=None, *, low=False):
        if self.low_dtype is not None:  # not the checks
            found.append((low, intact))
        return run(self, inputs, prepared, intact, kept, low=low)

    monkeypatch.setattr(Replay, "run", noted)
    return found


def counts(estimate):
    return estimate.errors, estimate.agreements, estimate.turned_wrong, estimate.turned_right


def clicks(stack):
    layers = layer_names(stack)
    single = [lx.reinitialise(layer, e) for layer in layers for e in epoch_numbers(stack)[:3]]
    return [INTACT, *single, lx.reinitialise(layers, 1), lx.rerandomise(layers[0], 0)]


def test_clicks_begin_with_an_intact_pass_in_lower_precision(bundled, walks):
    exact, run = Evaluator(bundled, device="cpu"), Evaluator(bundled, device="cpu", screen=True)
    walks.clear()  # those of making ready
    for click in clicks(bundled):
        found, expected = run.result(click), exact.result(click)
        assert counts(found) == counts(expected), str(click)
        assert found.loss == pytest.approx(expected.loss, rel=0.02)
        assert found.loss != expected.loss
    assert {low for low, _ in walks} == {True}
    assert torch.equal(run._counting.intact(), exact._counting.intact())


def test_without_its_checks_the_intact_network_gets_other_labels(bundled, monkeypatch):
    """The test above can fail."""
    exact = Evaluator(bundled, device="cpu")
    monkeypatch.setattr(screen_module, "SAFETY", 0.0)
    run = Evaluator(bundled, device="cpu", screen=True)
    for one in (exact, run):
        one.result(lx.reinitialise("layer4", 8))
    assert not torch.equal(run._counting.intact(), exact._counting.intact())


def test_cells_of_several_layers_read_an_intact_pass_in_float32(bundled, walks):
    run = Evaluator(bundled, device="cpu", screen=True)
    several = [run.network.replacement(lx.reinitialise(layer, 0)) for layer in ("layer1", "layer2")]
    walks.clear()
    *_, exact = run.count([{}, *several])
    assert not any(low for low, _ in walks)
    assert exact[0].loss == Evaluator(bundled, device="cpu").result(INTACT).loss


def test_labels_that_many_logits_would_have_to_wait_for_are_learnt_once(bundled, monkeypatch):
    click = lx.reinitialise("layer2", 0)
    monkeypatch.setattr(counting, "CHUNK_BYTES", 1)
    settled, settle = [], IntactLabels._settle
    monkeypatch.setattr(
        IntactLabels, "_settle", lambda *given: settled.append(given) or settle(*given)
    )
    run = Evaluator(bundled, device="cpu", batch_size=600, screen=True)
    assert counts(run.result(click)) == counts(Evaluator(bundled, device="cpu").result(click))
    assert settled == []  # float32 has given them already


def test_cells_of_one_layer_of_which_one_is_the_trained_network_s_own(bundled, walks):
    run = Evaluator(bundled, device="cpu", screen=True)
    cell = run.network.replacement(lx.reinitialise("layer3", 0))
    walks.clear()
    *_, found = run.count([{}, cell])
    assert all(low for low, _ in walks)
    *_, exact = Evaluator(bundled, device="cpu").count([{}, cell])
    assert list(map(counts, found)) == list(map(counts, exact))


def test_with_a_tolerance_they_read_one_in_lower_precision(bundled, walks):
    run = Evaluator(bundled, device="cpu", screen=True)
    several = [run.network.replacement(lx.reinitialise(layer, 0)) for layer in ("layer1", "layer2")]
    walks.clear()
    *_, found = run.count([{}, *several], tolerance=0.02)
    assert all(low for low, _ in walks)
    *_, exact = Evaluator(bundled, device="cpu").count([{}, *several], tolerance=0.02)
    assert list(map(counts, found)) == list(map(counts, exact))


def test_what_is_kept_for_the_next_click_is_kept_in_lower_precision(bundled):
    run = Evaluator(bundled, device="cpu", screen=True)
    run.result(lx.reinitialise("layer4", 0))
    kept = run._counting.execution.kept
    tensors = kept.slice(0, low=True).known.values()
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    assert kept.slice(0).known == {}


def test_the_inputs_are_not_kept_in_lower_precision(bundled):
    run = Evaluator(bundled, device="cpu", screen=True)
    run.result(lx.reinitialise("layer1", 0))
    assert run._counting.execution.kept._bytes == 0


def test_rounding_in_lower_precision_is_not_taken_for_that_of_a_replay(bundled, monkeypatch):
    """The plain pass would be run for every slice in which a margin is thin."""
    run = Evaluator(bundled, device="cpu", screen=True)
    execution, sizes = run._counting.execution, []
    execution._difference, plain = 1e-4, execution.plain
    monkeypatch.setattr(execution, "plain", lambda x, r: sizes.append(len(x)) or plain(x, r))
    click = lx.reinitialise("layer2", 0)
    assert counts(run.result(click)) == counts(Evaluator(bundled, device="cpu").result(click))
    assert all(size <= execution.check_size for size in sizes)


def test_an_intervention_that_is_counted_again_reads_float32(bundled, walks):
    """Nothing settles a label where all logits are the same."""
    run = Evaluator(bundled, device="cpu", screen=True)
    flat = {name: torch.zeros(s) for name, s in (("layer4.weight", (10, 256)), ("layer4.bias", 10))}
    walks.clear()
    *_, (last,) = run.count([flat])
    *_, (exact,) = Evaluator(bundled, device="cpu").count([flat])
    assert counts(last) == counts(exact)
    assert last.loss == exact.loss
    assert [low for low, _ in walks[:3]] == [True, False, False]


def test_an_intact_network_of_thin_margins_is_run_in_float32(walks):
    states = toy.switch_states()
    for name, tensor in states[-1].items():
        if name.startswith("second"):
            tensor.zero_()
    stack = lx.open_stack(states, model=toy.Switch())
    data = toy.one_hot_examples()
    run = Evaluator(stack, model=toy.Switch(), data=data, device="cpu", screen=True)
    assert run.screen == "bfloat16"
    walks.clear()
    exact = Evaluator(stack, model=toy.Switch(), data=data, device="cpu")
    for click in (lx.reinitialise("first", 0), lx.reinitialise("second", 0)):
        assert counts(run.result(click)) == counts(exact.result(click))
    assert not any(low for low, _ in walks)


def test_too_many_open_labels_leave_no_error_to_go_by():
    exact = torch.tensor([[2.0, 0.0, -2.0]]).repeat(8, 1)
    low = exact + torch.tensor([[0.1, 0.0, 0.0]])
    assert error_to_go_by(low, exact) == pytest.approx(0.1 / 2.1, rel=0.1)
    low[:2, 1] = low[:2, 0]
    assert error_to_go_by(low, low) == 0.0  # a quarter
    low[2, 1] = low[2, 0]
    assert error_to_go_by(low, low) is None
    assert error_to_go_by(torch.full((8, 3), torch.inf), exact) is None


class Slices:
    """Logits of four slices of two examples, as an Execution gives them in either precision."""

    batch_size, check_size, first_logits = 2, 2, None

    def __init__(self, low, exact, error):
        self.low, self.logits, self.intact_error = torch.tensor(low), torch.tensor(exact), error
        self.decided = []

    def prepare_check(self, replacement):
        return replacement

    def exact(self, inputs, checks):
        assert checks == [({}, {})]
        self.decided += inputs.tolist()
        return self.logits[inputs].unsqueeze(0)

    def run(self, inputs, prepared, intact):
        yield -1, self.logits[inputs]

    def labels(self):
        numbers = torch.arange(len(self.low))
        return IntactLabels(self, numbers, torch.zeros_like(numbers), "numbers")


WIDE, THIN = [1.0, 0.0, -1.0], [1.0, 0.9, -1.9]


def learnt(slices):
    """Labels after every slice, and how often earlier ones have changed."""
    labels, found = slices.labels(), []
    for start in range(0, len(slices.low), 2):
        logits = slices.low if labels.low else slices.logits
        labels.learn(logits[start : start + 2], start, low=labels.low)
        found.append((labels.predicted[: start + 2].tolist(), labels.changes))
    return labels, found


def test_only_thin_margins_are_decided_by_float32():
    other = [0.9, 1.0, -1.9]
    slices = Slices([WIDE, THIN, THIN, WIDE], [WIDE, other, other, WIDE], error=0.04)
    labels, found = learnt(slices)
    assert slices.decided == [1, 2]
    assert found == [([0, 1], 0), ([0, 1, 1, 0], 0)]
    assert labels.low
    assert 0 in labels
    assert 2 in labels
    assert 4 not in labels


def test_an_error_that_grows_opens_earlier_labels_again():
    """The margin of 0.053 is wide for an error of 0.017, and thin once 0.03 has been seen."""
    thinner = [1.0, 0.97, -1.97]
    low = [WIDE, THIN, WIDE, thinner]
    exact = [WIDE, [0.97, 0.975, -1.945], WIDE, [1.0, 0.94, -1.94]]
    slices = Slices(low, exact, error=0.017)
    labels, found = learnt(slices)
    assert slices.decided == [3, 1]
    assert found == [([0, 0], 0), ([0, 1, 0, 0], 1)]
    assert labels.low


def test_an_error_beyond_what_was_remembered_ends_the_screen():
    """Labels that were never open are found out, too."""
    low = [WIDE, WIDE, WIDE, THIN, WIDE, WIDE]
    exact = [WIDE, [0.0, 1.0, -1.0], WIDE, [0.0, 0.9, -0.9], [0.0, 1.0, -1.0], WIDE]
    labels, found = learnt(Slices(low, exact, error=0.04))
    assert found[:2] == [([0, 0], 0), ([0, 1, 0, 1], 1)]
    assert not labels.low
    assert labels.all().tolist() == [0, 1, 0, 1, 1, 0]


def test_giving_up_in_the_first_slice_changes_nothing_that_was_known():
    labels, found = learnt(Slices([WIDE, THIN], [[0.0, 1.0, -1.0], [0.0, 9.0, -9.0]], error=0.04))
    assert found == [([1, 1], 0)]
    assert not labels.low


def test_interventions_are_counted_again_when_intact_labels_change(bundled, monkeypatch):
    """A label that was wrong while three slices were counted, in the first and in the second."""
    learn = IntactLabels.learn

    def late(self, logits, start, **options):
        learn(self, logits, start, **options)
        if start == self._size:
            self.predicted[[3, start + 3]] += 1
        if start == 3 * self._size:
            self.predicted[[3, self._size + 3]] -= 1
            self.changes += 1

    click = lx.reinitialise("layer1", 0)
    exact = Evaluator(bundled, device="cpu", batch_size=128).result(click)
    again, recount = [], Counting._recount
    monkeypatch.setattr(IntactLabels, "learn", late)
    monkeypatch.setattr(Counting, "_recount", lambda *a: again.append(a) or recount(*a))
    run = Evaluator(bundled, device="cpu", batch_size=128, screen=True)
    found = list(run.estimates(click))
    assert counts(found[-1]) == counts(exact)
    assert found[-1].loss == pytest.approx(exact.loss, rel=1e-6)  # in float32 from there on
    assert len(again) == 1


def test_giving_up_in_the_middle_gives_the_counts_of_float32(bundled, monkeypatch, walks):
    click = lx.reinitialise("layer2", 0)
    exact = Evaluator(bundled, device="cpu", batch_size=128)
    expected = exact.result(click)
    run = Evaluator(bundled, device="cpu", batch_size=128, screen=True)
    stream = run.estimates(click)
    next(stream), next(stream)
    run._counting._intact._watch.bound = 0.0  # nothing more can be trusted
    run._counting._intact._watch.error = 1.0
    walks.clear()
    *_, found = stream
    assert counts(found) == counts(expected)
    assert not run._counting._intact.low
    assert (False, True) in walks  # the labels come from float32 now
    walks.clear()  # but cells do not: a resumed sweep would not know that they should
    assert counts(run.result(lx.reinitialise("layer3", 0))) == counts(
        exact.result(lx.reinitialise("layer3", 0))
    )
    assert {low for low, _ in walks} == {True}
    assert torch.equal(run._counting.intact(), exact._counting.intact())
