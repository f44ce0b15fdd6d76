"""The same numbers on a GPU, without memory that grows."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

import explorer as lx
from explorer.engine.evaluator import Evaluator
from explorer.stats.tensors import tensor_statistics
from explorer.stats.torch_kernels import HELD
from tests import toy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_a_sweep_on_the_gpu_has_the_errors_of_the_cpu(bundled):
    cpu, gpu = (lx.sweep(bundled, device=d, progress=False) for d in ("cpu", "cuda"))
    for name in ("error", "rerandomized_error", "fullmodel_error"):
        # one label of 1,800 may tip over between two float32 libraries
        np.testing.assert_allclose(gpu[name], cpu[name], atol=1.01 / 1800)
    assert "cuda" in gpu.attrs["device"]


def test_the_gpu_is_taken_when_there_is_one(bundled):
    assert "cuda" in Evaluator(bundled).device_label


def test_a_network_with_batch_normalisation_gives_the_labels_of_the_cpu():
    stack = lx.open_stack(toy.conv_states(), model=toy.ConvNet())
    data = toy.conv_examples()
    runs = [
        Evaluator(stack, model=toy.ConvNet(), data=data, device=device)
        for device in ("cpu", "cuda")
    ]
    for layer in ("conv", "norm", "head"):
        cpu, gpu = (run.result(lx.reinitialise(layer, 0)) for run in runs)
        assert (cpu.errors, cpu.agreements) == (gpu.errors, gpu.agreements)


def test_memory_does_not_grow_over_500_interventions(bundled):
    run = Evaluator(bundled, device="cuda")

    def click(times):
        for k in range(times):
            stream = run.estimates(lx.rerandomise(f"layer{k % 4 + 1}", draw=k))
            next(stream)
            stream.close()
        del stream
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    before = click(4)  # every layer once: what comes before it is kept
    assert click(500) <= before


def test_tf32_is_off_while_measuring_and_as_before_afterwards(bundled):
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        stream = Evaluator(bundled, device="cuda").estimates(lx.reinitialise("layer1", 0))
        next(stream)
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_the_screen_gives_the_labels_of_float32_with_batch_normalisation(caplog):
    stack = lx.open_stack(toy.conv_states(), model=toy.ConvNet())
    data = toy.conv_examples()
    exact, screened = (
        Evaluator(stack, model=toy.ConvNet(), data=data, device="cuda", screen=screen)
        for screen in (False, True)
    )
    assert screened.screen == "float16"
    for layer in ("conv", "norm", "head"):
        intervention = lx.reinitialise(layer, 0)
        found, expected = (run.predictions(intervention) for run in (screened, exact))
        np.testing.assert_array_equal(found.patched, expected.patched)


def test_a_worker_of_a_cluster_measures_on_its_gpu(bundled):
    distributed = pytest.importorskip("distributed")
    here = lx.sweep(bundled, device="cuda", draws=1, epochs=[0, 2], progress=False)
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        there = lx.sweep(bundled, draws=1, epochs=[0, 2], progress=False, client=client)
    assert there.attrs["device"] == torch.cuda.get_device_name()
    for name in ("error", "loss", "rerandomized_loss", "fullmodel_loss"):
        np.testing.assert_array_equal(there[name], here[name])


@pytest.mark.parametrize("size", [1000, 1_000_000, HELD + 12_345])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_are_made_where_the_tensors_lie_and_equal_those_of_the_cpu(size, dtype):
    generator = torch.Generator().manual_seed(0)
    start, *others = [torch.randn(size, generator=generator, dtype=dtype) for _ in range(4)]
    others[1][size // 2] = float("nan")
    expected = tensor_statistics(start, others)
    torch.cuda.reset_peak_memory_stats()
    there = [tensor.cuda() for tensor in (start, *others)]
    before = torch.cuda.memory_allocated()
    found = tensor_statistics(there[0], [*there[1:], others[0]])
    np.testing.assert_allclose(found, [*expected, expected[0]], rtol=1e-13, atol=0)
    assert found[1, -1] == 1
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() - before <= 5 * 8 * HELD
