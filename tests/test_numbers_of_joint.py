"""The greedy order of joint resets where the layers that are left cannot be measured."""

from __future__ import annotations

import torch

import explorer as lx
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import Epoch
from explorer.engine.joint import find_order
from tests import toy
from tests.test_effective import Product


def test_an_order_ends_finished_where_no_layer_more_can_be_measured():
    """Alone each of the two is finite; together 10⁵⁰ is more than float32 holds."""
    eye = torch.eye(3)
    states = [
        {"first.weight": size * eye, "second.weight": size * eye, "idle.weight": eye}
        for size in (1e25, 1.0)
    ]
    stack = lx.open_stack(states, model=Product(), layers="fine")
    run = Evaluator(stack, model=Product(), data=toy.one_hot_examples(), device="cpu")
    *_, last = find_order(run, {"first": Epoch(0), "second": Epoch(0)}, 1.0)
    assert last.finished
    assert [step.layers for step in last.steps] == [("first",)]
    assert last.tried == last.to_try == 3
