"""A sweep on a cluster of separate processes: the same numbers, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from types import SimpleNamespace

import cloudpickle
import dask
import numpy as np
import pytest
import torch
import xarray as xr
from distributed import Client, LocalCluster
from distributed.comm import CommClosedError
from distributed.utils import get_mp_context
from safetensors.torch import save_file
from torch import nn

import explorer as lx
from explorer.cli import main
from explorer.engine import cluster as cluster_module
from explorer.engine import on_worker
from explorer.engine.cluster import Sender, connect
from explorer.engine.journal import Journal
from explorer.engine.remote import RemoteEvaluator
from explorer.engine.results import DIMS
from explorer.engine.sweep import NOT_REACHED
from explorer.errors import ClusterError, UnknownNameError, UsageError
from tests import toy

PATIENCE = 60
"""Seconds that a worker may take to start or to stop on a busy machine."""

pytestmark = pytest.mark.timeout(300)
"""The first test starts a process that imports torch, which took over a minute at a load of 10."""

WHERE = {"workers"}
"""Attributes that a sweep on a cluster of the same devices has beyond those of one process."""


@pytest.fixture(scope="module")
def local_cluster():
    """Two workers, a process and a thread each."""
    # torch and the rest are imported once, by the process from which the workers are forked
    method = "forkserver" if os.name == "posix" else "spawn"
    with dask.config.set({"distributed.worker.multiprocessing-method": method}):
        if method == "forkserver":
            needed = ["distributed", "explorer.engine.on_worker", "explorer.api", "torch._dynamo"]
            get_mp_context().set_forkserver_preload(needed)
        address = {"dashboard_address": ":0", "host": "127.0.0.1"}
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


def test_of_a_compiled_network_what_was_compiled_travels(stack, client):
    """Work on it has the same name each time, so that a worker keeps its evaluator."""
    compiled = torch.compile(OWN["model"])
    options = {**OWN, "model": compiled, "device": "cpu", "batch_size": None}
    sender = RemoteEvaluator(client, stack, **options)._sender
    assert sender._contents["model"] is OWN["model"]
    found = lx.distances(stack, client=client, model=compiled, draws=1)
    xr.testing.assert_identical(found, lx.distances(stack, model=OWN["model"], draws=1))


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
    client.wait_for_workers(2, timeout=PATIENCE)
    assert workers_pids(client) != before


@pytest.fixture
def killed_at_the_start(client, monkeypatch):
    """All workers are killed when the cells have just been sent."""
    original = Sender.finished

    def finished(self, function, pieces, *rest, **options):
        if function is on_worker.count:
            for pid in workers_pids(client).values():
                os.kill(pid, signal.SIGKILL)
        return original(self, function, pieces, *rest, **options)

    monkeypatch.setattr(Sender, "finished", finished)


@pytest.mark.usefixtures("killed_at_the_start")
def test_a_cluster_that_loses_all_its_workers_gets_the_parcel_again(
    stack, local, client, monkeypatch
):
    """What was scattered dies with the last worker that holds it."""
    monkeypatch.setattr(
        cluster_module, "WAIT", 200
    )  # a busy machine takes its time to start new ones
    found = sweep(stack, epochs=[0, 3], client=client)
    xr.testing.assert_equal(found.loss, local.loss.sel(epoch=[0, 3]))


def test_a_worker_that_dies_while_the_parcel_is_given_to_it_is_not_the_end(
    stack, local, client, monkeypatch
):
    given, original = [], client.scatter

    def scatter(*data, **options):
        given.append(data)
        if len(given) == 1:
            raise CommClosedError("Stream is closed")
        return original(*data, **options)

    monkeypatch.setattr(client, "scatter", scatter)
    found = sweep(stack, epochs=[0], client=client)
    assert len(given) == 2
    xr.testing.assert_equal(found.loss, local.loss.sel(epoch=[0]))


def test_a_parcel_that_no_worker_takes_is_an_error_and_no_endless_wait(stack, client, monkeypatch):
    def scatter(*_data, timeout, **_options):
        time.sleep(timeout)
        raise TimeoutError("No valid workers found")

    sent = RemoteEvaluator(client, stack, **OWN, device="cpu", batch_size=None)._sender
    monkeypatch.setattr(client, "scatter", scatter)
    monkeypatch.setattr(cluster_module, "WAIT", 0.1)
    with pytest.raises(ClusterError, match="lost all its workers"):
        sent._scattered(b"")


@pytest.mark.usefixtures("killed_at_the_start")
def test_a_cluster_that_stays_lost_marks_the_cells_that_are_left(stack, client, monkeypatch):
    client.wait_for_workers(2, timeout=PATIENCE)
    monkeypatch.setattr(Sender, "_sent_again", lambda _self: False)
    found = sweep(stack, epochs=[0, 3], client=client)
    assert found.reason.values[0, 0].startswith("The cluster has lost all its workers")
    assert "with store=" in found.reason.values[0, 0]
    client.wait_for_workers(2, timeout=PATIENCE)


def test_a_cell_that_fails_is_marked_with_the_reason_and_the_others_are_measured(client):
    options = {"data": toy.one_hot_examples(), "draws": 1}
    stack = lx.open_stack(toy.switch_states(), model=toy.Switch())
    expected = sweep(stack, model=toy.Switch(), **options)
    found = sweep(stack, model=Picky(), client=client, **options)
    failed = found.reason != ""
    assert failed.values.tolist() == [[True, False, False], [False] * 3]
    for reason in (found.reason.values[0, 0], found.fullmodel_reason.values[0]):
        assert reason == "failed on the cluster: ValueError: the bias is too large"
    xr.testing.assert_equal(found.error, expected.error.where(~failed))
    xr.testing.assert_equal(found.rerandomized_loss, expected.rerandomized_loss)
    assert found.attrs["complete"] == 1


def test_a_group_that_fails_as_a_whole_is_measured_again_one_by_one(client):
    """The whole network at the first epochs is one task; the network refuses the very first."""
    states = [toy.switch_states()[epoch] for epoch in (0, *[1] * 9, 2)]
    stack = lx.open_stack(states, model=toy.Switch())
    options = {"data": toy.one_hot_examples(), "draws": 0, "layers": ["first"]}
    found = sweep(stack, model=Picky(), client=client, **options)
    for reason in (found.reason.values[0], found.fullmodel_reason.values):
        assert (reason != "").tolist() == [True, *[False] * 10]


def test_who_waits_with_patience_gets_every_cell(stack, local, client):
    cells = [lx.reinitialise("conv", epoch) for epoch in range(6)]
    remote = RemoteEvaluator(client, stack, **OWN, device="cpu", batch_size=None)
    found, waited = {}, 0
    for some in remote.measure(cells, patience=1e-3):
        found |= some
        waited += not some
    assert waited
    assert [found[cell].error for cell in cells] == local.error.sel(layer="conv").values.tolist()


class Picky(toy.Switch):
    """A switch that refuses the first layer's values at epoch 0."""

    def forward(self, x):
        if float(self.first.bias[0]) > 4:
            raise ValueError("the bias is too large\nsecond line")
        return super().forward(x)


