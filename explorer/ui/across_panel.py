"""The panel that sets other stacks beside the one that is explored."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from explorer.inventory.manifest import bundled_sweep, load_manifest
from explorer.ui.panel import Asked, Panel, Shown, Ticks

# What draws and compares is imported in the functions: scipy.stats takes half a second, which
# the other panels should not wait for.


def _asks(asked: Asked) -> list[Ticks]:
    bundled = [name for name in load_manifest().stacks if bundled_sweep(name) is not None]
    others = tuple(name for name in bundled if name != asked.stack)
    return [Ticks("Beside it:", others, "names, folders or files of sweeps, one a line")]


def _arguments(asked: Asked, chosen: Sequence[Any]) -> dict[str, Any]:
    (others,) = chosen
    wanted: dict[str, Any] = {"stacks": tuple(others), "threshold": asked.share}
    if asked.draws != 3:
        wanted["draws"] = asked.draws
    return wanted | ({"seed": asked.seed} if asked.seed else {})


def _figures(shown: Shown) -> list[Any]:
    from bokeh.models import Range1d

    from explorer.ui.across_figure import depth_figure, multiples_of, scale_figure

    multiples = multiples_of(shown.found, shown.layer)
    for plot in multiples:  # each is a picture of its own on the page
        along = plot.x_range
        plot.x_range = Range1d(start=along.start, end=along.end)
    curves = [depth_figure(shown.found, fresh) for fresh in (False, True)]
    return [*multiples, *curves, scale_figure()]


def _names(found: Any) -> tuple[str, ...]:
    labels = tuple(map(str, found["stacks"].children))
    return (*labels, "Damage by depth, first checkpoint", "Damage by depth, fresh draws", "Scale")


def _table(shown: Shown) -> str:
    from explorer.ui.across_figure import MARKS
    from explorer.ui.across_page import comparison_html, comparison_rule

    marks = " · ".join(f"{mark} {word}" for word, mark in MARKS.items())
    rule = escape(comparison_rule(shown.found))
    return f"<p>{marks}</p>{comparison_html(shown.found)}<p>{rule}</p>"


ACROSS = Panel(
    "across",
    "Other stacks",
    "Which layers matter in this network, and in others: each on the same scale, from its own "
    "trained error to its own chance. What is not swept yet is swept first, which takes time.",
    "compare",
    "cells",
    (),
    _asks,
    _arguments,
    lambda _found: None,
    _figures,
    _names,
    _table,
)


def code_of_comparison(arguments: Mapping[str, Any], name: str, opened: str, options: str) -> str:
    """Return Python that compares the same stacks.

    Parameters
    ----------
    arguments : mapping
        Of `explorer.compare`; ``stacks`` are the others.
    name : str
        Of the first stack.
    opened, options : str
        As in `explorer.ui.panel.code_of`; a model and examples are those of the first stack.
    """
    from explorer.engine.contenders import labelled

    others = arguments["stacks"]
    own = "".join(f", {key}={one!r}" for key, one in arguments.items() if key != "stacks")
    label = name or "stack"
    if opened == repr(name) and "model=" not in options and "data=" not in options:
        listed = repr([name, *others])
    else:
        told = {key: one for key, one in labelled([label, *others]).items() if key != label}
        pairs = "".join(f", {key!r}: {one!r}" for key, one in told.items())
        listed = f"{{{label!r}: lx.open_stack({opened}){pairs}}}"
        options = re.sub(r", (model|data)=([^,]+)", rf", \1={{{label!r}: \2}}", options)
    return (
        f"import explorer as lx\n\nfound = lx.compare({listed}{own}{options})\nprint(found.table)\n"
    )


def hand_over_comparison(kind: str, found: Any, page: Any) -> None:
    """Let the browser save a comparison: the data, the table, or the page with its pictures.

    Parameters
    ----------
    kind : {"nc", "csv", "html"}
        Which.
    found : explorer.engine.across.Across
        As `explorer.compare` returns it.
    page : explorer.ui.elements.Exports
        Where the reader asked for it.
    """
    from explorer.api import save_netcdf
    from explorer.ui.across_page import comparison_page
    from explorer.ui.exports import csv_of

    if kind == "nc":
        with tempfile.TemporaryDirectory() as folder:
            content = save_netcdf(found, Path(folder) / "comparison.nc").read_bytes()
        page.hand_over("comparison.nc", "application/x-netcdf", content)
    elif kind == "csv":
        text = csv_of(found.table.reset_index())
        page.hand_over("comparison.csv", "text/csv", text.encode("utf-8"))
    else:
        page.hand_over("comparison.html", "text/html", comparison_page(found).encode("utf-8"))
