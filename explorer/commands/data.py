"""The command ``explorer data``."""

from __future__ import annotations

import argparse

# What a command needs is imported inside it, as in explorer/cli.py.

NAME = "data"
SUMMARY = "list, check and download datasets"
EXAMPLES = "explorer data\n  explorer data cifar10 --download\n  explorer data folder:/my/images"


def add(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    command.add_argument("name", nargs="?", help="dataset to check; without it all are listed")
    command.add_argument("--download", action="store_true", help="fetch it, files verified")
    command.add_argument("--folder", help="where datasets are kept; default a cache folder")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from explorer.data.datasets import dataset_names, download_dataset

    if options.name is None:
        print("\n".join(dataset_names()))
        return 0
    if not options.download:
        from explorer.data.datasets import load_test_set

        found = load_test_set(options.name, options.folder)
        shape = "×".join(map(str, found.inputs.shape[1:]))
        print(f"{options.name}: {len(found):,} test examples of {shape}")
        return 0
    print(f"Data: {download_dataset(options.name, options.folder)}")
    return 0