def test_ctrl_c_keeps_what_was_found_and_cancels_the_rest(
    stack, local, client, tmp_path, monkeypatch
):
    added = []

    def add(self, outcomes):
        added.append(outcomes)
        if len(added) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", add)
        found = sweep(stack, client=client, store=tmp_path / "cells.jsonl")
    assert found.attrs["complete"] == 0
    reached = {prefix: found[f"{prefix}examples"] > 0 for prefix in DIMS}
    count = sum(int(some.sum()) for some in reached.values())
    assert 0 < count < sum(some.size for some in reached.values())
    for prefix, some in reached.items():
        xr.testing.assert_equal(found[f"{prefix}loss"], local[f"{prefix}loss"].where(some))
        assert (found[f"{prefix}reason"].values[~some.values] == NOT_REACHED).all()
    eventually(lambda: not tasks_of(client, "count"))
    xr.testing.assert_equal(sweep(stack, client=client), local)


def eventually(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def tasks_of(client, function):
    """Tasks that the scheduler still knows and that call a function of this name."""
    known = client.run_on_scheduler(lambda dask_scheduler: list(map(str, dask_scheduler.tasks)))
    return [name for name in known if name.startswith(function)]


def test_a_stopped_task_ends_after_its_slice(stack, monkeypatch):
    """Cancelling does not reach a task that runs already."""
    settings = {"device": "cpu", "batch_size": None}
    work = on_worker.Work(on_worker.fingerprint(stack), "token", "this run", settings=settings)
    parcel = cluster_module.packed({"stack": stack, **OWN, "calibration": None})
    cells = [lx.reinitialise("conv", 0)]
    try:
        monkeypatch.setattr(on_worker, "_stopped", {"another run"})
        assert list(on_worker.count(work, parcel, cells, 0.0)) == cells
        on_worker.stop("this run")
        assert on_worker.count(work, parcel, cells, 0.0) == {}
    finally:
        on_worker._kept = None


def test_a_store_is_the_same_for_a_cluster_and_for_one_process(
    stack, local, client, tmp_path, monkeypatch
):
    path = tmp_path / "cells.jsonl"
    sweep(stack, layers=["conv"], client=client, store=path)
    lines = len(path.read_text().splitlines())
    xr.testing.assert_equal(sweep(stack, store=path), local)
    assert len(path.read_text().splitlines()) == lines + 2 * (5 + 3)
    counted = []
    monkeypatch.setattr(Journal, "add", lambda *_: counted.append(1))
    xr.testing.assert_equal(sweep(stack, client=client, store=path), local)
    assert counted == []


def test_a_tolerance_stops_the_same_cells_at_the_same_examples(stack, client):
    options = {"tolerance": 0.06, "epochs": [0, 2]}
    found = sweep(stack, client=client, **options)
    xr.testing.assert_equal(found, sweep(stack, **options))
    assert (found.examples < 400).any()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"batch_size": 0}, UsageError, "batch_size is 0"),
        ({"data": "nothing"}, UnknownNameError, "no dataset 'nothing'"),
    ],
)
def test_what_does_not_fit_is_said_by_the_workers_as_it_is_here(
    stack, client, options, error, match
):
    with pytest.raises(error, match=match):
        sweep(stack, client=client, **options)


