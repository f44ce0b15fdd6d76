"""What leaves the explorer: a report, the data, and code that repeats the selected cell."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from explorer.engine.interventions import Intervention
from explorer.errors import UsageError
from explorer.ui import as_python
from explorer.ui.measured import measured_frame
from explorer.ui.report import report_page
from explorer.ui.selection import Choice, steps
from explorer.ui.session import Session, Settings
from explorer.ui.wording import complaint


def intervention_of(choice: Choice, session: Session) -> Intervention:
    """Return the first intervention of a choice."""
    return steps(choice, session.grid, session.seed)[0].intervention


def code_of(intervention: Intervention, opened: str, settings: Settings) -> str:
    """Return the code that measures an intervention under these settings."""
    options = ""
    if settings.model is not None:
        options += ", model=net"
    if settings.data is not None:
        options += f", data={settings.data!r}" if isinstance(settings.data, str) else ", data=data"
    if settings.batchnorm != "with_layer":
        options += f", batchnorm={settings.batchnorm!r}"
    if settings.device != "auto":
        options += f", device={settings.device!r}"
    if settings.screen:
        options += ", screen=True"
    return as_python.code_of(intervention, opened, options)


def hand_over(kind: str, session: Session, page: Any) -> None:
    """Write a file and let the browser save it, or say why there is none.

    Parameters
    ----------
    kind : {"html", "nc", "csv", "list"}
        A report, the sweep as netCDF or as a table, or the list of what was measured.
    session : Session
        What is known.
    page : explorer.ui.elements.Exports
        Where the reader asked for it.
    """
    with session.lock:
        results, distances = session.results.copy(deep=True), session.distances
        entries = list(session.measured)
    name = str(results.attrs.get("stack") or "explorer").replace("/", "-")
    try:
        if kind == "html":
            if distances is None:
                raise UsageError(
                    "The distances are not known yet.",
                    "A report shows them beside the errors.",
                    "Try again in a moment.",
                )
            content = report_page(results, distances).encode("utf-8")
            page.hand_over(f"{name}.html", "text/html", content)
        elif kind == "nc":
            page.hand_over(f"{name}.nc", "application/x-netcdf", _netcdf(results))
        elif kind == "csv":
            page.hand_over(f"{name}.csv", "text/csv", _table(results).encode("utf-8"))
        else:
            text = measured_frame(entries).to_csv(index=False)
            page.hand_over(f"{name}-measured.csv", "text/csv", text.encode("utf-8"))
    except UsageError as error:
        page.refuse(complaint(error))


def _netcdf(results: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sweep.nc"
        results.to_netcdf(path, engine="h5netcdf")
        return path.read_bytes()


def _table(results: Any) -> str:
    names = [name for name in results.data_vars if results[name].dims == ("layer", "epoch")]
    return str(results[names].to_dataframe().reset_index().to_csv(index=False))
