"""The command ``explorer train``."""

from __future__ import annotations

import argparse
from pathlib import Path

import explorer
from explorer.commands.options import add_device
from explorer.errors import UsageError

# What a command needs is imported inside it, as in explorer/cli.py.

NAME = "train"
SUMMARY = "train a stack from its recipe"
EXAMPLES = (
    "explorer train fcn3x256-digits --out my-stack\n"
    "  explorer train fcn3x256-digits --seeds 0,1,2 --epochs 30\n"
    "  explorer train vgg11-cifar10 --width 0.25 --keep 0,1,10,100 --steps 1,2,4,8\n"
    "  explorer train resnet18bn-cifar10 --set weight_decay=5e-4 --set label_noise=1 "
    "--set augment=0\n"
    "  explorer train resnet50-imagenet --set dataset=folder:/data/imagenet "
    "--set precision=bf16"
)


def add(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    command.add_argument("name", help="name of the experiment; explorer catalog lists them")
    command.add_argument("--out", help="folder for the checkpoints; default trained/NAME")
    command.add_argument("--epochs", type=int, help="passes over the training set")
    command.add_argument("--width", help="width of the network, as its family counts it")
    seeds = command.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, help="seed of initial values and order")
    seeds.add_argument("--seeds", help="several, with commas: one folder seed-N per run")
    command.add_argument("--keep", help="epochs whose checkpoint is kept, with commas")
    command.add_argument(
        "--steps", help="optimiser steps whose checkpoint is kept as well; the stack counts steps"
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any number of the recipe or size of the family; an unknown key lists those there are",
    )
    command.add_argument("--data", help="folder of downloaded datasets")
    command.add_argument("--restart", action="store_true", help="begin anew instead of going on")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    add_device(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from explorer.training.settings import assignments
    from explorer.weights.folder import seed_folder

    shortcuts = {key: getattr(options, key) for key in ("width", "keep", "steps")}
    settings = {k: v for k, v in shortcuts.items() if v is not None} | assignments(options.set)
    out = Path(options.out or Path("trained") / options.name)
    runs = {options.seed: out}
    if options.seeds:
        runs = {seed: seed_folder(out, seed) for seed in _whole_numbers(options.seeds)}
    for seed, target in runs.items():
        folder = explorer.train(
            options.name,
            out=target,
            device=options.device,
            resume=not options.restart,
            epochs=options.epochs,
            seed=seed,
            progress=not options.quiet,
            settings=settings,
            data=options.data,
        )
        stack = explorer.open_stack(folder)
        numbers = stack.coords["epoch"].values.tolist()
        print(f"Stack with {stack.attrs['checkpoint_unit']}s {numbers} in {folder}", flush=True)
    return 0


def _whole_numbers(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise UsageError(
            f"The seeds are {text!r}.",
            "Whole numbers with commas between them are accepted.",
            "Write --seeds 0,1,2.",
        ) from error