def test_another_version_on_a_worker_is_refused_by_name(stack, client, monkeypatch):
    monkeypatch.setattr(
        cluster_module, "version", lambda name: "0.1" if name == "numpy" else metadata.version(name)
    )
    original = client.run
    monkeypatch.setattr(client, "run", lambda *_, **options: original(versions_there, **options))
    with pytest.raises(ClusterError, match=r"tcp://\S+ has numpy (.|\n)*needed: 0.1(.|\n)*Install"):
        sweep(stack, client=client)


def versions_there():
    return cluster_module.asks_versions()()


def test_workers_are_asked_for_versions_without_this_package():
    """A worker on which it is not installed has to be able to say so."""
    asked = cloudpickle.dumps(cluster_module.asks_versions())
    code = (
        "import pickle, sys; sys.modules['explorer'] = None; "
        f"print(sorted(pickle.loads({asked!r})()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'numpy', 'python', 'torch', 'xarray'" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="SIGSTOP exists on POSIX systems only")
def test_a_worker_that_does_not_answer_is_an_error_and_no_endless_wait(stack, client, monkeypatch):
    held = next(iter(workers_pids(client).values()))
    os.kill(held, signal.SIGSTOP)
    try:
        monkeypatch.setattr(cluster_module, "WAIT", 1.0)
        with pytest.raises(ClusterError, match=r"Not every worker (.|\n)*within 1 seconds"):
            sweep(stack, client=client)
    finally:
        os.kill(held, signal.SIGCONT)
    assert len(workers_pids(client)) == 2


@pytest.mark.skipif(os.name != "posix", reason="how a process ends is POSIX's")
def test_a_worker_that_dies_while_it_is_asked_is_left_out(client):
    client.wait_for_workers(2, timeout=PATIENCE)
    before = workers_pids(client)
    gone, stays = before

    def die_there(pid):
        return os._exit(1) if os.getpid() == pid else os.getpid()

    def fail(_pid):
        raise KeyError("in the function itself")

    assert cluster_module._answers(client, die_there, before[gone]) == {stays: before[stays]}
    client.wait_for_workers(2, timeout=PATIENCE)
    with pytest.raises(KeyError, match="in the function itself"):
        cluster_module._answers(client, fail, 0)
    assert cluster_module._answers(client, fail, 0, on_error="ignore") == {}


def test_when_all_workers_die_while_they_are_asked_it_is_said(client, monkeypatch):
    monkeypatch.setattr(cluster_module, "_answers", lambda *_arguments: {})
    with pytest.raises(ClusterError, match=r"lost all its workers"):
        cluster_module._check_workers(client)


def test_a_cluster_without_workers_is_refused(stack, monkeypatch):
    monkeypatch.setattr(cluster_module, "WAIT", 0.1)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as empty,
        Client(empty, set_as_default=False) as client,
        pytest.raises(ClusterError, match=r"inproc://\S+ has no workers(.|\n)*dask worker"),
    ):
        sweep(stack, client=client)


def test_an_asynchronous_client_is_refused(stack):
    with pytest.raises(ClusterError, match="client is asynchronous"):
        sweep(stack, client=SimpleNamespace(asynchronous=True))


def test_a_client_that_was_closed_is_refused(stack, local_cluster):
    with Client(local_cluster, set_as_default=False) as client:
        pass
    with pytest.raises(ClusterError, match=r"no connection: it is closed(.|\n)*new one"):
        sweep(stack, client=client)


def test_an_address_in_place_of_a_client_is_refused(stack):
    with pytest.raises(UsageError, match=r"client is 'tcp://here'(.|\n)*Client\(address\)"):
        sweep(stack, client="tcp://here")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://here"])
