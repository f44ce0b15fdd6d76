"""Tensors on their way to a GPU; the processor stands in for it."""

from __future__ import annotations

import torch

from explorer.engine.staging import ALIGNED, Staging


def test_tensors_arrive_as_they_were_whatever_their_shape_and_type():
    staging = Staging(torch.device("cpu"))
    sent = {
        "weight": torch.randn(3, 5, 2),
        "turned": torch.randn(4, 6).t(),
        "counter": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "double": torch.randn(2, dtype=torch.float64),
        "scalar": torch.tensor(1.5),
    }
    found = staging.moved(sent)
    assert list(found) == list(sent)
    for name, tensor in sent.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)


def test_each_tensor_begins_at_an_aligned_place():
    sent = {"a": torch.randn(1), "b": torch.randn(65), "c": torch.randn(3)}
    found = Staging(torch.device("cpu")).moved(sent)
    offsets = [tensor.storage_offset() for tensor in found.values()]
    assert offsets == [0, ALIGNED, 3 * ALIGNED]


def test_what_arrived_stays_when_the_next_is_sent():
    staging = Staging(torch.device("cpu"))
    first = staging.moved({"a": torch.ones(3)})
    larger = staging.moved({"a": torch.zeros(300)})
    smaller = staging.moved({"a": torch.full((2,), 5.0)})
    assert first["a"].tolist() == [1, 1, 1]
    assert not larger["a"].any()
    assert smaller["a"].tolist() == [5, 5]


def test_it_serves_inside_and_outside_of_inference_mode():
    staging = Staging(torch.device("cpu"))
    with torch.inference_mode():
        staging.moved({"a": torch.ones(3)})
    assert staging.moved({"a": torch.zeros(2)})["a"].tolist() == [0, 0]


def test_nothing_is_sent_of_nothing():
    assert Staging(torch.device("cpu")).moved({}) == {}
