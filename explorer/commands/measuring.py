"""Options that the commands of this folder share."""

from __future__ import annotations

import argparse
from typing import Any

EXIT_INTERRUPTED = 130
"""Exit status after Ctrl-C; what was measured is printed and written."""

SHARED = ("layers", "device", "batch_size", "batchnorm", "memory", "store")
"""Options that have the names of the public functions' arguments."""


def add_measuring_options(command: argparse.ArgumentParser) -> None:
    """Declare how a stack is measured."""
    command.add_argument("stack", help="name of a stack, or a folder of checkpoints")
    command.add_argument("--layers", nargs="+", help="layers to measure; default all")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    command.add_argument("--batch-size", type=int, help="examples per forward pass")
    command.add_argument(
        "--batchnorm",
        default="with_layer",
        choices=["with_layer", "weights_only", "recalibrate"],
        help="what happens to running statistics",
    )
    command.add_argument("--memory", type=int, help="bytes that the values of one pass may take")
    command.add_argument("--store", help="file that keeps finished counts, to go on after a stop")
    command.add_argument("--out", help="netCDF file for the data")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def measuring_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of a public function that these options stand for."""
    return {**{name: getattr(options, name) for name in SHARED}, "progress": not options.quiet}
