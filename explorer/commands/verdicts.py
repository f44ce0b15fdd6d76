"""The command ``explorer verdicts``."""

from __future__ import annotations

import argparse
from pathlib import Path

from explorer.commands.options import add_out, add_threshold, finish

NAME = "verdicts"
SUMMARY = "call each layer robust, critical or mixed, with tests"
EXAMPLES = (
    "explorer verdicts fcn3x256-digits --margin 0.02\n"
    "  explorer verdicts sweep.nc other-seed.nc --level 0.01 --picture verdicts.html\n"
    "  explorer verdicts trained/seed-0 trained/seed-1"
)


def add(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    command.add_argument(
        "runs",
        nargs="+",
        help="sweeps (netCDF files, or names of bundled stacks), or folders of checkpoints, which "
        "are swept first; several runs of the same layers and epochs are compared",
    )
    add_threshold(command)
    command.add_argument("--level", type=float, default=0.05, help="probability of a false word")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add_out(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import explorer
    from explorer.ui.verdict_figure import verdict_figure
    from explorer.ui.verdict_table import verdict_text

    runs = {
        name: explorer.open_stack(name) if Path(name).is_dir() else name for name in options.runs
    }
    found = explorer.verdicts(
        runs if len(runs) > 1 else next(iter(runs.values())),
        threshold=options.threshold,
        margin=options.margin,
        level=options.level,
        device=options.device,
    )
    return finish(options, found, verdict_text(found), "Verdicts", verdict_figure)
