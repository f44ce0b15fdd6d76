"""The command ``explorer criticality``: its options, its table and its exit status."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from explorer.commands.options import (
    DONE,
    INTERRUPTED,
    add_measuring_options,
    measuring_arguments,
)

if TYPE_CHECKING:
    import xarray as xr

# What the command needs is imported inside it, as in explorer/cli.py.

NAME = "criticality"
SUMMARY = "measure how far layers can go back, and how much noise they stand"
EXAMPLES = (
    "explorer criticality fcn3x256-digits\n"
    "  explorer criticality my-run --layers layer1 --every-cell --out valley.nc\n"
    "  explorer criticality my-run --quantity error --factor 1.5 --draws 30"
)


def add(command: argparse.ArgumentParser) -> None:
    """Declare what ``explorer criticality`` takes."""
    add_measuring_options(command)
    command.add_argument("--epoch", type=int, help="checkpoint of the start; default the first")
    command.add_argument("--alphas", nargs="+", type=float, help="shares of the final layer, 0…1")
    command.add_argument("--sigmas", nargs="+", type=float, help="deviations of the noise, ≥ 0")
    command.add_argument("--draws", type=int, default=10, help="draws of the noise")
    command.add_argument("--seed", type=int, default=0, help="seed of the draws")
    command.add_argument(
        "--factor", type=float, default=1.01, help="times the final loss that is good enough"
    )
    command.add_argument(
        "--quantity", default="loss", choices=["loss", "error"], help="what is compared"
    )
    command.add_argument(
        "--every-cell", action="store_true", help="measure the whole grid, for its heatmap"
    )
    command.set_defaults(run=_criticality)


def _criticality(options: argparse.Namespace) -> int:
    import explorer
    from explorer.api import save_netcdf

    grid = {name: getattr(options, name) for name in ("alphas", "sigmas")}
    found = explorer.criticality(
        explorer.open_stack(options.stack),
        epoch=options.epoch,
        draws=options.draws,
        seed=options.seed,
        factor=options.factor,
        quantity=options.quantity,
        every_cell=options.every_cell,
        **{name: values for name, values in grid.items() if values is not None},
        **measuring_arguments(options),
    )
    print(criticality_text(found))
    if options.out:
        print(f"Data: {save_netcdf(found, options.out)}")
    return DONE if found.attrs["complete"] else INTERRUPTED


def criticality_text(found: xr.Dataset) -> str:
    """Write criticalities as a table, with what is good enough and what it took."""
    attrs = found.attrs
    lines = [
        f"{attrs['stack_title']}: module criticality μ from {attrs['checkpoint_unit']} "
        f"{attrs['epoch']} to {attrs['final_epoch']}",
        "",
        f"{'layer':<24}{'μ':>12}{'α':>8}{'σ':>10}{'‖Δ‖²':>12}{'passes':>9}",
    ]
    for layer in found["layer"].values:
        here = found.sel(layer=layer)
        numbers = f"{float(here['squared_distance']):>12.4g}{float(here['passes']):>9.1f}"
        at = f"{_number(here['alpha_best']):>8}{_number(here['sigma_best']):>10}"
        lines.append(f"{layer!s:<24}{_number(here['criticality']):>12}{at}{numbers}")
    of = "network" if attrs["all_layers"] else "these layers"
    lines += [
        "",
        f"{of}: {attrs['network_criticality']:.4g}. Good enough: mean {attrs['quantity']} up to "
        f"{attrs['limit']:.4g}, {attrs['factor']:g} times the final; {attrs['draws']} draws.",
    ]
    reasons = dict(zip(found["layer"].values, found["layer_reason"].values, strict=True))
    return "\n".join([*lines, *(f"{layer}: {why}" for layer, why in reasons.items() if why)])


def _number(value: xr.DataArray) -> str:
    number = float(value)
    return "–" if math.isnan(number) else f"{number:.4g}"
