"""What is to be compared: named, opened, and recognised where it is swept already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from explorer.engine.overview import is_sweep
from explorer.engine.results import open_sweep, read_sweep
from explorer.errors import UsageError
from explorer.inventory.manifest import bundled_sweep
from explorer.weights.stack import open_stack

Member = str | Path | xr.DataTree | xr.Dataset
"""Name of a stack, folder or file of one, a stack, a sweep, or the netCDF file of a sweep."""


@dataclass(frozen=True)
class Contender:
    """One of the stacks that are compared, opened and not yet measured."""

    label: str
    """What it is called in the comparison."""
    source: str
    """What it was named by."""
    stack: xr.DataTree | None
    """The checkpoints, where they are known."""
    sweep: xr.Dataset | None
    """Its sweep, where there is one already."""


def labelled(stacks: Any) -> dict[str, Member]:
    """Members by label."""
    if isinstance(stacks, (str, Path, xr.DataTree, xr.Dataset)):
        stacks = [stacks]
    if not len(stacks):
        raise UsageError(
            "There are no stacks.", "At least one is needed.", "Pass names, folders or sweeps."
        )
    if not isinstance(stacks, Mapping):
        return _unlike([(_own_name(one), one) for one in stacks])
    for label in stacks:
        if not isinstance(label, str) or not label or "/" in label or label in (".", ".."):
            raise UsageError(
                f"A stack is called {label!r}.",
                "A text without slashes is needed: it names a node of the tree.",
                "Call it otherwise.",
            )
    return dict(stacks)


def _own_name(member: Member) -> str:
    """What a member is called that nobody has named: the last part of a name with slashes."""
    if isinstance(member, (str, Path)):
        name = Path(member).stem if str(member).endswith((".nc", ".nc4")) else Path(member).name
        return name or "stack"
    attrs = member.attrs
    name = str(attrs.get("name") or attrs.get("stack") or attrs.get("title") or "stack")
    return name.replace("/", ":")


def _unlike(members: Sequence[tuple[str, Member]]) -> dict[str, Member]:
    """Members by label, those of equal names numbered."""
    found: dict[str, Member] = {}
    for name, member in members:
        label, k = name, 1
        while label in found:
            k += 1
            label = f"{name} ({k})"
        found[label] = member
    return found


def opened(label: str, member: Member, settings: Mapping[str, Any], own_numbers: bool) -> Contender:
    """Open a member; no tensor is read and nothing measured."""
    if isinstance(member, xr.DataTree):
        return Contender(label, str(member.attrs.get("name", "")), member, None)
    if isinstance(member, xr.Dataset):
        if not is_sweep(member):
            raise UsageError(
                f"{label} is a Dataset over {', '.join(map(str, member.sizes)) or 'nothing'}.",
                "A sweep as explorer.sweep returns it is needed.",
                "Pass a stack to have it swept.",
            )
        return Contender(label, str(member.attrs.get("stack", "")), None, member)
    source = str(member)
    if bundled_sweep(source) is not None:
        stack, sweep = open_stack(source), open_sweep(source)
        usable = not own_numbers and _same(sweep, settings)
        return Contender(label, source, stack, _selected(sweep, settings) if usable else None)
    if _is_file_of_sweep(Path(source)):
        return Contender(label, source, None, open_sweep(source))
    return Contender(label, source, open_stack(member), None)


def _is_file_of_sweep(path: Path) -> bool:
    """Whether a netCDF file holds a sweep and no stack, whose tensors lie in groups."""
    if not path.is_file() or path.suffix not in (".nc", ".nc4", ".netcdf"):
        return False
    return is_sweep(read_sweep(path))


def _same(sweep: xr.Dataset, settings: Mapping[str, Any]) -> bool:
    """Whether a bundled sweep is what would be measured."""
    wanted = settings["epochs"]
    known = {int(epoch) for epoch in sweep["epoch"].values}
    return (wanted is None or set(wanted) <= known) and all(
        sweep.attrs[name] == settings[name] for name in ("draws", "seed", "batchnorm")
    )


def _selected(sweep: xr.Dataset, settings: Mapping[str, Any]) -> xr.Dataset:
    epochs = settings["epochs"]
    return sweep if epochs is None else sweep.sel(epoch=list(epochs))
