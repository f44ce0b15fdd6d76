"""Options, output and exit statuses that several commands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

# What a command needs is imported inside it, as in explorer/cli.py.

DONE, INTERRUPTED = 0, 130
"""Exit statuses: all is measured; interrupted, what was measured is kept."""

SHARED = ("layers", "device", "batch_size", "batchnorm", "memory", "store")
"""Options that have the names of the public functions' arguments."""


def add_stack(command: argparse.ArgumentParser, device: bool = True) -> None:
    """Declare the stack and, where its network is run, the device."""
    command.add_argument("stack", help="name of a stack, or a folder of checkpoints")
    if device:
        add_device(command)


def add_device(command: argparse.ArgumentParser) -> None:
    """Declare what the network runs on."""
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")


def add_draws(command: argparse.ArgumentParser) -> None:
    """Declare the fresh draws of a sweep, and where its table calls a layer critical."""
    command.add_argument("--draws", type=int, default=3, help="fresh draws per layer")
    command.add_argument("--seed", type=int, default=0, help="seed of the fresh draws")
    command.add_argument(
        "--threshold", type=float, default=0.1, help="share of the way to chance that is critical"
    )


def add_threshold(command: argparse.ArgumentParser) -> None:
    """Declare how much damage is allowed."""
    command.add_argument(
        "--threshold", type=float, default=0.1, help="share of the way to chance that is allowed"
    )
    command.add_argument("--margin", type=float, help="allowed increase of the error instead, 0…1")


def add_serving(command: argparse.ArgumentParser) -> None:
    """Declare where a server listens, and whether a browser is opened."""
    command.add_argument("--port", type=int, help="port to listen on; default a free one")
    command.add_argument("--no-browser", action="store_true", help="only print the address")


def add_out(command: argparse.ArgumentParser) -> None:
    """Declare where the numbers and the picture go."""
    command.add_argument("--out", help="netCDF file for the data")
    command.add_argument("--picture", help="HTML file for the picture")


def finish(options: argparse.Namespace, found: xr.Dataset, text: str, name: str, draw: Any) -> int:
    """Print the text, write the files that were asked for, and give the exit status.

    Parameters
    ----------
    options : argparse.Namespace
        With what `add_out` declares.
    found : xarray.Dataset
        What was measured; its attribute ``complete`` tells whether all is there.
    text : str
        What is printed.
    name : str
        Title of the page with the picture.
    draw : callable
        Makes the figure of what was measured.
    """
    from explorer.api import save_netcdf

    sys.stdout.write(f"{text}\n")
    if options.out:
        print(f"Data: {save_netcdf(found, options.out)}")
    if options.picture:
        from explorer.ui.figure_page import write_figure

        print(f"Picture: {write_figure(draw(found), name, Path(options.picture))}")
    return DONE if found.attrs.get("complete", 1) else INTERRUPTED


def add_measuring_options(command: argparse.ArgumentParser) -> None:
    """Declare how a stack is measured."""
    add_stack(command)
    command.add_argument("--layers", nargs="+", help="layers to measure; default all")
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
