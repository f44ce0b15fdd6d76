"""The command ``explorer distances``."""

from __future__ import annotations

import argparse

import explorer
from explorer.commands.options import add_stack

# What a command needs is imported inside it, as in explorer/cli.py.

NAME = "distances"
SUMMARY = "measure how far weights moved"
EXAMPLES = "explorer distances fcn3x256-digits --measure linf --out distances.nc"


def add(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_stack(command, device=False)
    command.add_argument("--reference", type=int, default=0, help="checkpoint to measure from")
    measures = ["l1", "l2", "l2_per_sqrt_m", "l2_per_sqrt_fan_in", "l2_relative", "linf", "cosine"]
    command.add_argument(
        "--measure", choices=measures, default="l2_per_sqrt_m", help="what to print"
    )
    command.add_argument("--out", help="netCDF file for all measures")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from explorer.api import save_netcdf
    from explorer.stats.overview import gaps

    stack = explorer.open_stack(options.stack)
    result = explorer.distances(stack, reference=options.reference)
    print(f"{options.measure} from {stack.attrs['checkpoint_unit']} {options.reference}")
    table = result[options.measure].to_pandas().rename_axis(index=None)
    print("\n".join([table.to_string(na_rep="–"), *gaps(result)]))
    if options.out:
        print(f"Data: {save_netcdf(result, options.out)}")
    return 0
