"""The reference: pages made of the docstrings and of what the commands say of themselves."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
from unittest import mock

from explorer import errors
from explorer.cli import main

GROUPS = {
    "What there is": ("catalog", "readers"),
    "Stacks": ("open_stack", "save_stack", "train", "check", "diff"),
    "Click": ("Explorer",),
    "Measure": ("sweep", "open_sweep", "evaluate", "predictions", "reinitialise", "rerandomise"),
    "Judge": ("verdicts", "reset_order", "effective_parameters"),
    "Weights and outputs": ("distances", "motion", "outputs"),
    "Around and between": ("criticality", "paths"),
    "Several networks": ("compare", "compare_parts"),
}
"""Heading → public names of `explorer`; every one is in one group."""

COMMAND = re.compile(r"^    ([a-z]+)(?: |$)", re.MULTILINE)
"""A line of `explorer --help` that names a command."""


def reference_pages() -> dict[str, str]:
    """Return path among the site's sources → page, in Markdown."""
    return {
        "reference/python.md": python_page(),
        "reference/errors.md": errors_page(),
        "reference/command-line.md": command_line_page(),
    }


def python_page() -> str:
    """Return the page of the public functions."""
    pieces = ["# Python", "Every public name; `import explorer as lx` loads nothing but names."]
    for heading, names in GROUPS.items():
        kinds = {name: "class" if name[0].isupper() else "function" for name in names}
        pieces += [
            f"## {heading}",
            *(documented(kinds[name], f"explorer.{name}") for name in names),
        ]
    return "\n\n".join(pieces) + "\n"


def errors_page() -> str:
    """Return the page of what is raised and warned of on purpose."""
    found = [value for _, value in vars(errors).items() if inspect.isclass(value)]
    ours = [kind.__name__ for kind in found if kind.__module__ == errors.__name__]
    text = (
        "Each message has three parts: what came, what would have been accepted, what to do. "
        "Each class is also the builtin that a caller would expect."
    )
    pages = [documented("exception", f"explorer.errors.{name}") for name in ours]
    return "\n\n".join(["# Errors and warnings", text, *pages]) + "\n"


def documented(kind: str, name: str) -> str:
    """Return what makes Sphinx take a name's docstring."""
    members = "   :members:\n" if kind == "class" else ""
    bases = "   :show-inheritance:\n" if kind == "exception" else ""
    return f"```{{eval-rst}}\n.. auto{kind}:: {name}\n{members}{bases}```"


def command_line_page() -> str:
    """Return the page of the command `explorer`."""
    general = help_of()
    pieces = ["# The command line", f"```text\n{general}```"]
    for name in commands(general):
        pieces += [f"## explorer {name}", f"```text\n{help_of(name)}```"]
    return "\n\n".join(pieces) + "\n"


def commands(general: str) -> list[str]:
    """List the commands that `explorer --help` names, in its order."""
    return COMMAND.findall(general)


def help_of(*command: str) -> str:
    """Return what `explorer COMMAND --help` prints, in 80 columns and without colours."""
    printed, plain = io.StringIO(), {"COLUMNS": "80", "NO_COLOR": "1"}
    with (
        mock.patch.dict(os.environ, plain),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        main([*command, "--help"])
    return printed.getvalue()
