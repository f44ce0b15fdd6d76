"""The command `explorer`: the public functions for people who are not in Python."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import explorer
from explorer.commands import (
    catalog,
    compare,
    criticality,
    dashboard,
    data,
    distances,
    effective,
    lab,
    motion,
    outputs,
    paths,
    report,
    sweep,
    train,
    verdicts,
)
from explorer.commands.options import INTERRUPTED
from explorer.doctor import commands as doctor
from explorer.errors import ExplorerError

# What a command needs is imported inside it: torch, bokeh and numba take seconds, and
# `explorer --help` needs none of them.

EXIT_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0: done. 2: bad input, explained on standard error. 130: interrupted, what was measured is
    kept.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except ExplorerError as error:
        print(f"explorer: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("explorer: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has left
        sys.stdout = None  # nothing more to flush at exit
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="explorer",
        description="Which layers of a trained network matter, and since when?",
        epilog="example: explorer sweep fcn3x256-digits",
    )
    parser.add_argument("--version", action="version", version=explorer.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (
        *(catalog, data, train, sweep, distances, report),
        *(verdicts, effective, outputs, motion, criticality, paths, compare),
    ):
        module.add(_command(commands, module.NAME, module.SUMMARY, module.EXAMPLES))
    _add_check(commands)
    _add_diff(commands)
    for module in (lab, dashboard):
        module.add(_command(commands, module.NAME, module.SUMMARY, module.EXAMPLES))
    return parser


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def _add_check(commands: Commands) -> None:
    summary = "examine a stack, damaged or not"
    doctor.add_check_options(_command(commands, "check", summary, doctor.CHECK_EXAMPLES))


def _add_diff(commands: Commands) -> None:
    summary = "compare two stacks or checkpoints, layer by layer"
    doctor.add_diff_options(_command(commands, "diff", summary, doctor.DIFF_EXAMPLES))


def _command(commands: Commands, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
