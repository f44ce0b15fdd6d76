"""Crops, flips, label noise and the global scale, each against an obvious twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from explorer.data.augment import CropAndFlip, Scale, grey_levels, scale_of, with_label_noise
from explorer.data.examples import spread
from explorer.data.images import ImagesTraining
from explorer.errors import UsageError

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=20, channels=3, side=32, seed=0):
    shape = (count, channels, side, side)
    return torch.randint(1, 256, shape, dtype=torch.uint8, generator=generator(seed))


def training_set(count=20, augmentation=None, classes=10):
    labels = torch.arange(count) % classes
    return ImagesTraining("toy", images(count), labels, Scale((100.0,), (50.0,)), augmentation)


def naive_crop_and_flip(image, row, column, mirrored, pad):
    side = image.shape[-1]
    padded = functional.pad(image, (pad,) * 4)
    crop = padded[:, row : row + side, column : column + side]
    return crop.flip(-1) if mirrored else crop


def test_crops_and_flips_are_those_of_one_image_after_the_other():
    change, batch = CropAndFlip(pad=4), images()
    moves = change.draw(len(batch), generator())
    expected = [
        naive_crop_and_flip(image, *move, pad=4)
        for image, move in zip(batch, moves.tolist(), strict=True)
    ]
    assert torch.equal(change(batch, moves), torch.stack(expected))


def test_images_that_are_not_square_keep_their_shape():
    change, batch = CropAndFlip(pad=2), images()[:, :, :20]
    moves = torch.tensor([[2, 2, 0]] * 20)
    assert torch.equal(change(batch, moves), batch)


def test_the_drawn_moves_reach_every_corner_and_flip_about_half():
    moves = CropAndFlip(pad=4).draw(4000, generator())
    assert set(moves[:, 0].tolist()) == set(moves[:, 1].tolist()) == set(range(9))
    assert 0.45 < moves[:, 2].double().mean() < 0.55
    assert CropAndFlip(flip=False).draw(100, generator())[:, 2].sum() == 0


def test_an_augmented_epoch_is_repeatable_and_new_for_another_generator():
    training = training_set(augmentation=CropAndFlip())
    first, again, other = (
        torch.cat([x for x, _ in training.batches(8, generator(s), CPU)]) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_epoch_shows_every_image_once_with_its_own_label():
    training = training_set()
    seen = {}
    sizes = []
    for inputs, labels in training.batches(8, generator(), CPU):
        sizes.append(len(labels))
        for image, label in zip(inputs, labels, strict=True):
            seen[image.numpy().tobytes()] = int(label)
    expected = {
        ((image.float() - 100) / 50).numpy().tobytes(): int(label)
        for image, label in zip(training.pixels, training.labels, strict=True)
    }
    assert sizes == [8, 8, 4]
    assert seen == expected


def test_moves_belong_to_the_images_not_to_their_place_in_the_order():
    training = training_set(augmentation=CropAndFlip())
    stream = generator(5)
    moves = CropAndFlip().draw(20, stream)
    order = torch.randperm(20, generator=stream)
    whole = (CropAndFlip()(training.pixels, moves).float() - 100) / 50
    seen = torch.cat([x for x, _ in training.batches(8, generator(5), CPU)])
    assert torch.equal(seen, whole[order])


def test_evaluation_shows_the_images_without_augmentation_evenly_spread():
    training = training_set(augmentation=CropAndFlip())
    plain = training.evaluation()
    assert torch.equal(plain.inputs, (training.pixels.float() - 100) / 50)
    some = training.evaluation(limit=5)
    assert torch.equal(some.inputs, plain.inputs[::4])
    assert torch.equal(some.labels, training.labels[::4])


def test_pixels_are_taken_to_a_device_once():
    training = training_set()
    list(training.batches(8, generator(), CPU))
    held = training._held[CPU]
    list(training.batches(8, generator(1), CPU))
    assert training._held[CPU] is held


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [(5, None, [0, 1, 2, 3, 4]), (5, 9, [0, 1, 2, 3, 4]), (10, 4, [0, 2, 5, 7]), (3, 1, [0])],
)
def test_a_limited_choice_is_spread_over_the_whole(count, limit, expected):
    assert spread(count, limit).tolist() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_sees_the_same_epoch_to_the_bit():
    training = training_set(augmentation=CropAndFlip())
    here = list(training.batches(8, generator(3), CPU))
    there = list(training.batches(8, generator(3), torch.device("cuda")))
    for (inputs, labels), (moved, moved_labels) in zip(here, there, strict=True):
        assert moved.is_cuda
        assert torch.equal(moved.cpu(), inputs)
        assert torch.equal(moved_labels.cpu(), labels)


# --- the scale -------------------------------------------------------------------------------


def test_the_global_scale_is_mean_and_deviation_of_all_pixels():
    pixels = images(50)
    scale = scale_of(grey_levels(pixels))
    values = pixels.numpy().astype(np.float64)
    assert scale.mean == pytest.approx((values.mean(),), rel=1e-14)
    assert scale.deviation == pytest.approx((values.std(),), rel=1e-14)
    normalised = scale.on(CPU)(pixels)
    assert normalised.dtype == torch.float32
    assert float(normalised.mean()) == pytest.approx(0, abs=1e-5)


def test_a_scale_per_channel_treats_each_channel_by_its_own():
    pixels = torch.full((1, 2, 1, 1), 10, dtype=torch.uint8)
    assert Scale((0.0, 5.0), (1.0, 2.0)).on(CPU)(pixels).flatten().tolist() == [10.0, 2.5]


def test_pixels_of_a_single_grey_level_are_only_shifted():
    scale = scale_of(grey_levels(torch.full((2, 1, 2, 2), 7, dtype=torch.uint8)))
    assert scale == Scale((7.0,), (1.0,))


# --- label noise -----------------------------------------------------------------------------


def test_the_share_of_replaced_labels_is_as_asked():
    labels = torch.full((10_000,), 3)
    noisy = with_label_noise(labels, 0.4, seed=0, classes=10)
    assert int((noisy != labels).sum()) == pytest.approx(4000 * 0.9, abs=100)
    assert labels.eq(3).all()


def test_labels_that_are_all_random_are_uniform_over_the_classes():
    labels = torch.zeros(50_000, dtype=torch.int64)
    counts = torch.bincount(with_label_noise(labels, 1.0, seed=0, classes=10))
    assert len(counts) == 10
    assert counts.min() > 4700
    assert counts.max() < 5300


def test_noise_is_fixed_by_its_seed():
    labels = torch.arange(100) % 10
    first, again, other = (with_label_noise(labels, 0.5, s, 10) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_noise_leaves_the_labels_alone():
    labels = torch.arange(10)
    assert with_label_noise(labels, 0.0, 0, 10) is labels


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_noise_that_is_no_share_is_refused(share):
    with pytest.raises(UsageError, match=r"label noise is (.|\n)*from 0 to 1"):
        with_label_noise(torch.arange(3), share, 0, 10)
