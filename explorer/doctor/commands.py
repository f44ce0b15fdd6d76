"""The commands ``explorer check`` and ``explorer diff``: their options, output and exit status."""

from __future__ import annotations

import argparse
import json
import sys

# What a command needs is imported inside it, as in explorer/cli.py.

CHECK_EXAMPLES = (
    "explorer check fcn3x256-digits\n"
    "  explorer check my-run --strict && explorer sweep my-run\n"
    "  explorer check my-run --json > findings.json\n\n"
    "exit status: 0 no error was found, 1 at least one error (with --strict: or warning),\n"
    "2 there was nothing to examine. Notes never count."
)
DIFF_EXAMPLES = (
    "explorer diff my-run other-run\n"
    "  explorer diff fcn3x256-digits@3 fcn3x256-digits@100\n"
    "  explorer diff fcn3x256-digits@100 fcn3x256-digits --measure cosine\n\n"
    "exit status: 0 the same bit for bit, 1 different, 2 they could not be compared."
)

SAME, DIFFERENT, TROUBLE = 0, 1, 2
"""Exit statuses, as those of diff(1)."""


def add_check_options(command: argparse.ArgumentParser) -> None:
    """Declare what ``explorer check`` takes."""
    command.add_argument(
        "stack", help="name of a stack, or a folder of checkpoints, damaged or not"
    )
    command.add_argument("--strict", action="store_true", help="exit status 1 for warnings too")
    command.add_argument("--seed", type=int, default=0, help="seed of the fresh draws")
    _add_output(command)
    command.set_defaults(run=_check)


def add_diff_options(command: argparse.ArgumentParser) -> None:
    """Declare what ``explorer diff`` takes."""
    about = "name of a stack, folder or file; NAME@EPOCH is one checkpoint"
    command.add_argument("a", help=about)
    command.add_argument("b", help="the same; what is compared is how far B is from A")
    command.add_argument(
        "--measure",
        default="l2_per_sqrt_m",
        choices=[
            "l1",
            "l2",
            "l2_per_sqrt_m",
            "l2_per_sqrt_fan_in",
            "l2_relative",
            "linf",
            "cosine",
        ],
        help="what to print of several pairs of checkpoints; of one pair, all are printed",
    )
    _add_output(command)
    command.set_defaults(run=_diff)


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def _check(options: argparse.Namespace) -> int:
    from explorer.doctor.check import check

    diagnosis = check(options.stack, seed=options.seed, progress=not options.quiet)
    _print(diagnosis.as_json() if options.json else str(diagnosis))
    return DIFFERENT if diagnosis.at_least("warning" if options.strict else "error") else SAME


def _diff(options: argparse.Namespace) -> int:
    from explorer.doctor.diff import diff

    found = diff(options.a, options.b, progress=not options.quiet)
    _print(found.as_json() if options.json else found.text(options.measure))
    if found.same:
        return SAME
    return DIFFERENT if found.complete else TROUBLE


def _print(said: object) -> None:
    sys.stdout.write(said if isinstance(said, str) else json.dumps(said, indent=1, allow_nan=False))
    sys.stdout.write("\n")
