"""The embedded digits, and data that users bring."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from explorer.data import datasets
from explorer.data.datasets import as_examples, load_test_set, load_training_set
from explorer.errors import DataError, UnknownNameError

HASHES = {
    "digits": "41d680d444488aaaf46c261d1bb0c56d9fe72047ee58a586327a9603f6ed482c",
    "digits28": "8a6e7a44cdafbcec5127b6db257db5c139b7f0c02ca32e8057531b6ee81519b9",
}


@pytest.mark.parametrize(("name", "count", "side"), [("digits", 360, 8), ("digits28", 1800, 28)])
def test_the_test_sets_have_their_documented_form(name, count, side):
    examples = load_test_set(name)
    assert examples.inputs.shape == (count, 1, side, side)
    assert examples.inputs.dtype == torch.float32
    assert sorted(examples.labels.unique().tolist()) == list(range(10))
    assert examples.content_hash == HASHES[name]


@pytest.mark.parametrize("name", ["digits", "digits28"])
def test_training_pixels_have_mean_0_and_deviation_1(name):
    inputs = load_training_set(name).inputs(torch.Generator().manual_seed(0))
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(inputs.std()) == pytest.approx(1, abs=1e-3)


def test_no_original_is_in_both_parts():
    test, train = datasets._split("test")[0], datasets._split("train")[0]
    assert (len(test), len(train)) == (360, 1437)
    seen = {image.tobytes() for image in train}
    assert sum(image.tobytes() in seen for image in test) == 0


def test_scaling_in_integers_equals_torchs_bilinear_interpolation():
    images = datasets._split("test")[0][:20]
    scaled = torch.from_numpy(datasets._scaled(images) / 100)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images).double().unsqueeze(1), size=(20, 20), mode="bilinear"
    ).squeeze(1)
    torch.testing.assert_close(scaled, expected)


def test_training_shifts_are_new_every_epoch_and_repeatable():
    training = load_training_set("digits28")
    first, again, other = (training.inputs(torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_shifts_reach_four_pixels_in_every_direction():
    inputs = load_training_set("digits28").inputs(torch.Generator().manual_seed(0))
    ink = (inputs > inputs.min()).any(0)[0]
    assert ink.any(0).sum() >= 27
    assert ink.any(1).sum() >= 27


def test_each_test_original_stands_at_five_shifts():
    examples = load_test_set("digits28")
    sums = examples.inputs.double().sum((1, 2, 3)).reshape(360, 5)
    torch.testing.assert_close(sums, sums[:, :1].expand(-1, 5))
    assert len({image.numpy().tobytes() for image in examples.inputs[:5]}) > 1


def test_chance_is_the_error_of_the_most_frequent_label():
    examples = as_examples((np.zeros((4, 2)), np.array([0, 1, 1, 1])))
    assert examples.chance_error == 0.25


def test_arrays_tensors_and_datasets_give_the_same_examples():
    inputs, labels = np.arange(6.0).reshape(3, 2), np.array([0, 1, 0])
    pair = as_examples((inputs, labels))
    tensors = as_examples((torch.from_numpy(inputs), torch.from_numpy(labels)))
    dataset = as_examples(TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels)))
    for other in (tensors, dataset):
        assert torch.equal(pair.inputs, other.inputs)
        assert pair.content_hash == other.content_hash
    assert as_examples(pair) is pair


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ((np.zeros((3, 2)), np.zeros(2, int)), r"shape \(3, 2\), labels \(2,\)"),
        ((np.zeros((3, 2)), np.zeros(3)), r"labels \(3,\) of torch.float64"),
        ((np.zeros((0, 2)), np.zeros(0, int)), r"at least one"),
        ((np.zeros((2, 2)), np.array([0, -1])), r"smallest label is -1"),
        (7, r"test data is a int"),
        ([torch.zeros(2)], r"1 items that are not all pairs"),
    ],
)
def test_what_is_not_labelled_examples_is_refused(data, match):
    with pytest.raises(DataError, match=match):
        as_examples(data)


@pytest.mark.parametrize("load", [load_test_set, load_training_set])
def test_an_unknown_dataset_is_refused_with_the_nearest_name(load):
    with pytest.raises(UnknownNameError, match=r"no dataset 'digit28'(.|\n)*'digits28'"):
        load("digit28")
