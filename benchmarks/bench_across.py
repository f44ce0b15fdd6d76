"""Small fully connected networks beside each other: width, depth, seed, normalisation, labels.

Trains each on the digits with `explorer.train`, then `explorer.compare`. The two networks for true
and random labels see every image at one place and are measured on their own training examples: no
test set has random labels that could be learned.

    python benchmarks/bench_across.py [--epochs 60] [--folder trained/across] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import explorer as lx
from explorer.data.datasets import load_training_set
from explorer.ui.across_page import comparison_frame, comparison_rule, write_comparison

BASE = {"dataset": "digits16", "inputs": 256, "width": 64, "learning_rate": 0.1, "keep": ""}
"""What all have in common: the recipe of fcn3x256-digits on smaller images."""

LABELS = {"width": 256, "augment": False}
"""What the two for true and random labels have besides."""

LONGER = 6
"""Times the epochs for those two: random labels take long to learn by heart."""

RUNS = {
    "width 64, seed 0": ({}, 0),
    "seed 1": ({}, 1),
    "seed 2": ({}, 2),
    "width 16": ({"width": 16}, 0),
    "width 256": ({"width": 256}, 0),
    "depth 1": ({"depth": 1}, 0),
    "depth 6": ({"depth": 6}, 0),
    "BatchNorm": ({"batchnorm": 1}, 0),
    "true labels": (LABELS, 0),
    "random labels": ({**LABELS, "label_noise": 1.0}, 0),
}
"""Label → settings that differ, seed."""


def trained(folder, epochs):
    """Folder of each run, trained unless that is done."""
    keep = ",".join(str(e) for e in (0, 1, 2, 4, 8, 16, 32) if e < epochs)
    folders = {}
    for label, (changes, seed) in RUNS.items():
        target = folder / label.replace(" ", "-").replace(",", "")
        settings = {**BASE, "keep": keep, **changes}
        own = LONGER * epochs if "augment" in changes else epochs
        options = {"epochs": own, "seed": seed, "settings": settings, "progress": False}
        folders[label] = lx.train("fcn3x256-digits", out=target, device="cpu", **options)
        print(f"{label}: trained", flush=True)
    return folders


def own_examples(noise):
    """Training examples as a network without augmentation saw them, with their labels."""
    found = load_training_set("digits16", augment=False, label_noise=noise, seed=0)
    return found.plain, found.labels


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path("trained/across"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folders = trained(options.folder, options.epochs)
    data = {"true labels": own_examples(0.0), "random labels": own_examples(1.0)}
    start = time.perf_counter()
    found = lx.compare(
        folders,
        data=data,
        effective=True,
        device="cpu",
        progress=False,
        store=options.folder / "kept",
    )
    seconds = time.perf_counter() - start
    write_comparison(found, options.folder / "compare.html")
    frame = comparison_frame(found)
    lines = [
        f"`python benchmarks/bench_across.py --epochs {options.epochs}`, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"xarray {xr.__version__}, numpy {np.__version__}, "
        f"{torch.get_num_threads()} thread(s); `compare` took {seconds:.0f} s.",
        "",
        f"| stack | {' | '.join(frame.columns)} |",
        f"|---|{'---|' * len(frame.columns)}",
        *(
            f"| {name} | {' | '.join(row)} |"
            for name, row in zip(frame.index, frame.values, strict=True)
        ),
        "",
        comparison_rule(found),
        "",
        "Rank correlation of the layers' damage, and share of layers with the same verdict, of "
        "pairs with the same layer names:",
        "",
        *pairs(found["summary"]),
        "",
        "Damage of each layer put back to the first checkpoint, then given fresh draws:",
        "",
        *damages(found),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


def pairs(summary):
    """Rows of the table of pairs."""
    yield "| stack | other | rank correlation | same verdicts |"
    yield "|---|---|---|---|"
    labels = summary["stack"].values.tolist()
    for i, one in enumerate(labels):
        for other in labels[i + 1 :]:
            pair = summary.sel(stack=one, other=other)
            rank, same = float(pair["rank_correlation"]), float(pair["same_verdicts"])
            if rank == rank or same == same:
                yield f"| {one} | {other} | {rank:+.2f} | {same:.0%} |"


def damages(found):
    """Rows of the table of layers."""
    yield "| stack | first checkpoint | fresh draws |"
    yield "|---|---|---|"
    for label, node in found["stacks"].children.items():
        first = [f"{d:.2f}" for d in node["damage"].values[:, 0]]
        fresh = [f"{d:.2f}" for d in node["rerandomized_damage"].mean("draw").values]
        yield f"| {label} | {' '.join(first)} | {' '.join(fresh)} |"


if __name__ == "__main__":
    main()
