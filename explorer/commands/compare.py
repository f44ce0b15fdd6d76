"""The command ``explorer compare``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from explorer.commands.options import DONE, INTERRUPTED, add_threshold
from explorer.errors import UsageError

if TYPE_CHECKING:
    from explorer.engine.across import Across

NAME = "compare"
SUMMARY = "set several stacks beside each other: which layers matter in each"
EXAMPLES = (
    "explorer compare resnet18-digits resnet18bn-digits --out compare.html\n"
    "  explorer compare trained/seed-0 trained/seed-1 --store kept --out compare.nc table.csv\n"
    "  explorer compare wide=runs/a narrow=runs/b other-sweep.nc --effective"
)

KINDS = (".html", ".nc", ".csv")
"""Suffixes of what can be written: the page, the data, the table."""


def add(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    command.add_argument(
        "stacks",
        nargs="+",
        help="names, folders of checkpoints (which are swept), or sweeps (netCDF); LABEL=STACK "
        "gives one another name",
    )
    command.add_argument("--epochs", nargs="+", type=int, help="checkpoints; default all")
    command.add_argument("--draws", type=int, default=3, help="fresh draws per layer")
    command.add_argument("--seed", type=int, default=0, help="seed of the fresh draws")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add_threshold(command)
    command.add_argument("--level", type=float, default=0.05, help="probability of a false word")
    command.add_argument("--effective", action="store_true", help="effective parameters as well")
    command.add_argument("--store", help="folder that keeps finished cells, to go on after a stop")
    command.add_argument(
        "--out", nargs="+", default=[], help="files: .html a page, .nc the data, .csv the table"
    )
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import explorer
    from explorer.ui.across_page import comparison_text

    for path in map(Path, options.out):
        if path.suffix not in KINDS:
            raise UsageError(
                f"{path} cannot be written.",
                f"Files that end in {', '.join(KINDS)} can.",
                "Give --out such a name.",
            )
    found = explorer.compare(
        _named(options.stacks),
        epochs=options.epochs,
        draws=options.draws,
        seed=options.seed,
        device=options.device,
        threshold=options.threshold,
        margin=options.margin,
        level=options.level,
        effective=options.effective,
        store=options.store,
        progress=not options.quiet,
    )
    sys.stdout.write(f"{comparison_text(found)}\n")
    for path in map(Path, options.out):
        print(f"{_write(found, path)}")
    return DONE if found.attrs["complete"] else INTERRUPTED


def _named(stacks: list[str]) -> list[str] | dict[str, str]:
    """What was given, by label where any has one."""
    if not any(_has_label(one) for one in stacks):
        return stacks
    parts = [one.partition("=") if _has_label(one) else (Path(one).stem, "", one) for one in stacks]
    return {label: source for label, _, source in parts}


def _has_label(one: str) -> bool:
    label, equals, _ = one.partition("=")
    return bool(equals) and "/" not in label and not Path(one).exists()


def _write(found: Across, path: Path) -> str:
    from explorer.api import save_netcdf
    from explorer.inventory.placing import placed
    from explorer.ui.across_page import write_comparison

    if path.suffix == ".nc":
        return f"Data: {save_netcdf(found, path)}"
    if path.suffix == ".html":
        return f"Page: {write_comparison(found, path)}"
    with placed(path) as temporary:
        found.table.to_csv(temporary)
    return f"Table: {path}"
