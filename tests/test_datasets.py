"""The embedded digits, and data that users bring."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from explorer.data import digits
from explorer.data.datasets import (
    as_examples,
    dataset_names,
    load_test_set,
    load_training_set,
)
from explorer.errors import DataError, UnknownNameError

CPU = torch.device("cpu")
SIDES = {"digits": 8, "digits16": 16, "digits28": 28, "digits32": 32}

HASHES = {
    "digits": "41d680d444488aaaf46c261d1bb0c56d9fe72047ee58a586327a9603f6ed482c",
    "digits16": "5433de896ba8246fe5f09f6f2843df183723198e0e42f24f55ab421a736cbfb8",
    "digits28": "8a6e7a44cdafbcec5127b6db257db5c139b7f0c02ca32e8057531b6ee81519b9",
    "digits32": "27482e095f0ec9e50e5552803c71cc9c66798717235b2227154ae9566aebe714",
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("name", "side"), SIDES.items())
def test_the_test_sets_have_their_documented_form(name, side):
    examples = load_test_set(name)
    assert examples.inputs.shape == (360 if name == "digits" else 1800, 1, side, side)
    assert examples.inputs.dtype == torch.float32
    assert sorted(examples.labels.unique().tolist()) == list(range(10))
    assert examples.content_hash == HASHES[name]
    assert examples.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


@pytest.mark.parametrize("name", SIDES)
def test_training_pixels_have_mean_0_and_deviation_1(name):
    inputs = torch.cat([x for x, _ in load_training_set(name).batches(500, generator(), CPU)])
    assert inputs.shape == (1437, 1, SIDES[name], SIDES[name])
    assert float(inputs.mean()) == pytest.approx(0, abs=1e-5)
    assert float(inputs.std()) == pytest.approx(1, abs=1e-3)


def test_no_original_is_in_both_parts():
    test, train = digits.split("test")[0], digits.split("train")[0]
    assert (len(test), len(train)) == (360, 1437)
    seen = {image.tobytes() for image in train}
    assert sum(image.tobytes() in seen for image in test) == 0


@pytest.mark.parametrize(("side", "unit"), [(8, 1), (12, 36), (20, 100), (24, 9)])
def test_scaling_in_integers_equals_torchs_bilinear_interpolation(side, unit):
    images = digits.split("test")[0][:20]
    scaled = torch.from_numpy(digits.scaled(images, side) / unit)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images).double().unsqueeze(1), size=(side, side), mode="bilinear"
    ).squeeze(1)
    torch.testing.assert_close(scaled, expected)


def test_framing_places_each_digit_at_its_own_shift():
    images = digits.split("test")[0][:50]
    shifts = np.random.RandomState(0).randint(0, 5, (50, 2))
    for image, canvas, (row, column) in zip(
        images, digits.framed(images, shifts, 12), shifts, strict=True
    ):
        assert np.array_equal(canvas[row : row + 8, column : column + 8], image)
        assert canvas.sum() == image.sum()


@pytest.mark.parametrize("name", ["digits16", "digits28", "digits32"])
def test_training_shifts_are_new_every_epoch_and_repeatable(name):
    training = load_training_set(name)
    first, again, other = (
        torch.cat([x for x, _ in training.batches(128, generator(s), CPU)]) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", SIDES)
def test_an_epoch_draws_the_shifts_and_then_the_order(name):
    # bundled stacks were trained so: another sequence would train other weights
    training, stream = load_training_set(name), generator(3)
    inputs = training.inputs(stream)
    order = torch.randperm(1437, generator=stream)
    batches = list(training.batches(128, generator(3), CPU))
    assert [len(labels) for _, labels in batches] == [128] * 11 + [29]
    for (seen, labels), chosen in zip(batches, order.split(128), strict=True):
        assert torch.equal(seen, inputs[chosen])
        assert torch.equal(labels, training.labels[chosen])


def test_shifts_of_digits28_are_drawn_in_one_piece():
    stream = generator(3)
    shifts = torch.randint(0, 9, (1437, 2), generator=stream)
    images = digits.scaled(digits.split("train")[0], 20)
    inputs = load_training_set("digits28").inputs(generator(3))
    darkest = inputs.min()
    for number in range(0, 1437, 100):
        row, column = shifts[number].tolist()
        frame = inputs[number, 0, row : row + 20, column : column + 20]
        assert torch.equal(frame > darkest, torch.from_numpy(images[number] > 0))


def test_the_plain_digits_take_nothing_from_the_generator():
    stream = generator(3)
    load_training_set("digits").inputs(stream)
    assert torch.equal(stream.get_state(), generator(3).get_state())


@pytest.mark.parametrize(("name", "shift"), [("digits16", 2), ("digits28", 4), ("digits32", 4)])
def test_shifts_reach_their_limit_in_every_direction(name, shift):
    inputs = load_training_set(name).inputs(generator())
    ink = (inputs > inputs.min()).any(0)[0]
    assert ink.any(0).sum() >= SIDES[name] - 1  # no digit reaches its left border
    assert ink.any(1).all()
    plain = load_training_set(name, augment=False).evaluation().inputs
    frame = (plain > plain.min()).any(0)[0]
    assert not frame[:shift].any()
    assert not frame[-shift:].any()
    assert frame[shift : SIDES[name] - shift].any(1).all()


def test_without_augmentation_every_epoch_shows_the_same_digits_in_the_middle():
    training = load_training_set("digits28", augment=False)
    plain = training.evaluation()
    for seed in (0, 1):
        order = torch.randperm(1437, generator=generator(seed))
        seen = torch.cat([x for x, _ in training.batches(128, generator(seed), CPU)])
        assert torch.equal(seen, plain.inputs[order])
    moved = load_training_set("digits28")
    assert torch.equal(moved.evaluation().inputs, plain.inputs)


def test_digits_with_random_labels_keep_them_over_epochs():
    true = load_training_set("digits").labels
    training = load_training_set("digits", label_noise=1.0, seed=2)
    assert float((training.labels != true).double().mean()) == pytest.approx(0.9, abs=0.03)
    assert torch.equal(training.labels, load_training_set("digits", label_noise=1.0, seed=2).labels)
    assert torch.equal(training.evaluation().labels, training.labels)


def test_the_training_error_can_be_taken_over_a_part():
    training = load_training_set("digits")
    some = training.evaluation(limit=100)
    assert len(some) == 100
    assert torch.equal(some.labels, training.labels[torch.arange(100) * 1437 // 100])


def test_each_test_original_stands_at_five_shifts():
    examples = load_test_set("digits28")
    sums = examples.inputs.double().sum((1, 2, 3)).reshape(360, 5)
    torch.testing.assert_close(sums, sums[:, :1].expand(-1, 5))
    assert len({image.numpy().tobytes() for image in examples.inputs[:5]}) > 1


@pytest.mark.parametrize("dtype", [torch.uint64, torch.int32, torch.bool])
def test_labels_may_be_whole_numbers_of_any_kind(dtype):
    found = as_examples((torch.eye(2), torch.tensor([1, 0]).to(dtype)))
    assert found.labels.tolist() == [1, 0]
    assert found.labels.dtype == torch.int64


def test_chance_is_known_whatever_number_a_class_has():
    """An array over all numbers of classes would need terabytes."""
    labels = torch.tensor([2**42, 2**42, 1])
    assert as_examples((torch.eye(3), labels)).chance_error == pytest.approx(1 / 3)


def test_chance_is_the_error_of_the_most_frequent_label():
    examples = as_examples((np.zeros((4, 2)), np.array([0, 1, 1, 1])))
    assert examples.chance_error == 0.25


def test_arrays_tensors_and_datasets_give_the_same_examples():
    inputs, labels = np.arange(6.0).reshape(3, 2), np.array([0, 1, 0])
    pair = as_examples((inputs, labels))
    tensors = as_examples((torch.from_numpy(inputs), torch.from_numpy(labels)))
    dataset = as_examples(TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels)))
    learnt = as_examples((torch.from_numpy(inputs).requires_grad_(), labels.tolist()))
    named = as_examples((xr.DataArray(inputs), pd.Series(labels)))
    for other in (tensors, dataset, learnt, named):
        assert torch.equal(pair.inputs, other.inputs)
        assert pair.content_hash == other.content_hash
    assert as_examples(pair) is pair


class Stream(IterableDataset):
    """Three examples, one after the other."""

    def __iter__(self):
        yield from ((torch.tensor([float(i)]), i) for i in range(3))


def test_a_dataset_that_can_only_be_iterated_is_read_once():
    examples = as_examples(Stream())
    assert examples.inputs.flatten().tolist() == [0.0, 1.0, 2.0]
    assert examples.labels.tolist() == [0, 1, 2]
    assert examples.name == "Stream"


def test_labels_may_belong_to_positions():
    tokens = np.arange(12).reshape(3, 4)
    pair = as_examples((tokens, tokens % 2))
    assert len(pair) == 3
    assert pair.inputs.dtype == pair.labels.dtype == torch.int64
    assert pair.labels.shape == (3, 4)
    assert pair.chance_error == 0.5
    dataset = as_examples(TensorDataset(torch.from_numpy(tokens), torch.from_numpy(tokens % 2)))
    assert dataset.content_hash == pair.content_hash


def nested(layout):
    with warnings.catch_warnings():  # torch's: the way they are made may change
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)


def sparse_csr():
    with warnings.catch_warnings():  # torch's: it is in beta state
        warnings.simplefilter("ignore")
        return torch.eye(2).to_sparse_csr()


def quantised():
    with warnings.catch_warnings():  # torch's: they move to another package
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ((np.zeros((3, 2)), np.zeros(2, int)), r"shape \(3, 2\), labels \(2,\)"),
        ((np.zeros((3, 2)), np.zeros(3)), r"labels \(3,\) of torch.float64"),
        ((np.zeros((0, 2)), np.zeros(0, int)), r"at least one"),
        ((np.zeros((2, 2)), np.array([0, -1])), r"smallest label is -1"),
        (7, r"test data is a int"),
        ([torch.zeros(2)], r"1 items that are not all pairs"),
        ((np.zeros((3, 4)), np.zeros((3, 5), int)), r"shape \(3, 4\), labels \(3, 5\)"),
        ((np.zeros((3, 4, 2)), np.zeros((3, 4, 2), int)), r"labels \(3, 4, 2\)"),
        ([(torch.zeros(2), 0), (torch.zeros(3), 1)], r"inputs .* do not stack: Tensor \(2,\), "),
        ([("picture", 0)], r"inputs of the dataset list do not stack: str"),
        ([(torch.zeros(2), "cat")], r"labels of the dataset list do not stack: str"),
        (
            (np.zeros((2, 2)), np.array(["cat", "dog"])),
            r"labels are a ndarray that makes no tensor",
        ),
        (([[1.0, 2.0], [3.0]], [0, 1]), r"inputs are a list that makes no tensor"),
        (({"x": torch.zeros(2)}, [0, 1]), r"inputs are a dict that makes no tensor"),
        ((TensorDataset(torch.zeros(2)), [0, 1]), r"inputs are a TensorDataset(.|\n)*has items"),
        ({"x": torch.zeros(2, 2), "y": [0, 1]}, r"is a dict without an item 0(.|\n)*as a pair"),
        (pd.DataFrame({"x": [0.0], "y": [0]}), r"is a DataFrame without an item 0"),
        (TensorDataset, r"is the class TensorDataset"),
        ((torch.eye(2).to_sparse(), [0, 1]), r"inputs are .* layout sparse_coo(.|\n)*to_dense\(\)"),
        ((sparse_csr(), [0, 1]), r"inputs are a tensor of layout sparse_csr"),
        ((torch.eye(2), torch.tensor([0, 1]).to_sparse()), r"labels are a tensor of layout sparse"),
        ((torch.eye(2, device="meta"), [0, 1]), r"inputs are on the meta device"),
        (
            (torch.eye(2), torch.zeros(2, dtype=int, device="meta")),
            r"labels are on the meta device",
        ),
        ((nested(torch.strided), [0, 1]), r"inputs are a nested tensor(.|\n)*padding"),
        ((nested(torch.jagged), [0, 1]), r"inputs are a nested tensor"),
        ((quantised(), [0, 1]), r"inputs are a quantised tensor(.|\n)*dequantize\(\)"),
        ([(torch.eye(2).to_sparse(), 0)], r"inputs are a tensor of layout sparse_coo"),
        (
            (np.zeros((3, 2)), [0, -100, -100]),
            r"2 of 3 labels are -100(.|\n)*keep = labels != -100;",
        ),
        (
            (np.zeros((2, 2)), [[0, -100], [0, 1]]),
            r"1 of 4 labels are -100, .*ignore_index(.|\n)*keep = \(labels != -100\)\.all\(1\);",
        ),
        (DataLoader(TensorDataset(torch.zeros(2, 2))), r"is a DataLoader(.|\n)*loader\.dataset"),
    ],
)
def test_what_is_not_labelled_examples_is_refused(data, match):
    with pytest.raises(DataError, match=match):
        as_examples(data)


@pytest.mark.parametrize("load", [load_test_set, load_training_set])
def test_an_unknown_dataset_is_refused_with_the_nearest_name(load):
    with pytest.raises(UnknownNameError, match=r"no dataset 'digit28'(.|\n)*'digits28'"):
        load("digit28")


def test_every_listed_name_is_known():
    assert dataset_names()[:4] == list(SIDES)
    assert {"mnist", "fashion-mnist", "cifar10", "cifar100", "pydoc-text"} < set(dataset_names())


def test_the_digits_are_scikit_learns_though_it_is_not_imported():
    code = (
        "import sys; from explorer.data.digits import _table; table = _table();"
        "print('sklearn' in sys.modules, table.shape);"
        "from sklearn.datasets import load_digits; digits = load_digits();"
        "print((table[:, :-1] == digits.data).all(), (table[:, -1] == digits.target).all())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "(1797,", "65)", "True", "True"]


def test_where_scikit_learn_keeps_the_digits_elsewhere_it_is_asked(monkeypatch):
    expected = digits._table()
    monkeypatch.setattr(digits, "find_spec", lambda _name: None)
    assert (digits._table() == expected).all()