def test_an_address_where_nobody_answers_is_refused(address, monkeypatch):
    monkeypatch.setattr(cluster_module, "WAIT", 0.1)
    with pytest.raises(ClusterError, match=rf"No Dask scheduler answers at '{address}'"):
        connect(address)


def test_without_dask_the_error_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "explorer.engine.cluster")
    assert main(["sweep", "fcn3x256-digits", "--cluster", "tcp://127.0.0.1:1"]) == 2
    assert "pip install 'layer-explorer[cluster]'" in capsys.readouterr().err


def test_the_command_sweeps_on_a_cluster(local_cluster, client, bundled, tmp_path, capsys):
    out = tmp_path / "sweep.nc"
    address = local_cluster.scheduler_address
    chosen = ["--layers", "layer4", "--epochs", "0", "--draws", "1", "--device", "cpu"]
    status = main(["sweep", "fcn3x256-digits", *chosen, "--cluster", address, "--out", str(out)])
    assert status == 0
    assert "layer4" in capsys.readouterr().out
    found = lx.open_sweep(out)
    expected = lx.sweep(
        bundled, layers=["layer4"], epochs=[0], draws=1, device="cpu", progress=False
    )
    xr.testing.assert_equal(found.loss, expected.loss)
    assert found.attrs["workers"] == 2


def test_distances_of_state_dicts_do_not_travel(client):
    with pytest.raises(UsageError, match="A cluster was given for state dicts"):
        lx.distances(toy.switch_states(), client=client)


# --- the explorer's sweep ------------------------------------------------------------------------


@pytest.fixture
def explorer(stack, client):
    """An explorer whose sweeps go to the workers, its own network loaded."""
    explorer = lx.Explorer(stack, **OWN, device="cpu", client=client)
    explorer._exploration.session.hurry()
    eventually(lambda: explorer._exploration.session.device)
    assert explorer._exploration.session.wait_until_idle(PATIENCE)
    yield explorer
    explorer.close()
    assert client.status == "running"


def test_the_explorer_sweeps_on_a_cluster_and_answers_clicks_itself(explorer, local, client):
    shown = explorer._exploration
    shown.controls.sweep.click()
    shown._tapped(0, 0, False)
    eventually(lambda: "conv ← epoch 0: test error" in shown.status.text)
    assert shown.session.wait_until_idle(PATIENCE)
    assert shown.status.alert == ""
    found = explorer.results
    for name in ("error", "loss", "rerandomized_error", "rerandomized_loss", "fullmodel_error"):
        xr.testing.assert_equal(found[name], local[name])
    assert found.attrs["workers"] == 2
    assert [str(one.choice) for one in shown.session.measured] == ["conv ← epoch 0"]
    eventually(lambda: not tasks_of(client, "count"))


def test_stop_in_the_explorer_cancels_the_tasks_on_the_cluster(explorer, client, monkeypatch):
    """Each slice of the examples waits, as a large network would."""
    client.run(slow_down, 0.2)
    try:
        shown = explorer._exploration
        shown.controls.sweep.click()
        eventually(lambda: tasks_of(client, "count"))
        start = time.monotonic()
        shown.controls.stop.click()
        assert time.monotonic() - start < 1
        assert "Stopped." in shown.status.text
        assert shown.session.wait_until_idle(PATIENCE)
        eventually(lambda: not tasks_of(client, "count"))
        known = int((explorer.results["reason"] == "").sum())
        shown._tapped(1, 1, False)
        eventually(lambda: "norm ← epoch 1: test error" in shown.status.text)
        assert int((explorer.results["reason"] == "").sum()) <= known + 1
        assert shown.status.alert == ""
    finally:
        client.run(slow_down, 0)


def slow_down(seconds):
    """On a worker: wait before each slice of the test examples."""
    original = getattr(slow_down, "original", on_worker.measure)
    on_worker.measure = original

    def measure(*arguments, **options):
        for some in original(*arguments, **options):
            time.sleep(seconds)
            yield some

    if seconds:
        slow_down.original, on_worker.measure = original, measure


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL exists on POSIX systems only")
def test_a_worker_that_dies_costs_the_explorer_nothing_but_time(explorer, local, client):
    shown = explorer._exploration
    client.wait_for_workers(2, timeout=PATIENCE)
    pid = next(iter(workers_pids(client).values()))
    shown.controls.sweep.click()
    eventually(lambda: (explorer.results["reason"] == "").any())
    os.kill(pid, signal.SIGKILL)
    assert shown.session.wait_until_idle(3 * PATIENCE)
    for name in ("error", "loss", "rerandomized_loss", "fullmodel_loss"):
        xr.testing.assert_equal(explorer.results[name], local[name])
    client.wait_for_workers(2, timeout=PATIENCE)
