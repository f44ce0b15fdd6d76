"""The command ``explorer report``."""

from __future__ import annotations

import argparse
from pathlib import Path

import explorer
from explorer.commands.options import DONE, INTERRUPTED, add_draws, add_stack

# What a command needs is imported inside it, as in explorer/cli.py.

NAME = "report"
SUMMARY = "sweep, and write report.html and the data as netCDF"
EXAMPLES = "explorer report fcn3x256-digits --out explorer-report"


def add(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_stack(command)
    command.add_argument("--out", default="explorer-report", help="folder for the files")
    add_draws(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from explorer.api import save_netcdf
    from explorer.ui.report import write_report
    from explorer.ui.table import sweep_text

    folder = Path(options.out)
    stack = explorer.open_stack(options.stack)
    result = explorer.sweep(stack, draws=options.draws, seed=options.seed, device=options.device)
    distances = explorer.distances(stack, draws=options.draws, seed=options.seed)
    print(sweep_text(result, options.threshold))
    print(f"\nData:   {save_netcdf(result, folder / 'sweep.nc')}")
    print(f"        {save_netcdf(distances, folder / 'distances.nc')}")
    print(f"Report: {write_report(result, distances, folder / 'report.html')}")
    return DONE if result.attrs["complete"] else INTERRUPTED
