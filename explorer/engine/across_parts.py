"""One stack of a comparison after the other: swept where it is not swept yet, and judged."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from explorer.engine.across_summary import described
from explorer.engine.contenders import Contender
from explorer.inventory.manifest import load_manifest
from explorer.inventory.placing import placed
from explorer.weights.stack import content_hash, epoch_numbers, layer_names, open_stack

if TYPE_CHECKING:
    from explorer.engine.evaluator import Evaluator

Node = Callable[[], xr.Dataset]
"""Makes the sweep of a stack, with what is said of its layers, as it is known now."""

MEASURING = ("model", "data", "device", "batch_size")
"""Settings of a network; the rest say which cells."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of every stack of a comparison."""

    settings: Mapping[str, Any]
    """Arguments of `explorer.sweep`; of model and data one for all, or label → its own."""
    judging: Mapping[str, Any]
    """Threshold, margin and level."""
    effective: bool
    """Whether the effective parameters are searched for."""
    store: str | Path | None
    """Folder that keeps what is finished."""
    loaded: Mapping[str, Evaluator]
    """Label → network that is there already."""


def cells_of(one: Contender, wanted: Wanted) -> int:
    """Cells of a stack, and for a search of effective parameters as many as it has layers."""
    if one.sweep is not None:
        sizes = dict(one.sweep.sizes)
        layers, epochs, draws = (sizes.get(dim, 0) for dim in ("layer", "epoch", "draw"))
    else:
        assert one.stack is not None  # a contender has one or the other
        epochs = len(wanted.settings["epochs"] or epoch_numbers(one.stack))
        layers, draws = len(layer_names(one.stack)), wanted.settings["draws"]
    return layers * (epochs + draws) + epochs + layers * _searched(one, wanted)


def _searched(one: Contender, wanted: Wanted) -> bool:
    return wanted.effective and one.stack is not None and len(epoch_numbers(one.stack)) > 1


def node_parts(one: Contender, wanted: Wanted) -> Iterator[tuple[float, Node]]:
    """Sweep a stack, unless that is done, and judge its layers.

    Yields
    ------
    tuple
        Share of the work that is done, 0…1, and what makes the node.
    """
    opening = _Opening(one, wanted)
    searching = _searched(one, wanted)
    whole = cells_of(one, wanted)
    swept = 1 - len(layer_names(one.stack)) / whole if searching and one.stack else 1.0
    sweep = one.sweep
    if sweep is None:
        for part in opening.sweep():
            yield swept * part.done / part.total, partial(_node, one, wanted, part.dataset)
        sweep = part.dataset()
        _warn(sweep)
    else:
        yield 0.0, partial(_node, one, wanted, lambda: one.sweep)
    node = _node(one, wanted, lambda: sweep)
    if not searching:
        yield 1.0, lambda: node
        return
    for share, attrs in opening.search(sweep):
        yield swept + (1 - swept) * share, partial(node.assign_attrs, attrs)


def _node(one: Contender, wanted: Wanted, sweep: Callable[[], Any]) -> xr.Dataset:
    found = sweep()
    node = described(found, _stack_of(one, found), **wanted.judging)
    return node.assign_attrs(source=one.source)


def _warn(sweep: xr.Dataset) -> None:
    from explorer.engine.intact import warn_of

    warn_of(str(sweep.attrs["doubt"]))


def _stack_of(one: Contender, sweep: xr.Dataset) -> xr.DataTree | None:
    """The stack of a sweep: the one that was given, or the bundled one that it is of."""
    entry = load_manifest().stacks.get(str(sweep.attrs.get("stack", "")))
    if one.stack is None and entry and entry.content_hash == sweep.attrs.get("content_hash"):
        return open_stack(entry.name)
    return one.stack


class _Opening:
    """Measures a stack; its network is loaded when it is first needed."""

    def __init__(self, one: Contender, wanted: Wanted) -> None:
        self._one, self._wanted = one, wanted
        self._evaluator = wanted.loaded.get(one.label)

    def _open(self) -> Evaluator:
        if self._evaluator is None:
            # torch, which stacks that are swept already need not
            from explorer.engine.evaluator import Evaluator

            settings = self._wanted.settings
            own = {name: of_label(settings[name], self._one.label) for name in MEASURING}
            assert self._one.stack is not None
            self._evaluator = Evaluator(self._one.stack, batchnorm=settings["batchnorm"], **own)
        return self._evaluator

    def sweep(self) -> Iterator[Any]:
        """Sweep it, part by part."""
        from explorer.engine.provenance import journal_of, provenance_of
        from explorer.engine.sweep_parts import sweep_parts

        settings, evaluator = self._wanted.settings, self._open()
        kept = self._file("cells")
        origin = {**provenance_of(evaluator), "tolerance": 0.0}
        yield from sweep_parts(
            evaluator,
            epochs=settings["epochs"],
            draws=settings["draws"],
            seed=settings["seed"],
            journal=None if kept is None else journal_of(kept, origin),
        )

    def search(self, sweep: xr.Dataset) -> Iterator[tuple[float, dict[str, Any]]]:
        """Find the effective parameters; yield the share done and attributes that tell them."""
        allowed = {name: self._wanted.judging[name] for name in ("threshold", "margin")}
        known_by = ("content_hash", "dataset_hash", "batchnorm")
        origin = {**{name: sweep.attrs.get(name) for name in known_by}, **allowed}
        kept = self._file("joint.json")
        known = _read(kept, origin)
        if known is not None:
            yield 1.0, known
            return
        from explorer.engine.effective_parameters import effective_parts

        yield 0.0, {"complete": 0}
        for part in effective_parts(self._open(), **allowed):
            yield part.done / part.total, {"complete": 0}
        numbers = _numbers(part.dataset())
        if kept is not None and numbers["complete"]:
            with placed(kept) as temporary:
                temporary.write_text(json.dumps({"origin": origin, "found": numbers}), "utf-8")
        yield 1.0, numbers

    def _file(self, kind: str) -> Path | None:
        """Where the counts of the stack are kept: its label, for people, and its hash."""
        if self._wanted.store is None:
            return None
        assert self._one.stack is not None
        label = self._one.label
        readable = re.sub(r"[^\w.-]+", "-", label)[:60]
        known = hashlib.sha256(f"{label} {content_hash(self._one.stack)}".encode()).hexdigest()
        return Path(self._wanted.store) / f"{readable}-{known[:12]}.{kind}"


def _numbers(found: xr.Dataset) -> dict[str, Any]:
    best = found.isel(source=0)
    return {
        "effective_parameters": int(best["effective_parameters"]),
        "effective_error": float(best["joint_error"]),
        "complete": int(found.attrs["complete"]),
    }


def _read(kept: Path | None, origin: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is kept of the same stack, examples and margin; what is damaged is measured again."""
    if kept is None or not kept.is_file():
        return None
    try:
        content = json.loads(kept.read_text("utf-8"))
        return dict(content["found"]) if content["origin"] == origin else None
    except (ValueError, KeyError, TypeError):
        return None


def of_label(own: Any, label: str) -> Any:
    """What is meant for one stack."""
    return own.get(label) if isinstance(own, Mapping) else own
