"""The criticality of layers: the search against the public grid of 11 × 11 points and 10 draws.

For each layer the whole grid is measured by the engine with all draws, its μ is compared with that
of the search over the same draws, and with that of the search under other seeds: that spread is
the noise of μ. The public pattern, a deep copy, load_state_dict and a whole pass in batches of 128
for each of 1,210 points and draws, is timed over some of them and scaled, which the table says.

    python benchmarks/bench_criticality.py [--quick] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import copy
import datetime
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout that is not installed

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

import explorer as lx  # noqa: E402
from explorer.data.datasets import load_test_set  # noqa: E402
from explorer.weights.families.known import build_network  # noqa: E402
from explorer.weights.stack import epoch_numbers, read_epoch, read_layer  # noqa: E402

PUBLIC_PASSES = 11 * 11 * 10
SEEDS = (0, 1, 2, 3)
WORK = {
    "fcn3x256-digits": ["layer1", "layer2", "layer3", "layer4"],
    "vgg11-digits": ["fc1", "final_linear"],
    "resnet18bn-digits": ["final_linear"],
}
"""Stack → layers: all of the first, of the others some, since a whole grid takes minutes."""


@dataclass(frozen=True)
class Row:
    stack: str
    layer: str
    grid: float
    search: float
    spread: list[float]
    passes: float
    grid_s: float
    search_s: float
    public_s: float
    uneven: int


def public_seconds(stack, layer, points):
    """Processor time of one point and draw as public code does it, the mean over some."""
    epochs = epoch_numbers(stack)
    states = [
        {n: torch.from_numpy(np.array(a)) for n, a in found.items()}
        for found in (read_epoch(stack, epochs[-1]), read_layer(stack, layer, epochs[0]))
    ]
    final, start = states
    network = build_network(stack.attrs["family"], stack.attrs["sizes"])
    network.load_state_dict(final)
    test = load_test_set(stack.attrs["dataset"])
    loader = DataLoader(TensorDataset(test.inputs, test.labels), batch_size=128)
    taken = []
    for _ in range(points):
        began = time.process_time()
        twin = copy.deepcopy(network).eval()
        moved = {
            name: 0.5 * tensor + 0.5 * final[name] + 0.01 * torch.randn(tensor.shape)
            for name, tensor in start.items()
            if tensor.is_floating_point()
        }
        twin.load_state_dict({**final, **moved})
        with torch.no_grad():
            loss = sum(
                float(torch.nn.functional.cross_entropy(twin(x), y, reduction="sum"))
                for x, y in loader
            )
        assert loss > 0
        taken.append(time.process_time() - began)
    return statistics.mean(taken)


def timed(call):
    began = time.process_time()
    return call(), time.process_time() - began


def measured(stack, name, layer, points, alphas):
    def found(**options):
        return lx.criticality(
            stack, layers=[layer], alphas=alphas, device="cpu", progress=False, **options
        )

    grid, grid_s = timed(lambda: found(every_cell=True))
    search, search_s = timed(found)
    others = [found(seed=seed) for seed in SEEDS[1:]]
    good = grid["good_enough"].values[0] == 1
    uneven = int((np.diff(good.astype(int), axis=1) > 0).any(1).sum())
    return Row(
        name,
        layer,
        grid["criticality"].item(),
        search["criticality"].item(),
        [one["criticality"].item() for one in (search, *others)],
        search["passes"].item(),
        grid_s,
        search_s,
        public_seconds(stack, layer, points) * PUBLIC_PASSES,
        uneven,
    )


def line(row):
    spread = f"{min(row.spread):.3g} … {max(row.spread):.3g}"
    cells = [
        row.stack,
        row.layer,
        f"{row.grid:.4g}",
        f"{row.search:.4g}",
        spread,
        f"{row.passes:.0f}",
        f"{PUBLIC_PASSES / row.passes:.0f}×",
        f"{row.public_s:.1f} s",
        f"{row.grid_s:.1f} s",
        f"{row.search_s:.2f} s",
        f"{row.public_s / row.search_s:.0f}×",
        str(row.uneven),
    ]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| stack | layer | μ, whole grid | μ, search | μ, search, seeds 0 to 3 | passes | fewer than "
    "1,210 | public pattern, scaled | whole grid by the engine | search | against public | α whose "
    "points are not monotone in σ |"
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one layer of each stack, 3 alphas")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        f"{datetime.date.today()} · {platform.machine()}, {os.cpu_count()} cores, 1 thread, other "
        f"work running · Python {platform.python_version()}, torch {torch.__version__}, "
        f"layer-explorer {lx.__version__} · processor time",
        "",
        HEAD,
        "|" + "---|" * HEAD.count(" | ") + "---|",
    ]
    print("\n".join(lines), flush=True)
    for name, layers in WORK.items():
        stack = lx.open_stack(name)
        lx.criticality(stack, layers=layers[:1], alphas=[1], draws=1, progress=False)  # imports
        for layer in layers[:1] if options.quick else layers:
            row = measured(stack, name, layer, 5, 3 if options.quick else 11)
            lines.append(line(row))
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
