"""The sweep against what public code does, and against the arithmetic that cannot be avoided.

A: for every cell a deep copy of the network, load_state_dict, and a DataLoader of 128 over the
whole test set. B: the layer copied in place, and the best plain batch size. Lower bound: the
operations that depend on the changed layer, fused as they are run, each at its median time measured
alone in float32, plus one intact pass. All in one process, in turn, medians; where A or B would
take too long, some of their cells are timed and scaled, which the table says.

The networks are trained for a minute on digits of the right shape, so that their margins, on which
the screen and the tolerance depend, are those of trained networks. Checkpoints are taken evenly
over the training steps, initial values included.

    python benchmarks/bench_sweep.py [--quick] [--device cuda] [--only resnet18] [--out FILE.md]
    python benchmarks/bench_sweep.py --growth
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime
import functools
import gc
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import explorer as lx
from explorer.engine.evaluator import Evaluator
from explorer.engine.replay import Replay
from explorer.weights.families.known import build_network
from explorer.weights.stack import epoch_numbers, layer_names, layer_variables, read_layer

CLICKS = 5
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
    steps: int = 100
    tolerance: float = 0.0


def fcn(depth=3, width=256):
    network = build_network("fcn", {"depth": depth, "width": width, "inputs": 784, "classes": 10})
    for parameter in network.parameters():
        if parameter.ndim == 2:
            nn.init.kaiming_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
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
    network = nn.Sequential(features, nn.Flatten(), *head)
    for layer in head:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return network


def vit():
    network = torchvision.models.VisionTransformer(32, 4, 6, 4, 128, 256, num_classes=10)
    nn.init.normal_(network.heads.head.weight, std=0.02)
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
    many = (2000, 4) if quick else (10_000, 20)
    steps = 10 if quick else 100
    digits = ("FCN 3×256", fcn, "fine", (1, 28, 28), *many)
    return [
        Work(*digits, 300),
        Work("VGG-11", vgg11, "fine", (3, 32, 32), *images, steps),
        Work(*resnet18, *images, steps),
        Work("ViT (6 × 128)", vit, encoder, (3, 32, 32), *images, 3 * steps),
        Work(*digits, 300, tolerance=0.01),
        Work(*resnet18, 1000 if quick else 10_000, images[1], steps, tolerance=0.01),
    ]


@functools.cache
def all_digits():
    return load_digits()


def digits(count, shape, seed):
    """Digits of a shape, each shifted and made a little noisy at random: inputs and labels."""
    source = all_digits()
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, len(source.target), (count,), generator=generator)
    images = torch.from_numpy(source.images).float()[chosen].unsqueeze(1) / 16 - 0.3
    images = functional.interpolate(images, shape[1:], mode="bilinear")
    shifts = torch.randint(-2, 3, (count, 2), generator=generator).tolist()
    images = torch.stack([x.roll(s, (1, 2)) for x, s in zip(images, shifts, strict=True)])
    images = images.expand(-1, shape[0], -1, -1) * 2
    noise = 0.3 * torch.randn(images.shape, generator=generator)
    return images + noise, torch.from_numpy(source.target).long()[chosen]


def trained_states(work, device):
    """Checkpoints of a short training run, the first of them initial values."""
    network = work.build().to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    at = torch.linspace(0, work.steps, work.epochs).round().int().tolist()
    states = []
    for step in range(work.steps + 1):
        if step in at:
            states += [copy.deepcopy(network).cpu().state_dict()] * at.count(step)
        inputs, labels = digits(64, work.shape, seed=1000 + step)
        loss = functional.cross_entropy(network(inputs.to(device)), labels.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return states


def main():
    """Time every work and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one repetition")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--cells", type=int, default=6, help="cells of A and B that are timed")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="instead of each work's own number")
    parser.add_argument("--clicks", type=int, default=0, help="watch memory over so many clicks")
    parser.add_argument("--growth", action="store_true", help="cost against layers, epochs, …")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [header(options.device), "", *(GROWTH if options.growth else TABLE)]
    print("\n".join(lines), flush=True)
    options.rates = {} if options.growth else matrix_rates(options.device)
    options.notes = [
        f"Large matrix products in {dtype}: {rate / 1e12:.2f} TFLOP/s"
        for dtype, rate in options.rates.items()
    ]
    if options.growth:
        rows = growth(options)
    else:
        wanted = options.only.lower()
        chosen = [w for w in works(options.quick, options.device) if wanted in w.name.lower()]
        if options.epochs:
            chosen = [dataclasses.replace(w, epochs=options.epochs) for w in chosen]
        rows = (line for work in chosen for line in work_rows(work, options))
    for line in rows:
        lines.append(line)
        print(line, flush=True)
    lines += ["", *(f"- {note}" for note in options.notes)]
    print("\n".join(lines[-len(options.notes) - 1 :]))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


