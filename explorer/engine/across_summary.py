"""What can be said of several judged sweeps beside each other; it needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import spearmanr

from explorer.engine.judging import judge
from explorer.engine.margins import margin_of
from explorer.engine.overview import mean_of_draws
from explorer.engine.results import COUNTS
from explorer.engine.verdicts import damage, recovery, verdicts
from explorer.weights.stack import layer_names, layer_variables

WORDS = ("robust", "mixed", "critical", "undecided", "not known")
"""Verdicts, as they are counted."""

DEPTHS = np.linspace(0, 1, 21)
"""Relative depths at which networks of different depth are laid beside each other."""

Vector = NDArray[np.float64]


def described(
    sweep: xr.Dataset,
    stack: xr.DataTree | None,
    threshold: float,
    margin: float | None,
    level: float,
) -> xr.Dataset:
    """Add to a sweep its damage, verdicts, and each layer's depth and size.

    Parameters
    ----------
    sweep : xarray.Dataset
        As `explorer.sweep` returns it.
    stack : xarray.DataTree, optional
        Whose sweep it is, for the number of parameters; without it they are NaN.
    threshold, margin, level
        As in `explorer.verdicts`.

    Returns
    -------
    xarray.Dataset
        As `explorer.engine.across.compare` documents a node. Verdicts are tested where the sweep
        has counts of answers that turned (attribute ``tested`` 1), else by the threshold alone.
    """
    sweep = xr.Dataset(sweep.data_vars, sweep.coords, sweep.attrs).sortby("epoch")
    final, chance = float(sweep.attrs["final_error"]), float(sweep.attrs["chance_error"])
    tested = set(COUNTS) <= set(sweep) and "examples" in sweep.attrs
    if tested:
        judged = judge(sweep, threshold, margin, level)
        names = ("verdict", "recovery", "not_monotone", "because", "state")
        words: dict[str, Any] = {name: judged[name] for name in names}
    else:
        way = chance - final
        share = threshold if margin is None else min(1.0, margin / way) if way > 0 else 0.0
        words = {"verdict": verdicts(sweep, share), "recovery": recovery(sweep, share)}
    fresh = (sweep["rerandomized_error"] - final) / (chance - final if chance > final else np.nan)
    sizes, total = _sizes(sweep, stack)
    layers = sweep.sizes["layer"]
    return (
        sweep.assign(
            damage=damage(sweep).assign_attrs(long_name="share of the way to chance", units="1"),
            rerandomized_damage=fresh,
            **words,
        )
        .assign_coords(
            depth=("layer", np.linspace(0, 1, layers) if layers > 1 else np.zeros(layers)),
            parameters=("layer", sizes),
        )
        .assign_attrs(
            margin=margin_of(threshold, margin, final, chance),
            tested=int(tested),
            parameters=total,
            family="" if stack is None else str(stack.attrs.get("family", "")),
            complete=int(sweep.attrs.get("complete", 1)),
        )
    )


def _sizes(sweep: xr.Dataset, stack: xr.DataTree | None) -> tuple[Vector, float]:
    """Trained numbers of each layer, and of the network, where what layers share counts once."""
    if stack is None:
        return np.full(sweep.sizes["layer"], np.nan), np.nan
    pairs = (pair.split(" = ") for pair in str(sweep.attrs.get("tied", "")).split(", ") if pair)
    one_of = {other: first for first, other in pairs}
    sizes: dict[str, dict[str, int]] = {}
    for layer in layer_names(stack):
        own = {n: a for n, a in layer_variables(stack, layer).items() if not a.attrs["buffer"]}
        sizes[layer] = {one_of.get(n, n): a.size // a.sizes["epoch"] for n, a in own.items()}
    every = {name: size for layer in sizes.values() for name, size in layer.items()}
    layers = map(str, sweep["layer"].values)  # a sweep may have been given other names
    found = [sum(sizes[one].values()) if one in sizes else np.nan for one in layers]
    return np.array(found, float), float(sum(every.values()))


def summary_of(nodes: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """One row per stack, how far pairs of stacks agree, and the damage by relative depth.

    Parameters
    ----------
    nodes : mapping
        Label → as `described` returns it.

    Returns
    -------
    xarray.Dataset
        Over ``stack``, (stack, other) and (stack, depth), as `explorer.engine.across.compare`
        documents it.
    """
    labels = np.array(list(nodes), object)
    rows = [_row(node) for node in nodes.values()]
    pairs = _agreement(list(nodes.values()))
    by_depth = {
        name: (("stack", "depth"), np.array([_at_depths(n, by_layer(n)) for n in nodes.values()]))
        for name, by_layer in (
            ("damage_by_depth", first_damage),
            ("rerandomized_by_depth", fresh_damage),
        )
    }
    others = ~np.eye(len(labels), dtype=bool)
    means = {
        f"{name}_agreement": ("stack", _mean(np.where(others, pairs[of], np.nan)))
        for name, of in (("rank", "rank_correlation"), ("verdict", "same_verdicts"))
    }
    return xr.Dataset(
        {
            **{name: ("stack", _column([row[name] for row in rows])) for name in rows[0]},
            **means,
            **{name: (("stack", "other"), values) for name, values in pairs.items()},
            **by_depth,
        },
        {"stack": labels, "other": labels, "depth": DEPTHS},
    )


def _column(values: list[Any]) -> NDArray[Any]:
    return np.array(values, object) if isinstance(values[0], str) else np.array(values)


def _row(node: xr.Dataset) -> dict[str, Any]:
    """What the table says of one stack."""
    attrs = node.attrs
    words = node["verdict"].values.astype(str)
    counts = {word.replace(" ", "_"): int((words == word).sum()) for word in WORDS}
    sizes, total = node["parameters"].values, float(attrs["parameters"])
    needed = float(attrs.get("effective_parameters", np.nan))
    return {
        "title": str(attrs.get("stack_title", attrs.get("stack", ""))),
        "family": str(attrs["family"]),
        "dataset": str(attrs.get("dataset", "")),
        "layers": len(words),
        "parameters": total,
        "final_error": float(attrs["final_error"]),
        "chance_error": float(attrs["chance_error"]),
        "margin": float(attrs["margin"]),
        "tested": bool(attrs["tested"]),
        **counts,
        **{f"{word}_share": counts[word] / len(words) for word in WORDS[:3]},
        "critical_parameters_share": float(sizes[words == "critical"].sum() / total),
        "mean_damage": float(first_damage(node).mean()),
        "mean_rerandomized_damage": float(fresh_damage(node).mean()),
        "effective_parameters": needed,
        "effective_share": needed / total,
        "effective_error": float(attrs.get("effective_error", np.nan)),
        "complete": bool(attrs["complete"]),
    }


def first_damage(node: xr.Dataset) -> Vector:
    """Damage of each layer put back to the first checkpoint; NaN where that is the trained one."""
    found: Vector = node["damage"].transpose("layer", "epoch").values[:, 0]
    only_trained = int(node["epoch"].values[0]) == node.attrs.get("final_epoch")
    return np.full_like(found, np.nan) if only_trained else found


def fresh_damage(node: xr.Dataset) -> Vector:
    """Mean damage of each layer's fresh draws; NaN where one has failed."""
    final, chance = float(node.attrs["final_error"]), float(node.attrs["chance_error"])
    if not node.sizes["draw"]:
        return np.full(node.sizes["layer"], np.nan)
    way = chance - final if chance > final else np.nan
    return np.asarray((mean_of_draws(node).values - final) / way)


