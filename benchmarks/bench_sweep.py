"""The sweep against what public code does, and against the arithmetic that cannot be avoided.

A: for every cell a deep copy of the network, load_state_dict, and a DataLoader of 128 over the
whole test set. B: the layer copied in place, and the best plain batch size. Lower bound: the
operations that depend on the changed layer, each at its best time measured alone, plus one intact
pass. All in one process, in turn, medians; where A or B would take too long, some of their cells
are timed and scaled, which the table says.

    python benchmarks/bench_sweep.py [--quick] [--device cuda] [--only resnet18] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import copy
import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import explorer as lx
from explorer.engine.evaluate import Evaluator
from explorer.engine.replay import Replay
from explorer.weights.families.known import build_network
from explorer.weights.stack import epoch_numbers, layer_names, layer_variables, read_layer

PLAIN_BATCHES = (64, 128, 256, 512, 1000)


@dataclass(frozen=True)
class Work:
    """One network with a stack of checkpoints and test examples."""

    name: str
    build: Callable[[], nn.Module]
    layers: object
    shape: tuple[int, ...]
    examples: int
    epochs: int


def fcn():
    network = build_network("fcn", {"depth": 3, "width": 256, "inputs": 784, "classes": 10})
    for parameter in network.parameters():
        nn.init.uniform_(parameter, -0.05, 0.05)
    return network


def resnet(name):
    """CIFAR form: 3×3 stem, no initial down-sampling."""
    network = getattr(torchvision.models, name)(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def vgg11():
    """CIFAR form: the features on 32×32, and a head of three linear layers of 512."""
    features = torchvision.models.vgg11().features
    head = [nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(features, nn.Flatten(), *head)


def vit():
    network = torchvision.models.VisionTransformer(32, 4, 6, 4, 128, 256, num_classes=10)
    nn.init.normal_(network.heads.head.weight, std=0.1)
    return network


def works(quick, device):
    """The table of the issue: CPU sizes, and larger ones for a GPU."""
    units = [r"^layer\d\.\d", r"^fc", r"^(conv1|bn1)"]
    encoder = [r"encoder_layer_\d\.(self_attention|mlp|ln_1|ln_2)", r"^\w+"]
    resnet18 = ("ResNet-18", lambda: resnet("resnet18"), units, (3, 32, 32))
    if device.startswith("cuda"):
        resnet50 = ("ResNet-50", lambda: resnet("resnet50"), units, (3, 32, 32))
        size = (2000, 4) if quick else (10_000, 20)
        return [Work(*resnet18, *size), Work(*resnet50, *size)]
    images = (64, 2) if quick else (256, 5)
    return [
        Work("FCN 3×256", fcn, "fine", (1, 28, 28), *((2000, 4) if quick else (10_000, 20))),
        Work("VGG-11", vgg11, "fine", (3, 32, 32), *images),
        Work(*resnet18, *images),
        Work("ViT (6 × 128)", vit, encoder, (3, 32, 32), *images),
    ]


def main():
    """Time every work and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one repetition")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--cells", type=int, default=6, help="cells of A and B that are timed")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [header(options.device), "", TABLE]
    for work in works(options.quick, options.device):
        if options.only.lower() in work.name.lower():
            lines.append(row(work, options))
            print(lines[-1], flush=True)
    text = "\n".join(lines)
    print("\n" + text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


TABLE = (
    "| work | cells | A | B | ours | against A | against B | lower bound | ours / bound | "
    "labels that differ from B | click → first estimate | click → exact |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)


def header(device):
    """Date, machine and versions."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return (
        f"{datetime.date.today()} · {name}, {os.cpu_count()} cores, {torch.get_num_threads()} "
        f"threads · Python {platform.python_version()}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, layer-explorer {lx.__version__} · float32, TF32 off"
    )


def row(work, options):
    """Time one work."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    states = [work.build().state_dict() for _ in range(work.epochs)]
    network = work.build().eval().requires_grad_(False)
    stack = lx.open_stack(states, model=network, layers=work.layers)
    inputs = torch.randn(work.examples, *work.shape)
    data = inputs, torch.randint(0, 10, (work.examples,))
    rows = [*([layer] for layer in layer_names(stack)), layer_names(stack)]  # last: fullmodel
    cells = [(layers, epoch) for layers in rows for epoch in epoch_numbers(stack)[:-1]]
    timed = cells[:: max(1, len(cells) // options.cells)]
    final = tensors(stack, layer_names(stack), epoch_numbers(stack)[-1])

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    network.load_state_dict(final)
    network.to(device)
    loader = DataLoader(TensorDataset(*data), batch_size=128)
    on_device = inputs.to(device)
    best = min(PLAIN_BATCHES, key=lambda b: median(lambda: plain(network, on_device[:1000], b), 1))

    evaluator = Evaluator(stack, model=network, data=data, device=options.device)
    a, b, ours = [], [], []
    for _ in range(1 if options.quick else options.repeat):
        a.append(clock(lambda: [cell_a(network, stack, loader, device, c) for c in timed]))
        b.append(clock(lambda: [cell_b(network, stack, on_device, best, c) for c in timed]))
        ours.append(clock(lambda: sweep(stack, network, data, options.device)))
    scale = len(cells) / len(timed)
    times = [statistics.median(a) * scale, statistics.median(b) * scale, statistics.median(ours)]
    bound = lower_bound(evaluator, cells)
    differing = count_differing(evaluator, network, stack, on_device, best, timed)
    first, exact = clicks(evaluator, cells[len(cells) // 2])
    scaled = "" if len(timed) == len(cells) else f" ({len(timed)} timed for A and B)"
    return (
        f"| {work.name}, {work.examples:,} examples, {work.epochs} epochs | {len(cells)}{scaled} | "
        f"{times[0]:.2f} s | {times[1]:.2f} s | {times[2]:.2f} s | {times[0] / times[2]:.1f}× | "
        f"{times[1] / times[2]:.1f}× | {bound:.2f} s | {times[2] / bound:.2f} | {differing} | "
        f"{1e3 * first:.1f} ms | {1e3 * exact:.1f} ms |"
    )


def sweep(stack, network, data, device):
    return lx.sweep(stack, model=network, data=data, draws=0, device=device, progress=False)


def tensors(stack, layers, epoch):
    arrays = {n: a for layer in layers for n, a in read_layer(stack, layer, epoch).items()}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def cell_a(network, stack, loader, device, cell):
    """As public code does it."""
    twin = copy.deepcopy(network)
    replaced = tensors(stack, *cell)
    twin.load_state_dict({**twin.state_dict(), **replaced})
    twin.eval()
    wrong = 0
    with torch.no_grad():
        for inputs, labels in loader:
            predicted = twin(inputs.to(device)).argmax(1)
            wrong += (predicted != labels.to(device)).sum().item()
    return wrong


def cell_b(network, stack, inputs, batch, cell):
    """The layer copied in place, the best plain batch, and the layer put back."""
    state = network.state_dict()
    replaced = tensors(stack, *cell)
    kept = {name: state[name].clone() for name in replaced}
    for name, tensor in replaced.items():
        state[name].copy_(tensor)
    labels = plain(network, inputs, batch)
    for name, tensor in kept.items():
        state[name].copy_(tensor)
    return labels


@torch.inference_mode()
def plain(network, inputs, batch):
    return torch.cat([network(part).argmax(1) for part in inputs.split(batch)]).cpu()


@torch.inference_mode()
def count_differing(evaluator, network, stack, inputs, batch, cells):
    """Predictions in which our pass and B's differ, of all that were compared."""
    wrong = 0
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(190201996))
    for cell in cells:
        replacement = evaluator.network.replacement(lx.reinitialise(*cell))
        prepared = [evaluator._execution.prepare(replacement)]
        logits = [
            dict(evaluator._execution.run(part, [replacement], prepared, intact=False))[0]
            for part in evaluator._inputs.split(evaluator.batch_size)
        ]
        ours = torch.cat(logits).argmax(1)[: len(inputs)].cpu()
        wrong += int((ours != cell_b(network, stack, inputs, batch, cell)[order]).sum())
    return f"{wrong} of {len(cells) * len(inputs):,}"


@torch.inference_mode()
def lower_bound(evaluator, cells):
    """Seconds that the dependents of all cells and one intact pass take at their best."""
    replay = evaluator._execution._pass
    assert isinstance(replay, Replay)
    known = {**replay._fixed, replay.program.inputs: evaluator._inputs[: evaluator.batch_size]}
    best = {}
    for operation in replay.program.operations:
        if operation.value not in known:
            known[operation.value] = operation.run(known)
            best[operation.value] = median(lambda o=operation: o.run(known), 7)
    passes = evaluator.total / evaluator.batch_size
    stack = evaluator.network.stack
    names = [[n for layer in layers for n in layer_variables(stack, layer)] for layers, _ in cells]
    dirty = sum(best[o.value] for replaced in names for o in replay.plan(replaced).rerun)
    return passes * (dirty + sum(best.values()))


def clicks(evaluator, cell):
    """Median seconds from a click to its first estimate and to the exact error."""
    firsts, exacts = [], []
    for _ in range(11):
        start = time.perf_counter()
        stream = evaluator.estimates(lx.reinitialise(*cell))
        next(stream)
        firsts.append(time.perf_counter() - start)
        list(stream)
        exacts.append(time.perf_counter() - start)
    return statistics.median(firsts), statistics.median(exacts)


def median(work, repeat):
    work()
    return statistics.median(clock(work) for _ in range(repeat))


def clock(work):
    """Seconds that some work takes, the device's included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
