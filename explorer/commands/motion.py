"""The command ``explorer motion``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from explorer.commands.options import add_out, finish

if TYPE_CHECKING:
    import xarray as xr

NAME = "motion"
SUMMARY = "measure how layers move during training, beside the error"
EXAMPLES = (
    "explorer motion fcn3x256-digits --sweep fcn3x256-digits\n"
    "  explorer motion my-stack --show step --sweep sweep.nc --picture motion.html"
)


def add(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    command.add_argument("stack", help="name of a stack, or a folder of checkpoints")
    command.add_argument(
        "--sweep", help="name or file of its sweep, to set motion beside the error"
    )
    command.add_argument(
        "--show",
        default="rotation",
        choices=[
            "rotation",
            "step",
            "step_per_epoch",
            "sign_flips",
            "spectral_norm",
            "stable_rank",
        ],
        help="what to print; the file has all",
    )
    add_out(command)
    command.set_defaults(run=_run)


def motion_text(found: xr.Dataset, show: str) -> str:
    """Write one quantity over layers or matrices and checkpoints, and the rank correlations."""
    import pandas as pd

    from explorer.ui.motion_figure import WORDS, correlation_words

    shown = found[show]
    names = shown[shown.dims[0]].values
    frame = pd.DataFrame(shown.values, names, found["epoch"].values)
    lines = [
        f"{found.attrs['stack_title']}: {shown.attrs['long_name']}",
        "",
        frame.to_string(float_format="{:.4g}".format),
    ]
    for name in found["quantity"].values if "quantity" in found.dims else ():
        one = found.sel(quantity=name)
        lines.append(f"\n{WORDS[str(name)]}: {correlation_words(one)}")
    return "\n".join(lines)


def _run(options: argparse.Namespace) -> int:
    import explorer
    from explorer.ui.motion_figure import motion_figure

    sweep = None if options.sweep is None else explorer.open_sweep(options.sweep)
    found = explorer.motion(explorer.open_stack(options.stack), sweep=sweep)
    return finish(options, found, motion_text(found, options.show), "Motion", motion_figure)
