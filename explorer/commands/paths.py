"""The command ``explorer paths``: its options, its tables and its exit status."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Literal

from explorer.commands.options import (
    DONE,
    INTERRUPTED,
    add_measuring_options,
    measuring_arguments,
)
from explorer.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr

# What the command needs is imported inside it, as in explorer/cli.py.

NAME = "paths"
SUMMARY = "measure straight lines between checkpoints, layer by layer"
EXAMPLES = (
    "explorer paths fcn3x256-digits\n"
    "  explorer paths run-0 --other run-1 --start same --cumulative --out paths.nc\n"
    "  explorer paths run-0 --other run-1 --epochs 100 --batchnorm recalibrate"
)


def add(command: argparse.ArgumentParser) -> None:
    """Declare what ``explorer paths`` takes."""
    add_measuring_options(command)
    command.add_argument("--other", help="another run, to whose checkpoints the paths lead")
    command.add_argument("--start", help="checkpoint where they begin; default the last; or same")
    command.add_argument("--epochs", nargs="+", type=int, help="checkpoints they lead to")
    command.add_argument("--shares", nargs="+", type=float, help="points on them, 0 to 1")
    command.add_argument(
        "--cumulative", action="store_true", help="also all layers up to, and from, each layer"
    )
    command.add_argument(
        "--quantity", default="error", choices=["error", "loss"], help="what to print"
    )
    command.set_defaults(run=_paths)


def _paths(options: argparse.Namespace) -> int:
    import explorer
    from explorer.api import save_netcdf

    found = explorer.paths(
        explorer.open_stack(options.stack),
        other=None if options.other is None else explorer.open_stack(options.other),
        start=_start(options.start),
        epochs=options.epochs,
        cumulative=options.cumulative,
        **({} if options.shares is None else {"shares": options.shares}),
        **measuring_arguments(options),
    )
    print(paths_text(found, options.quantity))
    if options.out:
        print(f"Data: {save_netcdf(found, options.out)}")
    return DONE if found.attrs["complete"] else INTERRUPTED


def _start(text: str | None) -> int | Literal["same"] | None:
    if text is None:
        return None
    if text == "same":
        return "same"
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(
            f"The start is {text!r}.",
            "The number of a checkpoint, or the word same, is accepted.",
            "Leave --start out to begin at the last checkpoint.",
        ) from error


def paths_text(found: xr.Dataset, quantity: str) -> str:
    """Write the barriers of all paths as tables, layers by checkpoints of B."""
    attrs = found.attrs
    unit, start = attrs["checkpoint_unit"], attrs["start"]
    begin = f"{unit} {start}" if start >= 0 else f"the same {unit}"
    kinds = {"": "one layer moves", "upto_": "all up to it", "from_": "all from it on"}
    lines = [f"{attrs['stack_title']}: barriers of the {quantity} from {begin} to {attrs['other']}"]
    for prefix, about in kinds.items():
        name = f"{prefix}{quantity}_barrier"
        if name in found:
            lines += ["", f"{about}:", _table(found[name])]
    whole = found[f"whole_{quantity}_barrier"].expand_dims(layer=[""])
    return "\n".join([*lines, "", "whole network:", _table(whole)])


def _table(barriers: xr.DataArray) -> str:
    import pandas as pd

    rows = barriers.transpose("layer", "epoch").values
    frame = pd.DataFrame(rows, barriers["layer"].values, barriers["epoch"].values)
    return str(frame.to_string(float_format=lambda height: f"{height:.4f}", na_rep="–"))
