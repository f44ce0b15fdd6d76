"""The command ``explorer outputs``."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from explorer.commands.options import add_out, add_stack, finish

if TYPE_CHECKING:
    import xarray as xr

NAME = "outputs"
SUMMARY = "compare the outputs with one layer put back to the trained network's"
EXAMPLES = (
    "explorer outputs fcn3x256-digits --show cka\n"
    "  explorer outputs my-stack --layers layer1 --epochs 0 1 --draws 3 --out outputs.nc"
)


def add(command: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    add_stack(command)
    command.add_argument("--layers", nargs="+", help="layers to compare; default all")
    command.add_argument("--epochs", nargs="+", type=int, help="checkpoints; default all")
    command.add_argument("--draws", type=int, default=0, help="fresh draws per layer")
    command.add_argument("--seed", type=int, default=0, help="seed of the fresh draws")
    command.add_argument(
        "--show",
        default="js_divergence",
        choices=[
            "softmax_cosine",
            "js_divergence",
            "cka",
            "penultimate_cka",
            "never_active",
            "ece",
        ],
        help="what to print; the file has all",
    )
    add_out(command)
    command.set_defaults(run=_run)


def outputs_text(found: xr.Dataset, quantity: str) -> str:
    """Write one quantity over layers and checkpoints."""
    import pandas as pd

    shown = found[quantity]
    frame = pd.DataFrame(shown.values, shown["layer"].values, shown["epoch"].values)
    if found.sizes["draw"]:
        frame.insert(0, "ReRnd", found[f"rerandomized_{quantity}"].mean("draw").values)
    about = shown.attrs
    unit = "" if about["units"] == "1" else f", {about['units']}"
    head = f"{found.attrs['stack_title']}: {about['long_name']}{unit}"
    lines = [head, "", frame.round(4).to_string()]
    if quantity == "never_active" and "activation" in found.dims:
        own = found["intact_never_active"].to_series()
        units = found["units"].values
        never = [
            f"{name} {share:.1%} of {n}"
            for (name, share), n in zip(own.items(), units, strict=True)
        ]
        lines += ["", f"as trained, by activation: {', '.join(never)}"]
    if found.attrs["inside"] and quantity in ("penultimate_cka", "never_active"):
        lines += ["", f"not measured: {found.attrs['inside']}"]
    return "\n".join(lines)


def _run(options: argparse.Namespace) -> int:
    import explorer
    from explorer.ui.outputs_figure import outputs_figure

    found = explorer.outputs(
        explorer.open_stack(options.stack),
        layers=options.layers,
        epochs=options.epochs,
        draws=options.draws,
        seed=options.seed,
        device=options.device,
    )
    draw = partial(outputs_figure, quantity=options.show)
    return finish(options, found, outputs_text(found, options.show), "Outputs", draw)
