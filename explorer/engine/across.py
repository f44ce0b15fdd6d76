"""Several stacks beside each other: which layers matter in each, and how far they agree."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
from tqdm.auto import tqdm

from explorer.engine.across_summary import described, summary_of
from explorer.engine.contenders import Contender, Member, labelled, opened
from explorer.engine.judging import LEVEL
from explorer.engine.margins import check_fraction, check_margin
from explorer.engine.verdicts import DEFAULT_THRESHOLD
from explorer.errors import unknown_name
from explorer.inventory.manifest import load_manifest
from explorer.inventory.placing import placed
from explorer.tables import Cell, Row, Table, page_html, table_html
from explorer.weights.stack import content_hash, epoch_numbers, open_stack

if TYPE_CHECKING:
    import pandas as pd

SHOWN = ("layers", "parameters", "final_error", "robust", "mixed", "critical", "undecided")
"""Columns of the table in a notebook; `Across.table` has all."""


class Across(xr.DataTree):  # type: ignore[no-untyped-call] # xarray's hook has no types
    """What `compare` returns: a DataTree like any other, with its table."""

    __slots__ = ()

    @property
    def table(self) -> pd.DataFrame:
        """One row per stack: all that the summary says over ``stack`` alone."""
        summary = self["summary"].to_dataset()
        return summary[[n for n in summary if summary[n].dims == ("stack",)]].to_dataframe()

    def _repr_html_(self) -> str:
        if "summary" not in self.children:  # what is left of a comparison
            return str(super()._repr_html_())  # type: ignore[no-untyped-call] # as above
        frame = self.table[list(SHOWN)]
        rows = [
            Row(str(name), tuple(Cell(f"{number:,.4g}") for number in line))
            for name, line in zip(frame.index, frame.values.tolist(), strict=True)
        ]
        table = Table("Verdicts of the layers of each stack", SHOWN, tuple(rows))
        notes = ['All columns: `.table`; the numbers of a stack: `["stacks/NAME"]`.']
        return page_html(f"Comparison of {len(rows)} stacks", {}, table_html(table), notes)


def compare(
    stacks: Member | Sequence[Member] | Mapping[str, Member],
    *,
    model: Any = None,
    data: Any = None,
    epochs: Sequence[int] | None = None,
    draws: int = 3,
    seed: int = 0,
    device: str = "auto",
    batch_size: int | None = None,
    batchnorm: str = "with_layer",
    threshold: float = DEFAULT_THRESHOLD,
    margin: float | None = None,
    level: float = LEVEL,
    effective: bool = False,
    store: str | Path | None = None,
    progress: bool = True,
) -> Across:
    """Set several stacks beside each other: widths, depths, seeds, normalisation, labels.

    To compare the *weights* of two stacks layer by layer, use `explorer.diff`.

    Parameters
    ----------
    stacks : sequence or mapping of names, folders, stacks or sweeps
        A mapping gives the labels; else a stack is called by its name or its folder's. The name
        of a bundled stack stands for its bundled sweep where that has these draws, seed and
        policy; a sweep, or its netCDF file, is taken as it is; all else is swept.
    model, data : optional
        As in `explorer.sweep`, for stacks that are swept: one for all, or label → its own.
    epochs, draws, seed, device, batch_size, batchnorm
        As in `explorer.sweep`.
    threshold, margin, level
        As in `explorer.verdicts`; with a threshold each stack has its own ε.
    effective : bool
        Search for the effective parameters of each stack as well (`explorer.effective_parameters`
        with the same margin); not of what is given as a sweep.
    store : str or Path, optional
        Folder in which finished cells are kept, so that a comparison that was stopped goes on.
    progress : bool
        Show progress bars.

    Returns
    -------
    xarray.DataTree
        With a property ``table`` (pandas.DataFrame, a row per stack). ``["stacks/LABEL"]`` is
        the sweep of one stack, with damage and rerandomized_damage (share of the way from its own
        final error to its own chance), verdict, recovery, because and, where the verdicts are
        tested, state; the coordinates ``depth`` (0 for the first layer … 1 for the last) and
        ``parameters`` of each layer. ``["summary"]`` has over ``stack`` what the table shows;
        over (stack, other) rank_correlation (Spearman, of the layers' damage at the first
        checkpoint) and same_verdicts (share of layers), NaN where the layers have other names;
        over (stack, depth) damage_by_depth and rerandomized_by_depth, linear between layers. See
        docs/across-models.md. After Ctrl-C what is measured is returned: the attribute
        ``complete`` is 0, and ``missing`` names the stacks that were not begun.

    Raises
    ------
    UnknownNameError, StackError, DataError, CheckpointError
        Something is not there, or does not fit; before anything is measured where it can be told.
    UsageError
        No stacks, labels that are no names, or a number out of range.

    References
    ----------
    Several widths, depths and seeds beside each other: Zhang, Bengio, Singer, JMLR 23(67), 2022;
    damage and the verdicts: `explorer.engine.verdicts`, `explorer.engine.judging`.

    Examples
    --------
    >>> import explorer as lx
    >>> found = lx.compare(["resnet18-digits", "resnet18bn-digits"], progress=False)
    >>> found.table[["robust", "mixed", "critical"]].values.tolist()
    [[3, 1, 4], [2, 0, 8]]
    """
    check_margin(threshold, margin)
    check_fraction("level", level, "0.05 is the usual one")
    settings = {"epochs": epochs, "draws": draws, "seed": seed, "batchnorm": batchnorm}
    named = labelled(stacks)
    for kind, own in (("model", model), ("data", data)):
        _check_labels(kind, own, named)
    # a network of one's own or other examples have other numbers than the bundled sweep
    own_numbers = {k for k in named if _of(model, k) is not None or _of(data, k) is not None}
    found = [opened(k, one, settings, k in own_numbers) for k, one in named.items()]
    judging = {"threshold": threshold, "margin": margin, "level": level}
    nodes: dict[str, xr.Dataset] = {}
    with contextlib.suppress(KeyboardInterrupt):
        for one in tqdm(found, desc="stacks", disable=not progress or len(found) < 2):
            measuring = {
                "model": _of(model, one.label),
                "data": _of(data, one.label),
                "device": device,
                "batch_size": batch_size,
            }
            node = _node(one, {**settings, **measuring}, judging, store, effective, progress)
            nodes[one.label] = node
            if not node.attrs["complete"]:
                break
    if not nodes:
        raise KeyboardInterrupt
    missing = [one.label for one in found if one.label not in nodes]
    complete = not missing and all(node.attrs["complete"] for node in nodes.values())
    attrs = {"complete": int(complete), "missing": ", ".join(missing), "level": level}
    return _tree(nodes, attrs)


def _tree(nodes: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> Across:
    members = xr.DataTree(children={label: xr.DataTree(node) for label, node in nodes.items()})
    children = {"summary": xr.DataTree(summary_of(nodes)), "stacks": members}
    return Across(xr.Dataset(attrs=dict(attrs)), children=children)


def _check_labels(kind: str, own: Any, named: Mapping[str, Any]) -> None:
    for label in own if isinstance(own, Mapping) else ():
        if label not in named:
            raise unknown_name(f"stack for {kind}=", label, list(named))


def _of(own: Any, label: str) -> Any:
    """What is meant for one stack."""
    return own.get(label) if isinstance(own, Mapping) else own


def _node(
    one: Contender,
    settings: Mapping[str, Any],
    judging: Mapping[str, Any],
    store: str | Path | None,
    effective: bool,
    progress: bool,
) -> xr.Dataset:
    """Sweep a stack, unless that is done, and judge its layers."""
    sweep = one.sweep
    if sweep is None:
        assert one.stack is not None
        from explorer.engine.sweep import sweep as sweep_stack  # torch, which ready ones need not

        kept = _file(store, one, "cells")
        sweep = sweep_stack(one.stack, **settings, store=kept, progress=progress)
    node = described(sweep, _stack_of(one, sweep), **judging)
    node.attrs["source"] = one.source
    if effective and one.stack is not None and node.attrs["complete"]:
        node.attrs |= _effective(one, sweep, settings, judging, store, progress)
    return node


def _stack_of(one: Contender, sweep: xr.Dataset) -> xr.DataTree | None:
    """The stack of a sweep: the one that was given, or the bundled one that it is of."""
    entry = load_manifest().stacks.get(str(sweep.attrs.get("stack", "")))
    if one.stack is None and entry and entry.content_hash == sweep.attrs.get("content_hash"):
        return open_stack(entry.name)
    return one.stack


def _effective(
    one: Contender,
    sweep: xr.Dataset,
    settings: Mapping[str, Any],
    judging: Mapping[str, Any],
    store: str | Path | None,
    progress: bool,
) -> dict[str, Any]:
    """Attributes that tell the effective parameters, from the store where they are known."""
    assert one.stack is not None
    if len(epoch_numbers(one.stack)) < 2:
        return {}
    allowed = {name: judging[name] for name in ("threshold", "margin")}
    known_by = ("content_hash", "dataset_hash", "batchnorm")
    origin = {**{name: sweep.attrs.get(name) for name in known_by}, **allowed}
    kept = _file(store, one, "joint.json")
    known = _read(kept, origin)
    if known is not None:
        return known
    # torch and a search, for those who ask for it
    from explorer.engine.effective_parameters import effective_parameters

    given = {n: settings[n] for n in ("model", "data", "device", "batch_size", "batchnorm")}
    found = effective_parameters(one.stack, **given, **allowed, progress=progress)
    best = found.isel(source=0)
    numbers = {
        "effective_parameters": int(best["effective_parameters"]),
        "effective_error": float(best["joint_error"]),
        "complete": int(found.attrs["complete"]),
    }
    if kept is not None and numbers["complete"]:
        with placed(kept) as temporary:
            temporary.write_text(json.dumps({"origin": origin, "found": numbers}), "utf-8")
    return numbers


def _read(kept: Path | None, origin: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is kept of the same stack, examples and margin; what is damaged is measured again."""
    if kept is None or not kept.is_file():
        return None
    try:
        content = json.loads(kept.read_text("utf-8"))
        return dict(content["found"]) if content["origin"] == origin else None
    except (ValueError, KeyError, TypeError):
        return None


def _file(store: str | Path | None, one: Contender, kind: str) -> Path | None:
    """Where the counts of a stack are kept: its label, for people, and its hash."""
    if store is None:
        return None
    assert one.stack is not None
    readable = re.sub(r"[^\w.-]+", "-", one.label)[:60]
    known = hashlib.sha256(f"{one.label} {content_hash(one.stack)}".encode()).hexdigest()
    return Path(store) / f"{readable}-{known[:12]}.{kind}"


def each_of(found: xr.DataTree) -> Iterator[tuple[str, xr.Dataset]]:
    """Label and Dataset of each stack of a comparison."""
    for label, node in found["stacks"].children.items():
        yield str(label), node.to_dataset(inherit=False)
