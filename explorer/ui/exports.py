"""What leaves the explorer: a report, the data, and code that repeats the selected cell."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import pandas as pd

from explorer.engine.interventions import Intervention
from explorer.engine.results import DIMS
from explorer.engine.verdicts import DEFAULT_THRESHOLD
from explorer.errors import UsageError
from explorer.inventory.manifest import bundled_sweep
from explorer.ui import as_python
from explorer.ui.grid import WHOLE_NETWORK
from explorer.ui.measured import measured_frame
from explorer.ui.report import report_page
from explorer.ui.selection import Choice, steps
from explorer.ui.session import Session
from explorer.ui.settings import Settings
from explorer.ui.wording import complaint

_UNSAFE = re.compile(r"[^\w.+@=-]+")
"""What stands in no file name."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet computes."""

_PLACE = ["layer", "epoch", "draw"]
"""Columns of a table that say which number it is."""


def intervention_of(choice: Choice, session: Session) -> Intervention:
    """Return the first intervention of a choice."""
    return steps(choice, session.grid, session.seed)[0].intervention


def code_of(intervention: Intervention, opened: str, settings: Settings) -> str:
    """Return the code that measures an intervention under these settings."""
    return as_python.code_of(intervention, opened, options_of(settings))


def options_of(settings: Settings, screen: bool = True) -> str:
    """Return settings as keyword arguments, each begun by a comma; only those not as by default.

    Parameters
    ----------
    settings : Settings
        In force.
    screen : bool
        Whether the function can compute in a lower precision first.
    """
    options = ""
    if settings.model is not None:
        options += ", model=net"
    if settings.data is not None:
        options += f", data={settings.data!r}" if isinstance(settings.data, str) else ", data=data"
    if settings.batchnorm != "with_layer":
        options += f", batchnorm={settings.batchnorm!r}"
    if settings.device != "auto":
        options += f", device={settings.device!r}"
    if settings.screen and screen:
        options += ", screen=True"
    return options


def sweep_of(attrs: Mapping[Any, Any]) -> str:
    """Return the sweep that came with a stack as a keyword argument; nothing where none did."""
    name = str(attrs.get("stack", ""))
    known = bool(name) and bundled_sweep(name) is not None
    return f", sweep=lx.open_sweep({name!r})" if known else ""


def page_address(page: str) -> str:
    """Return the address of a page of the docs; empty where the package names none."""
    try:
        urls = metadata("layer-explorer").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    named = dict(one.split(", ", 1) for one in urls)
    root = named.get("Source") or named.get("Repository") or ""
    return f"{root.rstrip('/')}/blob/main/{page}" if root.startswith("https://") else ""


def hand_over(kind: str, session: Session, page: Any, threshold: float = DEFAULT_THRESHOLD) -> None:
    """Write a file and let the browser save it, or say why there is none.

    Parameters
    ----------
    kind : {"html", "nc", "csv", "list"}
        A report, the sweep as netCDF or as a table, or the list of what was measured.
    session : Session
        What is known.
    page : explorer.ui.elements.Exports
        Where the reader asked for it.
    threshold : float
        ε of a report's verdicts, a share of the way to chance.
    """
    with session.lock:
        results, distances = session.results.copy(deep=True), session.distances
        entries = list(session.measured)
    name = _file_name(results)
    try:
        if kind == "html":
            if distances is None:
                raise UsageError(
                    "The distances are not known yet.",
                    "A report shows them beside the errors.",
                    "Try again in a moment.",
                )
            if "dataset" not in results.attrs:
                raise UsageError(
                    "The test examples are not loaded yet.",
                    "A report names those that its errors are of.",
                    "Try again in a moment, or measure a cell first.",
                )
            content = report_page(results, distances, threshold).encode("utf-8")
            page.hand_over(f"{name}.html", "text/html", content)
        elif kind == "nc":
            page.hand_over(f"{name}.nc", "application/x-netcdf", _netcdf(results))
        elif kind == "csv":
            page.hand_over(f"{name}.csv", "text/csv", _table(results).encode("utf-8"))
        else:
            text = csv_of(measured_frame(entries))
            page.hand_over(f"{name}-measured.csv", "text/csv", text.encode("utf-8"))
    except UsageError as error:
        page.refuse(complaint(error))


def hand_over_found(kind: str, found: Any, what: str, page: Any, csv: Sequence[str]) -> None:
    """Let the browser save what a measurement has found.

    Parameters
    ----------
    kind : {"nc", "csv"}
        The whole Dataset as netCDF, or its numbers over some dims as a table.
    found : xarray.Dataset
        As the public function returns it.
    what : str
        Name of the measurement.
    page : explorer.ui.elements.Exports
        Where the reader asked for it.
    csv : sequence of str
        Dims of the table; what does not depend on all of them stands in many rows.
    """
    name = f"{_file_name(found)}-{what}"
    if kind == "nc":
        page.hand_over(f"{name}.nc", "application/x-netcdf", _netcdf(found))
        return
    names = [one for one in found.data_vars if set(found[one].dims) <= set(csv)]
    frame = found[names].to_dataframe(dim_order=list(csv)).reset_index()
    page.hand_over(f"{name}.csv", "text/csv", csv_of(frame).encode("utf-8"))


def _file_name(results: Any) -> str:
    return _UNSAFE.sub("-", str(results.attrs.get("stack", ""))).strip("-.") or "explorer"


def _netcdf(results: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sweep.nc"
        results.to_netcdf(path, engine="h5netcdf")
        return path.read_bytes()


def _table(results: Any) -> str:
    """One row per cell, and per draw of the fresh ones, which have no epoch.

    The whole network is a layer of its own, as in the pictures; only fresh draws have a `draw`.
    """
    names = [name for name in results if results[name].dims == ("layer", "epoch")]
    parts = []
    for prefix, dims in DIMS.items():
        found = results[[prefix + name for name in names]].to_dataframe(dim_order=list(dims))
        parts.append(found.reset_index().rename(columns={prefix + name: name for name in names}))
    table = pd.concat(parts, ignore_index=True)
    table["layer"] = table["layer"].fillna(WHOLE_NETWORK)
    whole = table[["epoch", "draw"]].astype("Int64")
    return csv_of(table.assign(epoch=whole["epoch"], draw=whole["draw"])[_PLACE + names])


def csv_of(frame: pd.DataFrame) -> str:
    """Write a table of which no text is a formula to a spreadsheet, whatever a layer is called."""
    safe = frame.copy()
    for name in frame:
        if frame[name].dtype.kind not in "fiu":
            safe[name] = [_text(str(cell)) for cell in frame[name]]
    return str(safe.to_csv(index=False))


def _text(cell: str) -> str:
    """A carriage return would end the row; an apostrophe tells spreadsheets that this is text."""
    return f"'{cell}".replace("\r", " ") if cell.startswith(_FORMULA) else cell.replace("\r", " ")