TABLE = (
    "| work | cells | arithmetic | A | B | ours | against A | against B | lower bound | "
    "ours / bound | labels that differ from B | click → first estimate | click → exact | "
    "memory peak | rate, of matrix products |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
)
"""Clicks: median (most) over the layers. Rate: the operations that depend on the changed layers,
and one intact pass, over the time of the whole sweep."""

GROWTH = (
    "| FCN | cells | examples | GFLOP that depend on the changed layers | ours | GFLOP/s |",
    "|---|---|---|---|---|---|",
)


def header(device):
    """Date, machine and versions."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.machine()
    return (
        f"{datetime.date.today()} · {name}, {os.cpu_count()} cores, {torch.get_num_threads()} "
        f"threads · Python {platform.python_version()}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, layer-explorer {lx.__version__} · TF32 off"
    )


def work_rows(work, options):
    """Time one work; a line in float32 and one with the screen."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    states = trained_states(work, device)
    network = work.build().eval().requires_grad_(False)
    stack = lx.open_stack(states, model=network, layers=work.layers)
    data = digits(work.examples, work.shape, seed=1)
    inputs = data[0]
    rows = [*([layer] for layer in layer_names(stack)), layer_names(stack)]  # last: fullmodel
    cells = [(layers, epoch) for layers in rows for epoch in epoch_numbers(stack)[:-1]]
    timed = cells[:: max(1, len(cells) // options.cells)]
    final = tensors(stack, layer_names(stack), epoch_numbers(stack)[-1])

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    network.load_state_dict(final)
    network.to(device)
    few = min(work.examples, 1000)  # A and B are timed on a part of very many examples
    share = 1.0 if work.examples <= 10_000 and not work.tolerance else work.examples / few
    part = tuple(x[: round(work.examples / share)] for x in data)
    loader = DataLoader(TensorDataset(*part), batch_size=128)
    on_device = part[0].to(device)
    best = min(PLAIN_BATCHES, key=lambda b: median(lambda: plain(network, on_device[:1000], b), 1))

    scale = len(cells) / len(timed) * share
    times = {"A": [], "B": [], False: [], True: []}
    memory = {}
    for _ in range(1 if options.quick else options.repeat):
        times["A"].append(clock(lambda: [cell_a(network, stack, loader, device, c) for c in timed]))
        times["B"].append(
            clock(lambda: [cell_b(network, stack, on_device, best, c) for c in timed])
        )
        for screen in (False, True):
            before = peak_memory(device)
            times[screen].append(
                clock(lambda s=screen: sweep(stack, network, data, work, options, s))
            )
            memory.setdefault(screen, peak_memory(device) - before)
    a, b = (statistics.median(times[name]) * scale for name in ("A", "B"))
    scaled = "" if scale == 1 else f" ({len(timed)} timed for A and B"
    scaled += f", on {len(part[1]):,} examples)" if share != 1 else ")" if scaled else ""
    label = f"{work.name}, {work.examples:,} examples, {work.epochs} epochs"
    if work.tolerance:
        label += f", tolerance={work.tolerance}"
    bound = None
    for screen in (False, True):
        run = Evaluator(stack, model=network, data=data, device=options.device, screen=screen)
        ours = statistics.median(times[screen])
        bound = bound or lower_bound(run, cells)
        differing = "–"
        if not work.tolerance:
            everything = inputs.to(device)
            differing = count_differing(run, network, stack, everything, best, timed)
        first = exact = against_bound = "–"
        if not work.tolerance:
            firsts, exacts = zip(*(clicks(run, cell) for cell in one_of_each(cells)), strict=True)
            first, exact = most_and_median(firsts), most_and_median(exacts)
            against_bound = f"{ours / bound:.2f}"
        precision = "float32" if run.screen == "none" else f"{run.screen} screen"
        yield (
            f"| {label} | {len(cells)}{scaled} | {precision} | {a:.2f} s | {b:.2f} s | "
            f"{ours:.2f} s | {a / ours:.1f}× | {b / ours:.1f}× | {bound:.2f} s | {against_bound} "
            f"| {differing} | {first} | {exact} | "
            f"{memory[screen] / 1e6:.0f} MB | {rate(run, cells, work, ours, options.rates)} |"
        )
        if options.clicks:
            grown = growth_of_memory(run, options.clicks)
            options.notes.append(f"{work.name}, {precision}, {options.clicks} clicks: {grown}")


def one_of_each(cells):
    """A cell for every layer, in the middle of the epochs."""
    found = {}
    for layers, epoch in cells:
        if len(layers) == 1:
            found.setdefault(tuple(layers), []).append((layers, epoch))
    return [some[len(some) // 2] for some in found.values()]


def most_and_median(seconds):
    return f"{1e3 * statistics.median(seconds):.1f} ({1e3 * max(seconds):.1f}) ms"


def rate(run, cells, work, seconds, rates):
    """Operations per second of a sweep, and as a share of what matrix products reach."""
    if work.tolerance or not rates:
        return "–"
    plans = [run.plan(lx.reinitialise(*cell)) for cell in cells]
    passes = run.total / run.batch_size
    done = passes * (sum(plan.flops for plan in plans) + plans[0].total_flops)
    share = done / seconds / rates[run.screen.replace("none", "float32")]
    return f"{done / seconds / 1e12:.2f} TFLOP/s, {share:.0%}"


def matrix_rates(device):
    """Precision → operations per second of large matrix products."""
    found = {}
    low = torch.float16 if device.startswith("cuda") else torch.bfloat16
    size = 8192 if device.startswith("cuda") else 2048
    for dtype in (torch.float32, low):
        one = torch.randn(size, size, device=device).to(dtype)
        seconds = median(lambda one=one: one @ one, 7)
        found[str(dtype).removeprefix("torch.")] = 2 * size**3 / seconds
    return found


def growth_of_memory(run, count):
    """Memory in use before and after many clicks on fresh draws, each stopped at once."""
    layers = run.network.layers

    def click(times):
        for k in range(times):
            stream = run.estimates(lx.rerandomise(layers[k % len(layers)], draw=k))
            next(stream)
            stream.close()
        gc.collect()
        on_gpu = run.network.device.type == "cuda"
        there = torch.cuda.memory_allocated() if on_gpu else 0
        return psutil.Process().memory_info().rss, there

    before, after = click(len(layers)), click(count)
    (rss, there), (rss_after, there_after) = before, after
    return (
        f"process {rss / 1e6:.0f} → {rss_after / 1e6:.0f} MB, "
        f"device {there / 1e6:.1f} → {there_after / 1e6:.1f} MB"
    )


def growth(options):
    """How the cost of a sweep follows the arithmetic that depends on the changed layers."""
    sizes = [(d, 10, 4000) for d in (1, 2, 4, 8)]
    sizes += [(3, e, 4000) for e in (5, 10, 20, 40)] + [(3, 10, n) for n in (2000, 4000, 8000)]
    for depth, epochs, examples in sizes:
        yield growth_row(depth, epochs, examples, options)


def growth_row(depth, epochs, examples, options):
    work = Work(f"{depth}×256", lambda d=depth: fcn(d), "fine", (1, 28, 28), examples, epochs, 50)
    states = trained_states(work, torch.device("cpu"))
    network = work.build()
    stack = lx.open_stack(states, model=network, layers="fine")
    data = digits(examples, work.shape, seed=1)
    run = Evaluator(stack, model=network, data=data, device=options.device)
    names = {layer: tuple(layer_variables(stack, layer)) for layer in layer_names(stack)}
    every = tuple(name for some in names.values() for name in some)
    passes = -(-examples // run.batch_size)
    per_epoch = sum(run._counting.execution.plan(some).flops for some in [*names.values(), every])
    work_done = per_epoch * passes * (epochs - 1)
    ours = median(lambda: sweep(stack, network, data, work, options, False), options.repeat)
    cells = (len(names) + 1) * (epochs - 1)
    return (
        f"| {work.name}, {epochs} epochs | {cells} | {examples:,} | {work_done / 1e9:.0f} | "
        f"{ours:.2f} s | {work_done / 1e9 / ours:.0f} |"
    )


def sweep(stack, network, data, work, options, screen):
    return lx.sweep(
        stack,
        model=network,
        data=data,
        draws=0,
        device=options.device,
        tolerance=work.tolerance,
        screen=screen,
        progress=False,
    )


def peak_memory(device):
    """Most bytes in use so far: on the device, or resident in the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
def count_differing(run, network, stack, inputs, batch, cells):
    """Predictions in which our counts and B's differ, of all that were compared.

    Two networks with the same labels agree with the intact one, and with the truth, equally often:
    what is compared are our counts of errors and agreements with those of B's labels.
    """
    truth, intact = run._labels.cpu(), plain(network, inputs, batch)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(190201996))
    off = 0
    for cell in cells:
        labels = cell_b(network, stack, inputs, batch, cell)
        found = run.result(lx.reinitialise(*cell))
        errors = int((labels[order] != truth).sum())
        off += max(
            abs(found.errors - errors), abs(found.agreements - int((labels == intact).sum()))
        )
    return f"{off} of {len(cells) * len(inputs):,}"


@torch.inference_mode()
def lower_bound(run, cells):
    """Seconds that the dependents of all cells and one intact pass take at their best."""
    counting = run._counting
    replay = counting.execution._pass
    assert isinstance(replay, Replay)
    stack = run.network.stack
    names = [[n for layer in layers for n in layer_variables(stack, layer)] for layers, _ in cells]
    reruns = [replay._reruns[replay.plan(some).names, False] for some in names]
    known = {**replay._fixed, replay.program.inputs: counting._inputs[: run.batch_size]}
    best = {}

    def seconds(operation):
        key = operation.value, operation.reads, operation.call  # in tiles or not
        if key not in best:
            best[key] = median(lambda: operation.run(known), 7)
        return best[key]

    intact = 0.0
    for operation in replay.program.operations:
        if operation.value not in known:
            known[operation.value] = operation.run(known)
            intact += seconds(operation)
    dirty = 0.0
    for rerun in reruns:
        for operation in rerun.made:
            if operation.value not in known:
                known[operation.value] = operation.run(known)
        dirty += sum(map(seconds, rerun.apart))
    return run.total / run.batch_size * (dirty + intact)


def clicks(run, cell):
    """Median seconds from a click to its first estimate and to the exact error."""
    firsts, exacts = [], []
    for _ in range(CLICKS):
        run._remembered.clear()
        start = time.perf_counter()
        stream = run.estimates(lx.reinitialise(*cell))
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
