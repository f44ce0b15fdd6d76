"""The command ``explorer catalog``."""

from __future__ import annotations

import argparse

import explorer

# What a command needs is imported inside it, as in explorer/cli.py.

NAME = "catalog"
SUMMARY = "list the stacks there are"
EXAMPLES = "explorer catalog"


def add(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    frame = explorer.catalog()
    stacks = frame[frame["kind"] == "stack"]
    print("Stacks (test error, checkpoints, megabytes, parameters, title, dataset):\n")
    for name, row in stacks.iterrows():
        size = f"{row['checkpoints']:>4.0f}{row['megabytes']:>6.1f}{row['parameters']:>12,.0f}"
        print(f"{name:<20}{row['test_error']:>6.1%}{size}  {row['title']} · {row['dataset']}")
    recipes = frame[frame["kind"] == "recipe"]
    if len(recipes):
        print("\nTo be trained with explorer train NAME (parameters, title, dataset):\n")
    for name, row in recipes.iterrows():
        print(f"{name:<20}{row['parameters']:>12,}  {row['title']} · {row['dataset']}")
    return 0
