"""The compiled kernels against their twins; runs with NUMBA_DISABLE_JIT=1 too."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from explorer.stats import kernels
from tests import naive

# Without the compiler ∞ − ∞ is numpy's, which warns; compiled arithmetic never does.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

WEIGHTS = st.floats(width=32, allow_nan=True, allow_infinity=True)
SHAPES = {"pair_statistics": (6,), "four_statistics": (4, 6)}
"""Kernel → shape of what it writes."""

ADDING = {"four_statistics"}
"""Kernels that add to what is there."""

BLOCK = kernels.BLOCK

LINF, BAD = (kernels.STATISTICS.index(name) for name in ("linf", "bad"))


def tensors(count):
    """So many tensors of one length."""
    return st.integers(0, 40).flatmap(
        lambda n: st.tuples(*[arrays(np.float32, n, elements=WEIGHTS)] * count)
    )


def kernel_names():
    """Public functions of the kernel file."""
    return [n for n, f in vars(kernels).items() if callable(f) and not n.startswith("_")]


def both(name, *weights):
    """Result of the kernel and of its twin."""
    results = []
    for function in (getattr(kernels, name), getattr(naive, name)):
        out = np.full(SHAPES[name], 0.0 if name in ADDING else -1.0)
        function(*weights, out)
        results.append(out)
    return results


def random_tensors(count, size, dtype=np.float32):
    return np.random.default_rng(0).normal(size=(count, size)).astype(dtype)


def test_every_kernel_has_a_twin_of_the_same_arguments():
    names = kernel_names()
    assert set(names) == set(SHAPES)
    for name in names:
        kernel = getattr(kernels, name)
        twin = inspect.signature(getattr(naive, name))
        assert list(twin.parameters) == list(inspect.signature(kernel).parameters)


@settings(max_examples=200)
@given(tensors(2))
def test_a_pair_equals_its_twin_on_any_float32(pair):
    fast, slow = both("pair_statistics", *pair)
    np.testing.assert_allclose(fast, slow, rtol=1e-12, atol=0)


@settings(max_examples=200)
@given(tensors(5))
def test_four_equal_their_twin_on_any_float32(five):
    fast, slow = both("four_statistics", *five)
    np.testing.assert_allclose(fast, slow, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 1000])
def test_four_equal_their_twin_at_every_length_of_the_vectors(size, dtype):
    fast, slow = both("four_statistics", *random_tensors(5, size, dtype))
    np.testing.assert_allclose(fast, slow, rtol=5e-15, atol=0)


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_a_tensor_with_itself_is_no_distance(size):
    weights = np.linspace(-1, 1, size, dtype=np.float32)
    pair, _ = both("pair_statistics", weights, weights)
    four, _ = both("four_statistics", *[weights] * 5)
    for out in (pair, *four):
        assert out[:3].tolist() == [0.0, 0.0, 0.0]
        np.testing.assert_allclose(out[3], out[4])
        assert out[BAD] == 0


def test_non_finite_weights_are_counted_and_enter_no_sum():
    reference = np.array([1, np.nan, 2, 3], dtype=np.float32)
    current = np.array([2, 1, np.inf, 3], dtype=np.float32)
    out, _ = both("pair_statistics", reference, current)
    assert out.tolist() == [1, 1, 1, 10, 13, 2]


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_one_that_is_not_finite_is_found_at_every_place_of_the_vectors(value):
    five = random_tensors(5, 75)
    for place in range(75):
        for which in range(5):
            spoilt = five.copy()
            spoilt[which, place] = value
            out = np.zeros((4, 6))
            kernels.four_statistics(*spoilt, out)
            expected = [1.0] * 4 if which == 0 else [float(k == which) for k in range(1, 5)]
            assert out[:, BAD].tolist() == expected, (place, which)
            assert np.isfinite(out).all()


def test_infinity_in_both_tensors_is_not_finite_either():
    both_infinite = np.array([np.inf, 1.0], np.float32)
    out, _ = both("four_statistics", *[both_infinite] * 5)
    assert out[:, BAD].tolist() == [1.0] * 4


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_four_equal_their_twin_across_blocks_with_one_that_is_not_finite_in_each(size):
    five = random_tensors(5, size)
    for start in range(0, size, BLOCK):
        five[1, start] = np.nan
        five[2, min(start + BLOCK, size) - 1] = np.inf
    fast, slow = both("four_statistics", *five)
    np.testing.assert_allclose(fast, slow, rtol=1e-13, atol=0)  # one weight after the other
    blocks = -(-size // BLOCK)
    assert fast[:, BAD].tolist() == [blocks, blocks, 0, 0]


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_pieces_of_whole_blocks_add_up_to_the_bits_of_the_whole(blocks):
    five = random_tensors(5, 5 * BLOCK + 123)
    whole, pieces = np.zeros((2, 4, 6))
    kernels.four_statistics(*five, whole)
    for start in range(0, five.shape[1], blocks * BLOCK):
        kernels.four_statistics(*five[:, start : start + blocks * BLOCK], pieces)
    assert whole.tobytes() == pieces.tobytes()


def test_the_largest_of_all_blocks_counts():
    for place in (0, BLOCK, 2 * BLOCK):
        reference, current = np.zeros((2, 2 * BLOCK + 1), np.float32)
        current[[0, BLOCK, 2 * BLOCK]] = 1.0
        current[place] = -3.0
        out, _ = both("four_statistics", reference, *[current] * 4)
        assert out[:, LINF].tolist() == [3.0] * 4
        assert out[:, 0].tolist() == [5.0] * 4


def test_the_compiler_may_not_assume_that_weights_are_finite():
    allowed = {"reassoc", "contract"}
    assert set(kernels.VECTORS) <= allowed
    compiled = [f for f in vars(kernels).values() if hasattr(f, "targetoptions")]
    for function in compiled:  # none with NUMBA_DISABLE_JIT=1
        assert set(function.targetoptions.get("fastmath") or ()) <= allowed
        assert function.targetoptions["nogil"]
