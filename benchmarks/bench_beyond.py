"""Effective parameters and outputs against the pattern of public code.

A: for every set of layers, or cell, a deep copy of the network, load_state_dict, and a DataLoader
of 128 over the whole test set. Both in one process, in turn. Where A would take too long, some of
its sets are timed and scaled, which the table says.

    python benchmarks/bench_beyond.py [--only mixer-digits] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

import explorer as lx
from explorer.data.datasets import load_test_set
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import reinitialise
from explorer.engine.similarity import Comparison
from explorer.weights.families.known import build_network
from explorer.weights.stack import epoch_numbers, layer_names, read_epoch

SAMPLE = 12
"""Sets that A measures; the rest is scaled."""


class Plain:
    """What public code does for a set of layers."""

    def __init__(self, stack):
        self._network = build_network(stack.attrs["family"], stack.attrs["sizes"])
        self._final = tensors(read_epoch(stack, epoch_numbers(stack)[-1]))
        self._evaluator = Evaluator(stack, device="cpu")
        examples = load_test_set(stack.attrs["dataset"])
        self._loader = DataLoader(TensorDataset(examples.inputs, examples.labels), batch_size=128)

    def logits(self, layers):
        own = self._evaluator.network.replacement(reinitialise(layers, 0)) if layers else {}
        twin = copy.deepcopy(self._network)
        twin.load_state_dict({**self._final, **own})
        twin.eval()
        with torch.no_grad():
            for inputs, labels in self._loader:
                yield twin(inputs), labels

    def error(self, layers):
        wrong = [(logits.argmax(1) != labels).float() for logits, labels in self.logits(layers)]
        return float(torch.cat(wrong).mean())

    def compare(self, layer):
        both = zip(self.logits(()), self.logits([layer]), strict=True)
        found = None
        for (intact, labels), (patched, _) in both:
            found = found or Comparison(intact.shape[1])
            found.add(labels, intact.double(), patched.double())
        return found


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def timed(work):
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def effective(name, stack, plain):
    ours, found = timed(lambda: lx.effective_parameters(stack, device="cpu", progress=False))
    layers = layer_names(stack)
    sets = [layers[: k % len(layers) + 1] for k in range(min(SAMPLE, found.attrs["measured"]))]
    each = statistics.mean(timed(lambda one=one: plain.error(one))[0] for one in sets)
    return row(name, "effective_parameters", found.attrs["measured"], len(sets), each, ours)


def outputs(name, stack, plain):
    layers = layer_names(stack)
    ours, _ = timed(lambda: lx.outputs(stack, epochs=[0], device="cpu", progress=False))
    some = layers[:SAMPLE]
    each = statistics.mean(timed(lambda one=one: plain.compare(one))[0] for one in some)
    return row(name, "outputs at epoch 0", len(layers), len(some), each, ours)


def row(name, what, count, sample, each, ours):
    a = each * count
    about = "" if sample == count else f" ({sample} timed)"
    return f"| {name} | {what} | {count} | {a:.2f} s{about} | {ours:.2f} s | {a / ours:.1f}× |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", default=["fcn3x256-digits", "vgg11-digits", "mixer-digits"]
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = [
        f"`python benchmarks/bench_beyond.py`, {platform.system()} {platform.machine()}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} thread(s).",
        "",
        "| stack | what | sets or cells | A | ours | against A |",
        "|---|---|---|---|---|---|",
    ]
    for name in options.only:
        stack = lx.open_stack(name)
        plain = Plain(stack)
        plain.error(layer_names(stack)[:1])  # warm up
        lines += [effective(name, stack, plain), outputs(name, stack, plain)]
        print("\n".join(lines[-2:]), flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
