"""The explorer in a notebook: click a cell, and that layer goes back while you watch the error.

`grid`, `results`, `painting` and `wording` decide what is shown, without a browser or a thread;
`session` and `worker` find it out; `views` and `panes` show it. Here they are tied together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import xarray as xr

from explorer.colours import BLUES, REDS
from explorer.engine.interventions import BatchNormPolicy
from explorer.ui.grid import Choice
from explorer.ui.live import LiveBokeh, prepare_page
from explorer.ui.painting import distance_columns, error_columns, error_scale
from explorer.ui.panes import Controls, StatusPane, heading, measure_menu, title, under
from explorer.ui.results import Counts, read
from explorer.ui.session import Session, Settings
from explorer.ui.views import Curve, Heatmap
from explorer.ui.wording import (
    MEASURES,
    ONE,
    WIDEST_DISTANCE,
    complaint,
    draws_outcome,
    error_tip,
    how_to,
    outcome,
    size_of,
    title_of,
)
from explorer.weights.stack import StackSource, open_stack


class Explorer(widgets.VBox):
    """Explore which layers of a trained network matter, and since when.

    Parameters
    ----------
    stack : str, Path, sequence of paths, iterable of state dicts, or DataTree
        Name of a stack in the catalog, a folder, or an open stack.
    model : torch.nn.Module, optional
        The network the stack belongs to, if it is your own.
    data : str, torch Dataset or pair of arrays, optional
        Labelled test examples; default the stack's own dataset.
    device : str
        ``"auto"`` or a torch device.
    batch_size : int, optional
        Most examples in one forward pass.
    batchnorm : {"with_layer", "weights_only", "recalibrate"}
        What happens to running statistics when their layer is replaced.
    draws : int
        Fresh draws behind a cell of ReRnd.
    seed : int
        Seed of the fresh draws.

    Raises
    ------
    UnknownNameError, StackError, CheckpointError
        The stack cannot be opened. What goes wrong later is shown in the explorer itself.

    Notes
    -----
    An explorer that is put inside another widget needs `explorer.ui.live.prepare_page()` in a
    cell before; one that is displayed by itself brings BokehJS along.
    """

    _built = False

    def __init__(
        self,
        stack: StackSource,
        *,
        model: Any = None,
        data: Any = None,
        device: str = "auto",
        batch_size: int | None = None,
        batchnorm: BatchNormPolicy = "with_layer",
        draws: int = 3,
        seed: int = 0,
    ) -> None:
        settings = Settings(model, data, device, batch_size, batchnorm, draws, seed)
        self._session = Session(open_stack(stack, model=model), settings, self)
        self._following = False
        self._build_views()
        grid = self._session.grid
        self._select(Choice(grid.cell(grid.layers[0], grid.epochs[0])))
        self.on_recorded()
        self.on_distances()
        self._status.say(how_to(grid.unit))
        self._arrange()
        self._built = True
        self._session.start()

    @property
    def results(self) -> xr.Dataset:
        """What has been measured so far, as `explorer.sweep` returns it (a copy)."""
        with self._session.lock:
            return self._session.results.copy(deep=True)

    def close(self) -> None:
        """Stop what runs, end the thread and take the explorer off the page."""
        if self._built:  # ipywidgets closes every object that goes, also one that never opened
            self._session.close()
            for view in self._live:
                view.close()
        super().close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        prepare_page()
        return super()._repr_mimebundle_(**kwargs)

    # What is on the page

    def _build_views(self) -> None:
        grid = self._session.grid
        size = size_of(grid)
        self._errors = Heatmap(
            grid, REDS, f"Heatmap of the test error, {size}. The menus below reach every cell."
        )
        self._moved = Heatmap(
            grid,
            BLUES,
            f"Heatmap of the distance from the start, {size}.",
            whole_network=False,
            number_size=10,
            widest=WIDEST_DISTANCE,
        )
        self._curve = Curve("Curve of the running estimate of the test error")
        self._heading, self._status = widgets.HTML(), StatusPane()
        self._controls, self._measure = Controls(grid), measure_menu()
        for view in (self._errors, self._moved):
            view.on_tap(self._tapped)
        for menu in (self._controls.layer, self._controls.source):
            menu.observe(self._menu_changed, "index")
        self._measure.observe(self._measure_changed, "index")
        self._controls.compute.on_click(self._compute_pressed)
        self._controls.stop.on_click(self._stop_pressed)

    def _arrange(self) -> None:
        figures = (self._errors.figure, self._moved.figure, self._curve.figure)
        self._live = [LiveBokeh(figure, self._session.lock) for figure in figures]
        errors, moved, curve = self._live
        name = title("Test error after putting one layer back, in %")
        pictures = widgets.Box([under(name, errors), under(self._measure, moved)])
        pictures.layout.flex_flow = "row wrap"
        super().__init__([self._heading, pictures, self._controls, self._status, curve])
        self.add_class("layer-explorer")

    def _select(self, choice: Choice) -> None:
        """Mark a cell in both heatmaps and name it in the menus and above the curve."""
        self._choice = choice
        self._errors.mark(choice.cell)
        self._moved.mark(choice.cell)
        self._curve.show(f"{choice} (not run yet)", ())
        self._following = True
        self._controls.follow(choice)
        self._following = False

    # What the reader does

    def _tapped(self, x: float | None, y: float | None) -> None:
        with self._session.reported(), self._session.lock:
            cell = self._session.grid.cell_at(x, y)
            if cell is not None:
                self._request(Choice(cell))

    def _menu_changed(self, _change: Any) -> None:
        with self._session.reported(), self._session.lock:
            if not self._following:
                self._session.stop()
                self._select(self._controls.choice)
                self._status.say(known(self._choice, self._session.results))

    def _measure_changed(self, _change: Any) -> None:
        with self._session.reported(), self._session.lock:
            self.on_distances()

    def _compute_pressed(self, _button: Any) -> None:
        with self._session.reported(), self._session.lock:
            self._request(self._controls.choice)

    def _stop_pressed(self, _button: Any) -> None:
        with self._session.reported(), self._session.lock:
            stopped = f"Stopped. {self._choice} keeps what was measured before."
            self._status.say(stopped if self._session.stop() else "Nothing is running.")

    def _request(self, choice: Choice) -> None:
        if choice.cell not in self._session.grid.cells:
            self._status.say(known(choice, self._session.results))
            return
        waiting = "" if self._session.device else ", once the network is loaded"
        self._status.complain("")
        self._status.advance(0, 1)
        self._status.say(f"Measuring {choice}{waiting} …")
        self._select(choice)
        self._session.request(choice)

    # What the session finds out; it calls these with the lock held

    def on_ready(self, device: str, idle: bool) -> None:
        """Say that clicks are answered at once from now on."""
        self.on_recorded()
        if idle:
            self._status.say(f"Ready on {device}. {how_to(self._session.grid.unit)}")

    def on_recorded(self) -> None:
        """Paint the error heatmap, and what depends on the final error."""
        results, grid = self._session.results, self._session.grid
        final, chance = (float(results.attrs[name]) for name in ("final_error", "chance_error"))
        scale = error_scale(final, chance)
        self._errors.paint(error_columns(results, grid, scale), scale)
        self._curve.baseline(final, chance, int(results.attrs["examples"]))
        self._heading.value = heading(title_of(results.attrs), final, chance, grid.unit)

    def on_estimates(self, choice: Choice, estimates: Sequence[Counts]) -> None:
        """Draw a run so far."""
        self._curve.show(str(choice), estimates)
        self._status.advance(estimates[-1].examples, estimates[-1].total)

    def on_finished(self, choice: Choice, last: Counts) -> None:
        """Say what was measured."""
        reading = read(self._session.results, choice.cell)
        if choice.cell.epoch is None and choice.draw is None and reading.state == "measured":
            self._status.say(draws_outcome(choice.cell, reading, self._session.device))
        elif last.failure:
            self._say_failed(choice, last.failure)
        else:
            self._status.say(outcome(str(choice), last, self._session.device))

    def on_distances(self) -> None:
        """Paint the distance heatmap in the chosen measure."""
        measure = list(MEASURES)[self._measure.index]
        distances, grid = self._session.distances, self._session.grid
        self._moved.paint(*distance_columns(distances, grid, measure))

    def on_failure(self, choice: Choice | None, error: Exception) -> None:
        """Show an error, and in which cell it happened."""
        self.on_recorded()
        self._say_failed(choice, complaint(error))

    def _say_failed(self, choice: Choice | None, reason: str) -> None:
        self._status.complain(reason)
        if choice is not None:
            self._status.say(f"{choice} could not be measured.")


def known(choice: Choice, results: xr.Dataset) -> str:
    """Return what is known about a choice before it is measured, for the status line."""
    if choice.cell.layer is None and choice.cell.epoch is None:
        return f"The whole network has no fresh draw here: choose {ONE[choice.cell.unit]}."
    facts = error_tip(read(results, choice.cell)).replace("\n", ", ")
    return f"{choice.cell}: {facts}. Press Compute to measure {choice}."