def _at_depths(node: xr.Dataset, values: Vector) -> Vector:
    """Values of layers at common relative depths, linear between layers."""
    return np.interp(DEPTHS, node["depth"].values, values)


def _agreement(nodes: list[xr.Dataset]) -> dict[str, Vector]:
    """Rank correlation and share of equal verdicts, for pairs whose layers have the same names."""
    shape = (len(nodes), len(nodes))
    ranks, words = np.full(shape, np.nan), np.full(shape, np.nan)
    for i, j in ((k, k) for k in range(len(nodes))):
        ranks[i, j] = words[i, j] = 1
    for i, j in combinations(range(len(nodes)), 2):
        a, b = nodes[i], nodes[j]
        if a["layer"].values.tolist() == b["layer"].values.tolist():
            ranks[i, j] = ranks[j, i] = _spearman(first_damage(a), first_damage(b))
            same = a["verdict"].values.astype(str) == b["verdict"].values.astype(str)
            words[i, j] = words[j, i] = same.mean()
    return {"rank_correlation": ranks, "same_verdicts": words}


def _spearman(x: Vector, y: Vector) -> float:
    """Rank correlation; NaN where there are no ranks."""
    known = np.isfinite(x) & np.isfinite(y)
    if len(set(x[known])) < 2 or len(set(y[known])) < 2:
        return np.nan
    return float(spearmanr(x[known], y[known]).statistic)


def _mean(rows: Vector) -> Vector:
    """Mean of what is known in each row; NaN where nothing is."""
    known = np.isfinite(rows).sum(1)
    return np.where(known > 0, np.nansum(rows, 1) / np.maximum(known, 1), np.nan)
