"""The search for effective parameters where a set of layers cannot be measured."""

from __future__ import annotations

import pytest
import torch

import explorer as lx
from explorer.errors import UsageError
from tests import toy
from tests.test_effective import Product


def test_a_set_that_cannot_be_measured_is_not_allowed_and_ends_no_search():
    """Alone each of the two is finite; together 10⁵⁰ is more than float32 holds."""
    eye = torch.eye(3)
    names = ("first.weight", "second.weight", "idle.weight")
    states = [
        dict(zip(names, (1e25 * eye, 1e25 * eye, eye), strict=True)),
        dict(zip(names, (eye, eye, eye), strict=True)),
    ]
    found = lx.effective_parameters(
        lx.open_stack(states, model=Product(), layers="fine"),
        model=Product(),
        data=toy.one_hot_examples(),
        device="cpu",
        progress=False,
    )
    assert found["alone_within"].values.all()
    assert found["effective_parameters"].item() == 9
    first, second, idle = found["reset"].values[0]
    assert idle
    assert first != second
    assert not found["one_by_one_within"].item()


def test_where_no_layer_can_be_measured_its_reason_is_said():
    """The layer itself is read, and finite; what it makes of the one before it is not."""
    eye = torch.eye(3)
    names = ("first.weight", "second.weight", "idle.weight")
    states = [
        dict(zip(names, (10 * eye, 3e38 * eye, eye), strict=True)),
        dict(zip(names, (10 * eye, eye, eye), strict=True)),
    ]
    with pytest.raises(UsageError, match=r"No layer can be measured: .*logits"):
        lx.effective_parameters(
            lx.open_stack(states, model=Product(), layers="fine"),
            model=Product(),
            data=toy.one_hot_examples(),
            layers=["second"],
            device="cpu",
            progress=False,
        )
