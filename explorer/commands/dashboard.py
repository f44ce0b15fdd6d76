"""The command ``explorer dashboard``."""

from __future__ import annotations

import argparse

from explorer.commands.options import add_serving

# What a command needs is imported inside it, as in explorer/cli.py.

NAME = "dashboard"
SUMMARY = "show the explorer alone in a browser"
EXAMPLES = "explorer dashboard\n  explorer dashboard vit-digits --port 8891 --no-browser"


def add(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    command.add_argument("stack", nargs="?", help="name of a stack, or a folder of checkpoints")
    add_serving(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from explorer.servers import open_dashboard

    return open_dashboard(options.stack, options.port, not options.no_browser)
