"""A stack at a glance: what it is, and a table of its layers with their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explorer.colours import BLUES
from explorer.tables import MOST_ROWS, Cell, Row, Table, page_html, table_html, without_code

MOST_SHAPES = 3
"""Tensors of a layer whose shapes are written out; of more, the rest is counted."""

MOST_EPOCHS = 20
"""Checkpoints whose numbers are written out."""


@dataclass(frozen=True)
class LayerSummary:
    """What is known of a layer before its tensors are read."""

    name: str
    """As in the stack."""
    parameters: int
    """Trained numbers, buffers left out."""
    shapes: Mapping[str, tuple[int, ...]]
    """Short name of each tensor → its shape at one epoch."""
    dtypes: tuple[str, ...]
    """Those that occur, each once."""


def stack_page(
    attrs: Mapping[Any, Any], epochs: Sequence[int], layers: Sequence[LayerSummary]
) -> str:
    """Write a stack as HTML for a notebook: short, whatever the number of layers.

    Parameters
    ----------
    attrs : mapping
        Attributes of the stack.
    epochs : sequence of int
        Numbers of its checkpoints.
    layers : sequence of LayerSummary
        In forward order.

    Returns
    -------
    str
        HTML; every string is escaped.
    """
    total = sum(layer.parameters for layer in layers)
    facts = {
        "name": str(attrs.get("name", "")),
        "family": str(attrs.get("family", "")),
        "dataset": str(attrs.get("dataset", "")),
        "layers": f"{len(layers)}",
        "parameters": f"{total:,}",
        "checkpoints": f"{len(epochs)}",
        "integrity": integrity(attrs),
        f"{attrs.get('checkpoint_unit') or 'epoch'}s": _listed([str(e) for e in epochs]),
    }
    first, epoch = layers[0], epochs[-1] if epochs else 0
    tensor = next(iter(first.shapes), "weight")
    notes = [
        f"One tensor: `{without_code(f'stack[{first.name!r}][{tensor!r}]')}.sel(epoch={epoch})`; "
        "it is read when "
        "its values are asked for. All variables: `print(stack)`."
    ]
    told = [str(note) for note in attrs.get("notes", ())]
    told += [f"{number}: {why}" for number, why in dict(attrs.get("unreadable", {})).items()]
    notes += map(without_code, told)
    table = table_html(_table(layers, total), MOST_ROWS)
    return page_html(str(attrs.get("title") or "Stack of checkpoints"), facts, table, notes)


def integrity(attrs: Mapping[Any, Any]) -> str:
    """What is known of the files, in words; that nothing is known is said too."""
    known = str(attrs.get("integrity", ""))
    return "unverified: no hash of the files is known" if known == "unverified" else known


def _table(layers: Sequence[LayerSummary], total: int) -> Table:
    rows = tuple(
        Row(
            layer.name,
            (
                Cell(f"{layer.parameters:,}", layer.parameters / max(total, 1)),
                Cell(_shapes(layer.shapes), words=True),
                Cell(", ".join(layer.dtypes), words=True),
            ),
        )
        for layer in layers
    )
    caption = "Layers in forward order; the bluer, the larger its share of all parameters"
    return Table(caption, ("parameters", "tensors", "dtype"), rows, BLUES)


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Names and shapes: "weight 256×784, bias 256"."""
    said = [f"{name} {'×'.join(map(str, shape)) or 'one number'}" for name, shape in shapes.items()]
    rest = [f"{len(said) - MOST_SHAPES} more"] if len(said) > MOST_SHAPES else []
    return ", ".join([*said[:MOST_SHAPES], *rest])


def _listed(numbers: Sequence[str]) -> str:
    """Numbers of the checkpoints, the middle ones left out where there are many."""
    if len(numbers) <= MOST_EPOCHS:
        return ", ".join(numbers)
    return ", ".join([*numbers[: MOST_EPOCHS - 5], "…", *numbers[-4:]])
