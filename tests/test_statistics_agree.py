"""Every statistic on every degenerate input, equal between the compiler, NumPy and torch.

The bound: `RTOL` of the value, and nothing beside it; where one is 0, NaN or infinite the others
are the same. It holds for up to a few thousand weights, whose exact sums are known.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from explorer.stats import torch_kernels
from explorer.stats.distances import measure
from explorer.stats.kernels import STATISTICS
from explorer.stats.measures import MEASURES
from explorer.stats.tensors import tensor_statistics
from tests import naive

RTOL = 1e-13
"""Rounding of float64, 2⁻⁵³, times about 1,000 additions."""

NORMAL = np.random.default_rng(0).normal(size=(2, 1001))
TINY, DENORMAL = 1.2e-38, 1.4e-45
"""Smallest normal and smallest positive float32."""

INPUTS = {
    "empty": ([], []),
    "one": ([2.0], [-3.0]),
    "one that stays": ([2.0], [2.0]),
    "zeros": ([0.0] * 5, [0.0] * 5),
    "zeros that move": ([0.0] * 5, [1.0] * 5),
    "constant": ([0.1] * 1000, [0.3] * 1000),
    "signed zeros": ([0.0, -0.0], [-0.0, 0.0]),
    "normal": (NORMAL[0], NORMAL[1]),
    "cancelling": ([1e6, -1e6, 1.0], [1e6, -1e6, 1.0 + 2**-20]),
    "NaN": ([1.0, math.nan, 2.0], [2.0, 1.0, math.nan]),
    "only NaN": ([math.nan] * 3, [math.nan] * 3),
    "Inf": ([1.0, math.inf, 2.0], [-math.inf, math.inf, 3.0]),
    "-Inf": ([-math.inf, 1.0], [-math.inf, 1.0]),
    "denormal": ([DENORMAL, -DENORMAL, TINY], [-DENORMAL, 3 * DENORMAL, DENORMAL]),
    "huge": ([3e38, -3e38, 1.0], [-3e38, 3e38, -1.0]),
    "huge and denormal": ([3e38, DENORMAL], [-3e38, -DENORMAL]),
}
DTYPES = ["float16", "float32", "float64", "bfloat16"]


def pair(name, dtype):
    """Two torch tensors; float16 holds neither the huge nor the denormal: they become ∞ and 0."""
    return [torch.tensor(np.array(side), dtype=getattr(torch, dtype)) for side in INPUTS[name]]


def with_the_compiler(start, now):
    return tensor_statistics(start, [now])[0]


def with_numpy(start, now):
    """As the formulas stand in the documentation."""
    r, c = (side.double().numpy() for side in (start, now))
    good = np.isfinite(r) & np.isfinite(c)
    r, c = r[good], c[good]
    delta = np.abs(c - r)
    sums = [delta.sum(), (delta**2).sum(), delta.max(initial=0.0), (r**2).sum(), (c**2).sum()]
    return np.array([*sums, np.count_nonzero(~good)])


def with_torch(start, now):
    return torch_kernels.tensor_statistics(start, [now])[0]


def with_cuda(start, now):
    return tensor_statistics(start.cuda(), [now.cuda()])[0]


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
IMPLEMENTATIONS = [
    with_the_compiler,
    with_numpy,
    with_torch,
    pytest.param(with_cuda, marks=on_gpu),
]


def exactly(start, now):
    """The twin in `tests/naive.py`, whose sums are exact."""
    out = np.empty(len(STATISTICS))
    naive.pair_statistics(start.double().tolist(), now.double().tolist(), out)
    return out


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", INPUTS)
def test_a_statistic_is_the_exact_one_within_the_bound(name, dtype, implementation):
    tensors = pair(name, dtype)
    found, expected = implementation(*tensors), exactly(*tensors)
    assert np.isfinite(expected).all()
    for statistic, one, other in zip(STATISTICS, found, expected, strict=True):
        assert one == pytest.approx(other, rel=RTOL, abs=0), statistic


def of_float64(side):
    return torch.tensor(side, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # numpy's
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_float64_whose_squares_are_infinite_or_nothing_is_so_everywhere(implementation):
    huge = implementation(of_float64([1e200, 1.0]), of_float64([-1e200, 1.0]))
    expected = dict(zip(STATISTICS, huge.tolist(), strict=True))
    assert (expected["l2_squared"], expected["reference_squared"]) == (math.inf, math.inf)
    assert (expected["l1"], expected["linf"], expected["bad"]) == (2e200, 2e200, 0)
    small = implementation(of_float64([5e-324]), of_float64([-5e-324]))
    assert small.tolist() == [1e-323, 0.0, 1e-323, 0.0, 0.0, 0.0]


MEASURED = {
    "empty": dict.fromkeys(MEASURES, 0.0),
    "one that stays": dict.fromkeys(MEASURES, 0.0),
    "zeros": dict.fromkeys(MEASURES, 0.0),
    "signed zeros": dict.fromkeys(MEASURES, 0.0),
    "zeros that move": {"l1": 5.0, "linf": 1.0, "l2_relative": math.nan, "cosine": math.nan},
    "one": {"l1": 5.0, "l2": 5.0, "l2_per_sqrt_m": 5.0, "l2_relative": 2.5, "cosine": 2.0},
    "constant": {"l2_per_sqrt_m": 0.2, "l2_relative": 2.0, "cosine": 0.0},
    "huge": {"linf": 6e38, "l2_relative": 2.0, "cosine": 2.0},
    "denormal": {"linf": TINY - DENORMAL},
    "NaN": dict.fromkeys(MEASURES, math.nan),
    "only NaN": dict.fromkeys(MEASURES, math.nan),
    "Inf": dict.fromkeys(MEASURES, math.nan),
    "-Inf": dict.fromkeys(MEASURES, math.nan),
}
"""What the distances are on such an input: 0 where nothing moved, NaN where there is none."""


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_gpu)])
@pytest.mark.parametrize("name", MEASURED)
def test_a_distance_of_a_degenerate_input_is_defined(name, device):
    start, now = ({"w": side.to(device)} for side in pair(name, "float32"))
    found = measure(start, now, {"w": 1})
    bad = {"NaN": 2, "only NaN": 3, "Inf": 2, "-Inf": 1}.get(name, 0)
    assert found["nonfinite"] == bad
    for key, expected in MEASURED[name].items():
        assert found[key] == pytest.approx(expected, rel=1e-6, abs=1e-12, nan_ok=True), key


def test_a_distance_whose_square_is_no_float64_is_nan_and_no_infinity():
    found = measure({"w": of_float64([1e200])}, {"w": of_float64([-1e200])}, {"w": 1})
    assert (found["l1"], found["linf"], found["nonfinite"]) == (2e200, 2e200, 0)
    assert math.isnan(found["l2"])
    assert not any(math.isinf(value) for value in found.values())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_statistics_of_many_weights_stay_within_a_wider_bound(implementation):
    """The rounding error grows with the number of weights that are added up in one go."""
    start, now = torch.randn(2, 300_000, generator=torch.Generator().manual_seed(0)).unbind()
    found, expected = implementation(start, now), exactly(start, now)
    np.testing.assert_allclose(found, expected, rtol=5e-13, atol=0)
