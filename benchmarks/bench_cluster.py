"""A sweep on 1 and 2 workers of a cluster against the same sweep in one process.

Every process has one thread. In each round the sweep runs in this process, then on one worker,
then on two, all on a network and test examples of the size of the bundled stack's; what is
compared are medians over the rounds, and the least of each. Opening the evaluator, which each
worker does once, is done before. With two workers, two processes compute at the same time: on a
machine whose cores are busy with other things they get less than two cores, which shows as lost
efficiency. To tell, the share of processor time that others took is measured beside each sweep.

    python benchmarks/bench_cluster.py [--rounds 5] [--epochs 12] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import time
from pathlib import Path

import distributed
import psutil
import torch
import xarray as xr
from distributed import Client, LocalCluster
from torch import nn

import explorer as lx
from explorer.weights.families.known import build_network

SIZES = {"depth": 3, "width": 256, "inputs": 784, "classes": 10}
EXAMPLES = 4000


def states(count):
    """Unrelated values at each epoch: the arithmetic does not depend on them."""
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        network = build_network("fcn", SIZES)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.05)
        found.append(network.state_dict())
    return found


def timed(act):
    """Seconds, and what of the machine's processor time went to processes that are not ours."""
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    before, used = psutil.cpu_times(), sum(map(processor_time, ours))
    start = time.perf_counter()
    result = act()
    seconds = time.perf_counter() - start
    after = psutil.cpu_times()
    busy = sum(getattr(after, k) - getattr(before, k) for k in ("user", "system", "nice", "steal"))
    others = busy - (sum(map(processor_time, ours)) - used)
    return seconds, max(0.0, others) / (seconds * os.cpu_count()), result


def processor_time(process):
    times = process.cpu_times()
    return times.user + times.system


def main():
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build_network("fcn", SIZES)
    data = torch.randn(EXAMPLES, 1, 28, 28), torch.randint(0, 10, (EXAMPLES,))
    stack = lx.open_stack(states(options.epochs), model=network)
    settings = {"model": network, "data": data, "device": "cpu", "progress": False}

    clients = {"one process": None, **{n: on_workers(n) for n in (1, 2)}}
    found = {where: [] for where in clients}
    for turn in range(-2, options.rounds):  # in the first two every worker opens its evaluator
        for where, client in clients.items():
            run = timed(lambda c=client: lx.sweep(stack, **settings, client=c))
            if turn >= 0:
                found[where].append(run)
    results = [result for runs in found.values() for _, _, result in runs]
    for result in results:
        xr.testing.assert_equal(result, results[0])
    text = "\n".join([*header(options, results[0]), *rows(found)])
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    for n in (1, 2):
        clients[n].shutdown()


def on_workers(count):
    cluster = LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0")
    return Client(cluster, set_as_default=False)


def header(options, result):
    cells = sum(result[name].size for name in ("error", "rerandomized_error", "fullmodel_error"))
    return (
        f"{datetime.date.today()} · {platform.machine()}, {os.cpu_count()} cores · Python "
        f"{platform.python_version()}, torch {torch.__version__}, distributed "
        f"{distributed.__version__}, layer-explorer {lx.__version__}",
        "",
        f"FCN {SIZES['depth']}×{SIZES['width']}, {EXAMPLES:,} examples, {options.epochs} epochs, "
        f"{cells} cells, {options.rounds} rounds, one thread a process; the results are equal "
        "bit for bit.",
        "",
        "| where | median | least | against one process, medians | efficiency per worker | others' "
        "share of the machine, median |",
        "|---|---|---|---|---|---|",
    )


def rows(found):
    alone = statistics.median(seconds for seconds, _, _ in found["one process"])
    for where, runs in found.items():
        times = [seconds for seconds, _, _ in runs]
        others = statistics.median(share for _, share, _ in runs)
        speed = alone / statistics.median(times)
        workers = where if isinstance(where, int) else 1
        name = where if workers is not where else f"{where} worker{'s' * (where > 1)}"
        yield (
            f"| {name} | {statistics.median(times):.2f} s | {min(times):.2f} s | {speed:.2f}× | "
            f"{speed / workers:.0%} | {others:.0%} |"
        )


if __name__ == "__main__":
    main()
