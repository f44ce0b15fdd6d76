"""A sweep on a cluster of separate processes: the same numbers, whatever happens to the workers."""

from __future__ import annotations

import os
import signal

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client, LocalCluster
from distributed.utils import get_mp_context
from safetensors.torch import save_file
from torch import nn

import explorer as lx
from explorer.engine import cluster as cluster_module
from explorer.engine import on_worker
from explorer.engine.journal import Journal
from explorer.engine.remote import RemoteEvaluator
from tests import toy

WHERE = {"workers"}
"""Attributes that a sweep on a cluster of the same devices has beyond those of one process."""


@pytest.fixture(scope="module")
def local_cluster():
    """Two workers, a process and a thread each."""
    # torch and the rest are imported once, by the process from which the workers are forked
    method = "forkserver" if os.name == "posix" else "spawn"
    with dask.config.set({"distributed.worker.multiprocessing-method": method}):
        if method == "forkserver":
            get_mp_context().set_forkserver_preload(["distributed", "explorer.engine.on_worker"])
        address = {"dashboard_address": None, "host": "127.0.0.1"}
        with LocalCluster(n_workers=2, threads_per_worker=1, **address) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def client(local_cluster):
    with Client(local_cluster) as client:
        yield client


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the checkpoints of a small network with batch normalisation."""
    folder = tmp_path_factory.mktemp("stack") / "net"
    folder.mkdir()
    for epoch, state in enumerate(toy.conv_states(6)):
        save_file(state, folder / f"epoch-{epoch}.safetensors")
    return folder


@pytest.fixture
def stack(folder):
    return lx.open_stack(folder, model=toy.ConvNet())


OWN = {"model": toy.ConvNet(), "data": toy.conv_examples(400)}


def sweep(stack, **options):
    return lx.sweep(stack, **{**OWN, "device": "cpu", "progress": False, **options})


@pytest.fixture(scope="module")
def local(folder):
    return sweep(lx.open_stack(folder, model=toy.ConvNet()))


def assert_same(found, expected):
    """Bit for bit, and every attribute but those that say where it ran."""
    xr.testing.assert_equal(found, expected)
    assert (found.reason == "").all()
    different = {n for n in found.attrs if found.attrs[n] != expected.attrs.get(n)}
    assert different == WHERE
    assert found.attrs.keys() - expected.attrs.keys() == WHERE


def workers_pids(client):
    return client.run(os.getpid)


# --- the same numbers -----------------------------------------------------------------------------


def test_a_sweep_on_a_cluster_equals_one_in_this_process_bit_for_bit(stack, local, client):
    found = sweep(stack, client=client)
    assert_same(found, local)
    assert found.attrs["workers"] == 2
    assert len(np.unique(local.loss)) > 10  # not equal because all is the same


def test_each_worker_opens_one_evaluator_and_keeps_it(stack, client):
    sweep(stack, client=client)
    before = client.run(lambda: id(on_worker._kept))
    again = sweep(stack, epochs=[0, 1], draws=1, client=client)
    assert client.run(lambda: id(on_worker._kept)) == before
    assert again.attrs["complete"] == 1


def test_a_bundled_stack_travels_by_its_path_and_its_dataset_by_name(bundled, client):
    options = {"model": None, "data": None, "layers": ["layer4"], "epochs": [0], "draws": 1}
    evaluator = RemoteEvaluator(client, bundled, device="cpu", batch_size=None)
    assert client.gather(evaluator._sender._parcel).__sizeof__() < 20_000
    assert_same(
        sweep(bundled, client=client, **options),
        sweep(bundled, **options),
    )


def test_a_folder_named_from_here_is_found_by_workers_that_stand_elsewhere(
    folder, local, client, monkeypatch
):
    monkeypatch.chdir(folder.parent)
    stack = lx.open_stack(folder.name, model=toy.ConvNet())
    found = sweep(stack, layers=["conv"], epochs=[0, 2], draws=1, client=client)
    xr.testing.assert_equal(found.error, local.error.sel(layer=found.layer, epoch=found.epoch))


def test_workers_that_do_not_find_the_files_are_sent_the_tensors(
    folder, local, client, monkeypatch
):
    stack = lx.open_stack(folder, model=toy.ConvNet())
    original = cluster_module.packed

    def packed(contents):
        sent = original(contents)  # with a path of the same length, which leads nowhere
        return sent.replace(str(folder).encode(), str(folder)[:-3].encode() + b"ten")

    monkeypatch.setattr(cluster_module, "packed", packed)
    found = sweep(stack, epochs=[0, 2], client=client)
    xr.testing.assert_equal(found.loss, local.loss.sel(epoch=[0, 2]))
    assert found.attrs["content_hash"] == local.attrs["content_hash"]


def test_distances_on_a_cluster_equal_those_in_this_process(stack, client):
    options = {"reference": 1, "draws": 2, "model": toy.ConvNet()}
    found = lx.distances(stack, client=client, **options)
    xr.testing.assert_identical(found, lx.distances(stack, **options))
    assert type(found).__name__ == "Distances"
    assert found.fresh_l2.shape == (3, 2)


def test_distances_lose_their_yardstick_together(client):
    """Where one layer has no initialiser, none is drawn: the same as without a cluster."""
    states = [{"one.weight": torch.eye(2) * k, "two": torch.ones(2)} for k in range(3)]
    model = Half()
    stack = lx.open_stack(states, layers="fine")
    expected = lx.distances(stack, model=model)
    assert expected.attrs["yardstick"].startswith("none: ")
    found = lx.distances(stack, client=client, model=model)
    xr.testing.assert_identical(found, expected)


class Half(nn.Module):
    """One layer that can be drawn anew, and a parameter of its own that cannot."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(2, 2, bias=False)
        self.two = nn.Parameter(torch.ones(2))


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL exists on POSIX systems only")
def test_a_worker_that_is_killed_half_way_costs_nothing_but_time(
    stack, local, client, tmp_path, monkeypatch
):
    """The first finished cells are the signal; every cell is measured and written once."""
    added = []
    original = Journal.add

    def add(self, outcomes):
        original(self, outcomes)
        added.append(len(outcomes))
        if len(added) == 1:
            os.kill(next(iter(before.values())), signal.SIGKILL)

    sweep(stack, epochs=[0], draws=0, client=client)  # both workers are ready, and have work
    before = workers_pids(client)
    monkeypatch.setattr(Journal, "add", add)
    path = tmp_path / "cells.jsonl"
    found = sweep(stack, client=client, store=path)
    assert_same(found, local)
    assert len(added) > 4
    assert len(path.read_text().splitlines()) == 1 + sum(added)
    assert sum(added) == 1 + 3 * 5 + 3 * 3 + 5
    client.wait_for_workers(2)
    assert workers_pids(client) != before
