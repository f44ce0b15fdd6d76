"""The command ``explorer lab``."""

from __future__ import annotations

import argparse
from pathlib import Path

from explorer.commands.options import add_serving

# What a command needs is imported inside it, as in explorer/cli.py.

NAME = "lab"
SUMMARY = "open the first notebook in JupyterLab"
EXAMPLES = "explorer lab\n  explorer lab my-folder --port 8890 --no-browser"


def add(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    command.add_argument("folder", nargs="?", default=".", help="where to put the notebook")
    add_serving(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from explorer.servers import open_lab

    return open_lab(Path(options.folder), options.port, not options.no_browser)
