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

WEIGHTS = st.floats(width=32, allow_nan=True, allow_infinity=True)
PAIRS = st.integers(0, 40).flatmap(
    lambda n: st.tuples(*[arrays(np.float32, n, elements=WEIGHTS)] * 2)
)


def kernel_names():
    """Public functions of the kernel file."""
    return [n for n, f in vars(kernels).items() if callable(f) and not n.startswith("_")]


def both(name, reference, current):
    """Result of the kernel and of its twin."""
    results = []
    for function in (getattr(kernels, name), getattr(naive, name)):
        out = np.full(len(kernels.STATISTICS), -1.0)
        function(reference, current, out)
        results.append(out)
    return results


def test_every_kernel_has_a_twin_of_the_same_arguments():
    names = kernel_names()
    assert "pair_statistics" in names
    for name in names:
        kernel = getattr(kernels, name)
        twin = inspect.signature(getattr(naive, name))
        assert list(twin.parameters) == list(inspect.signature(kernel).parameters)


@settings(deadline=None, max_examples=200)
@given(PAIRS)
def test_kernel_equals_its_twin_on_any_float32(pair):
    fast, slow = both("pair_statistics", *pair)
    np.testing.assert_allclose(fast, slow, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_kernel_of_a_tensor_with_itself_is_no_distance(size):
    weights = np.linspace(-1, 1, size, dtype=np.float32)
    out, _ = both("pair_statistics", weights, weights)
    assert out[:3].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(out[3], out[4])
    assert out[6] == 0


def test_sums_of_a_million_float32_keep_the_accuracy_of_float64():
    rng = np.random.default_rng(0)
    reference, current = rng.normal(size=(2, 1_000_000)).astype(np.float32)
    out = np.empty(7)
    kernels.pair_statistics(reference, current, out)
    delta = current.astype(np.longdouble) - reference
    np.testing.assert_allclose(out[1], float((delta**2).sum()), rtol=1e-11)
    np.testing.assert_allclose(out[0], float(abs(delta).sum()), rtol=1e-11)


def test_non_finite_weights_are_counted_and_enter_no_sum():
    reference = np.array([1, np.nan, 2, 3], dtype=np.float32)
    current = np.array([2, 1, np.inf, 3], dtype=np.float32)
    out, _ = both("pair_statistics", reference, current)
    assert out.tolist() == [1, 1, 1, 11, 10, 13, 2]
