"""Several stacks beside each other: which layers matter in each, and how far they agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from explorer.arguments import draws_and_seed, fraction
from explorer.engine.across_parts import Wanted, cells_of, node_parts, of_label
from explorer.engine.across_summary import summary_of
from explorer.engine.contenders import Contender, Member, labelled, opened
from explorer.engine.judging import LEVEL
from explorer.engine.margins import check_margin
from explorer.engine.parts import Part, last_dataset
from explorer.engine.verdicts import DEFAULT_THRESHOLD
from explorer.errors import unknown_name
from explorer.tables import Cell, Row, Table, page_html, table_html

if TYPE_CHECKING:
    import pandas as pd

    from explorer.engine.evaluator import Evaluator

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
    parts = compare_parts(
        stacks,
        model=model,
        data=data,
        epochs=epochs,
        draws=draws,
        seed=seed,
        device=device,
        batch_size=batch_size,
        batchnorm=batchnorm,
        threshold=threshold,
        margin=margin,
        level=level,
        effective=effective,
        store=store,
    )
    return last_dataset(parts, "compare", " cells", progress)


def compare_parts(
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
    loaded: Mapping[str, Evaluator] | None = None,
) -> Iterator[Part[Across]]:
    """Do what `compare` does, part by part: after each slice of the examples of each stack.

    To stop, do not ask for the next.

    Parameters
    ----------
    stacks, model, data, epochs, draws, seed, device, batch_size, batchnorm, threshold, margin
        As in `compare`.
    level, effective, store
        As in `compare`.
    loaded : mapping, optional
        Label → `explorer.engine.evaluator.Evaluator` of a stack whose network is loaded already.

    Returns
    -------
    iterator of Part
        Each has ``done`` and ``total``, in cells, and ``dataset()``, which makes the DataTree as
        it is known now: the stacks that are finished and the one that is being measured.

    Raises
    ------
    UnknownNameError, StackError, DataError, CheckpointError, UsageError
        As in `compare`, before the first part where it can be told.

    Examples
    --------
    >>> import explorer as lx
    >>> for part in lx.compare_parts(["fcn3x256-digits", "vgg11-digits"]):
    ...     print(part.done, part.total, len(part.dataset()["stacks"].children))
    0 229 1
    52 229 1
    52 229 2
    229 229 2
    """
    check_margin(threshold, margin)
    draws, seed = draws_and_seed(draws, seed)
    fraction("level", level, "0.05 is the usual one")
    settings = {"epochs": epochs, "draws": draws, "seed": seed, "batchnorm": batchnorm}
    named = labelled(stacks)
    for kind, own in (("model", model), ("data", data)):
        _check_labels(kind, own, named)
    # a network of one's own or other examples have other numbers than the bundled sweep
    own_numbers = {
        k for k in named if of_label(model, k) is not None or of_label(data, k) is not None
    }
    members = [opened(k, one, settings, k in own_numbers) for k, one in named.items()]
    wanted = Wanted(
        {"model": model, "data": data, "device": device, "batch_size": batch_size, **settings},
        {"threshold": threshold, "margin": margin, "level": level},
        effective,
        store,
        loaded or {},
    )
    return _parts(members, wanted)


def _parts(members: Sequence[Contender], wanted: Wanted) -> Iterator[Part[Across]]:
    """Measure one stack after the other."""
    sizes = [cells_of(one, wanted) for one in members]
    nodes: dict[str, Callable[[], xr.Dataset]] = {}

    def tree() -> Across:
        known = {label: node() for label, node in nodes.items()}
        missing = [one.label for one in members if one.label not in known]
        complete = not missing and all(node.attrs["complete"] for node in known.values())
        attrs = {"complete": int(complete), "missing": ", ".join(missing)}
        return _tree(known, attrs | {"level": wanted.judging["level"]})

    for at, one in enumerate(members):
        for share, node in node_parts(one, wanted):
            nodes[one.label] = node
            yield Part(sum(sizes[:at]) + round(share * sizes[at]), sum(sizes), tree)


def _tree(nodes: Mapping[str, xr.Dataset], attrs: Mapping[str, Any]) -> Across:
    members = xr.DataTree(children={label: xr.DataTree(node) for label, node in nodes.items()})
    children = {"summary": xr.DataTree(summary_of(nodes)), "stacks": members}
    return Across(xr.Dataset(attrs=dict(attrs)), children=children)


def _check_labels(kind: str, own: Any, named: Mapping[str, Any]) -> None:
    for label in own if isinstance(own, Mapping) else ():
        if label not in named:
            raise unknown_name(f"stack for {kind}=", label, list(named))


def each_of(found: xr.DataTree) -> Iterator[tuple[str, xr.Dataset]]:
    """Label and Dataset of each stack of a comparison."""
    for label, node in found["stacks"].children.items():
        yield str(label), node.to_dataset(inherit=False)
