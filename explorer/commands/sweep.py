"""The command ``explorer sweep``."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

import explorer
from explorer.commands.options import (
    DONE,
    INTERRUPTED,
    add_draws,
    add_measuring_options,
    measuring_arguments,
)

# What a command needs is imported inside it, as in explorer/cli.py.

NAME = "sweep"
SUMMARY = "measure every (layer, epoch)"
EXAMPLES = (
    "explorer sweep fcn3x256-digits --out sweep.nc\n"
    "  explorer sweep my-stack --layers layer1 layer2 --epochs 0 1 --draws 5"
)


def add(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_measuring_options(command)
    command.add_argument("--epochs", nargs="+", type=int, help="checkpoints to take; default all")
    command.add_argument(
        "--tolerance", type=float, default=0.0, help="stop a cell when known to ± this fraction"
    )
    command.add_argument(
        "--screen",
        action="store_true",
        help="lower precision first, float32 where it decides a label",
    )
    command.add_argument("--cluster", help="measure on a Dask cluster: address of its scheduler")
    add_draws(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from explorer.ui.table import sweep_text

    with _cluster(options.cluster) as client:
        result = explorer.sweep(
            explorer.open_stack(options.stack),
            epochs=options.epochs,
            draws=options.draws,
            seed=options.seed,
            tolerance=options.tolerance,
            screen=options.screen,
            client=client,
            **measuring_arguments(options),
        )
    print(sweep_text(result, options.threshold))
    if options.out:
        from explorer.api import save_netcdf

        print(f"Data: {save_netcdf(result, options.out)}")
    return DONE if result.attrs["complete"] else INTERRUPTED


def _cluster(address: str | None) -> contextlib.AbstractContextManager[Any]:
    """Client of the cluster at an address; None where none is given."""
    if address is None:
        return contextlib.nullcontext()
    from explorer.engine.cluster import connect

    client: contextlib.AbstractContextManager[Any] = connect(address)
    return client
