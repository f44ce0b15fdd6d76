"""The command ``explorer effective``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from explorer.commands.options import add_out, add_stack, add_threshold, finish

if TYPE_CHECKING:
    import xarray as xr

NAME = "effective"
SUMMARY = "find how many parameters are needed when layers are reset together"
EXAMPLES = (
    "explorer effective fcn3x256-digits --margin 0.05\n"
    "  explorer effective my-stack --epoch 1 --draws 3 --picture effective.html"
)


def add(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_stack(command)
    command.add_argument("--layers", nargs="+", help="layers that may be reset; default all")
    command.add_argument("--epoch", type=int, help="checkpoint to reset to; default the first")
    command.add_argument("--draws", type=int, default=0, help="fresh draws to reset to as well")
    command.add_argument("--seed", type=int, default=0, help="seed of the fresh draws")
    add_threshold(command)
    add_out(command)
    command.set_defaults(run=_run)


def effective_text(found: xr.Dataset) -> str:
    """Write the best set for each source, beside what the layers stand one by one."""
    total = int(found.attrs["parameters"])
    allowed = float(found.attrs["final_error"]) + float(found.attrs["margin"])
    lines = [
        f"{found.attrs['stack_title']}: trained network's error {found.attrs['final_error']:.1%}, "
        f"allowed {allowed:.1%}; {found.attrs['measured']} sets of layers measured"
    ]
    for source in found["source"].values:
        one = found.sel(source=source)
        left = int(one["effective_parameters"])
        reset = [str(layer) for layer in one["layer"].values[one["reset"].values]]
        alone = [str(layer) for layer in one["layer"].values[one["alone_within"].values]]
        lines += [
            "",
            f"{source}: {left:,} of {total:,} parameters ({left / total:.1%}) are needed.",
            f"  reset together, error {float(one['joint_error']):.1%}: {', '.join(reset) or '–'}",
            f"  within alone: {', '.join(alone) or '–'}",
        ]
        if len(alone) > 1 and float(one["one_by_one_error"]) >= 0:
            lines.append(f"  all of these together, error {float(one['one_by_one_error']):.1%}")
    return "\n".join(lines)


def _run(options: argparse.Namespace) -> int:
    import explorer
    from explorer.ui.effective_figure import effective_figure

    found = explorer.effective_parameters(
        explorer.open_stack(options.stack),
        epoch=options.epoch,
        draws=options.draws,
        seed=options.seed,
        threshold=options.threshold,
        margin=options.margin,
        layers=options.layers,
        device=options.device,
    )
    return finish(options, found, effective_text(found), "Effective parameters", effective_figure)
