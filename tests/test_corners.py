"""Every public function on networks, checkpoints and examples of which little can be said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import explorer as lx
from explorer.errors import ExplorerError
from explorer.ui.report import report_page
from tests import toy
from tests.test_panels import KINDS, Panels

pytestmark = pytest.mark.filterwarnings("ignore::explorer.errors.NumbersWarning")


class Small(nn.Module):
    """One layer."""

    def __init__(self, classes=3):
        super().__init__()
        self.only = nn.Linear(4, classes)

    def forward(self, x):
        return self.only(x)


class Binary(Small):
    """One layer with one logit: whatever is put back, the label is the same."""

    def __init__(self):
        super().__init__(1)


def states(network, count=3, scale=1.0):
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        found.append({name: scale * tensor for name, tensor in network().state_dict().items()})
    return found


def rows(classes=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(20, 4, generator=generator), torch.arange(20) % classes


def convolved(change):
    """The small convolutional network, its labels changed, given what it predicts."""
    network, (inputs, truth) = toy.ConvNet(), toy.conv_examples(40)
    network.load_state_dict(toy.conv_states(3)[-1])
    with torch.inference_mode():
        return inputs, change(network.eval()(inputs).argmax(1), truth)


def broken(at):
    found = states(Small)
    found[at] = {name: tensor * float("inf") for name, tensor in found[at].items()}
    return found


CORNERS = {
    "worse than chance": lambda: (
        toy.ConvNet,
        toy.conv_states(3),
        convolved(lambda found, _: (found + 1) % 3),
    ),
    "always right": lambda: (toy.ConvNet, toy.conv_states(3), convolved(lambda found, _: found)),
    "one class in the labels": lambda: (
        toy.ConvNet,
        toy.conv_states(3),
        convolved(lambda _, truth: 0 * truth),
    ),
    "one example, wrong": lambda: (
        toy.ConvNet,
        toy.conv_states(3),
        tuple(part[:1] for part in convolved(lambda found, _: (found + 1) % 3)),
    ),
    "one logit": lambda: (Binary, states(Binary), rows(classes=1)),
    "one layer": lambda: (Small, states(Small), rows()),
    "two checkpoints": lambda: (Small, states(Small, 2), rows()),
    "one checkpoint": lambda: (Small, states(Small, 1), rows()),
    "equal checkpoints": lambda: (Small, [states(Small)[0] for _ in range(3)], rows()),
    "all zeros": lambda: (Small, states(Small, scale=0.0), rows()),
    "huge weights": lambda: (Small, states(Small, scale=1e20), rows()),
    "an infinite beginning": lambda: (Small, broken(0), rows()),
    "an infinite end": lambda: (Small, broken(-1), rows()),
}
"""Name → class of network, its checkpoints, test examples."""

MEASURES = {
    "sweep": lx.sweep,
    "screen": lambda stack, **o: lx.sweep(stack, screen=True, **o),
    "tolerance": lambda stack, **o: lx.sweep(stack, tolerance=0.1, **o),
    "verdicts": lambda stack, **o: lx.verdicts(lx.sweep(stack, **o)),
    "effective_parameters": lambda stack, **o: lx.effective_parameters(stack, draws=1, **o),
    "reset_order": lx.reset_order,
    "paths": lx.paths,
    "outputs": lx.outputs,
    "criticality": lx.criticality,
    "compare": lambda stack, **o: lx.compare({"one": stack, "other": stack}, **o),
}


@pytest.mark.parametrize("corner", CORNERS)
def test_what_can_be_measured_is_and_the_rest_is_a_clear_error(corner):
    network, checkpoints, data = CORNERS[corner]()
    stack = lx.open_stack(checkpoints, model=network())
    refused = set()
    for name, measure in MEASURES.items():
        try:
            found = measure(stack, model=network(), data=data, device="cpu", progress=False)
            assert found._repr_html_()
            assert repr(found)
        except ExplorerError:
            refused.add(name)
    assert refused == REFUSED.get(corner, set())


REFUSED = {
    "an infinite beginning": {"effective_parameters", "reset_order"},
    "an infinite end": {"effective_parameters", "reset_order", "criticality"},
}
"""What needs finite weights; everything else marks what it cannot measure."""


FIRST = ("worse than chance", "one example, wrong", "one checkpoint", "an infinite end")
"""Corners that the explorer is always shown; the others take a minute more."""


@pytest.mark.parametrize(
    "corner",
    [*FIRST, *(pytest.param(c, marks=pytest.mark.slow) for c in CORNERS if c not in FIRST)],
)
def test_the_explorer_shows_what_it_can_and_no_thread_of_it_fails(corner, caplog):
    network, checkpoints, data = CORNERS[corner]()
    bench = Panels(checkpoints, data, network=network)
    bench.shown.controls.sweep.click()
    assert bench.session.wait_until_idle(60)
    bench.shown.order.find.click()
    assert bench.session.wait_until_idle(60)
    for kind in KINDS:
        bench.measured(kind)
    for threshold in range(len(bench.shown.shown.threshold.options)):
        bench.shown.shown.threshold.index = threshold
    assert report_page(bench.explorer.results, lx.distances(bench.stack, model=network()))
    bench.explorer.close()
    raised = {record.exc_info[0] for record in caplog.records if record.exc_info}
    assert [error for error in raised if not issubclass(error, ExplorerError)] == []
    assert bool(raised) == (corner in REFUSED)
