"""The explorer in a notebook: click a cell, and that layer goes back while you watch the error."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import xarray as xr

from explorer.arguments import draws_and_seed
from explorer.engine.interventions import BatchNormPolicy
from explorer.inventory.manifest import load_manifest
from explorer.ui import displaced
from explorer.ui.carried import Carried, Look
from explorer.ui.controls import Chooser
from explorer.ui.exploration import Exploration
from explorer.ui.live import prepare_page
from explorer.ui.measured import measured_frame
from explorer.ui.panes import alert
from explorer.ui.settings import Settings
from explorer.ui.wording import complaint
from explorer.weights.stack import StackSource, open_stack

logger = logging.getLogger(__name__)

STACK_VARIABLE, FIRST_STACK = "EXPLORER_STACK", "fcn3x256-digits"
"""Which stack is opened when none is named; the dashboard's command sets the variable."""


class Explorer(widgets.VBox):
    """Explore which layers of a trained network matter, and since when.

    Parameters
    ----------
    stack : str, Path, sequence of paths, iterable of state dicts, or DataTree, optional
        Name of a stack in the catalog, a folder, or an open stack; default what the environment
        variable ``EXPLORER_STACK`` names, else the first bundled stack.
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
    screen : bool
        Compute in a lower precision first, as in `explorer.evaluate`: several times as fast on a
        GPU, with the labels of float32.
    client : distributed.Client, optional
        Of a running Dask cluster, on which sweeps are then measured, as in `explorer.sweep`; clicks
        are still answered here, at once. It stays yours: nothing here closes it.

    Raises
    ------
    UnknownNameError, StackError, CheckpointError
        The stack cannot be opened. What goes wrong later is shown in the explorer itself.

    Notes
    -----
    An explorer that is put inside another widget needs `explorer.ui.live.prepare_page()` in a
    cell before; one that is displayed by itself brings BokehJS along.

    When its cell has been run again and no page shows it any more, an explorer gives up its views
    and its thread. It keeps its `results`, and builds the rest again where it is displayed.
    """

    _exploration: Exploration | None = None

    def __init__(
        self,
        stack: StackSource | None = None,
        *,
        model: Any = None,
        data: Any = None,
        device: str = "auto",
        batch_size: int | None = None,
        batchnorm: BatchNormPolicy = "with_layer",
        draws: int = 3,
        seed: int = 0,
        screen: bool = False,
        client: Any = None,
    ) -> None:
        stack = os.environ.get(STACK_VARIABLE, FIRST_STACK) if stack is None else stack
        draws, seed = draws_and_seed(draws, seed)
        settings = Settings(
            model, data, device, batch_size, batchnorm, draws, seed, screen, client=client
        )
        self._stack, self._settings = open_stack(stack, model=model), settings
        self._opened = repr(str(stack)) if isinstance(stack, str) else _named(self._stack, model)
        self._carried = Carried()
        names = [name for name, entry in load_manifest().stacks.items() if entry.sweep]
        self._chooser = Chooser(names, str(self._stack.attrs.get("name", "")), self._choose)
        self._alert = widgets.HTML()
        exploration = self._explore()
        own = model is not None or data is not None  # another stack would not fit them
        self._above = (self._alert,) if own else (self._chooser, self._alert)
        super().__init__([*self._above, exploration])
        self._exploration = exploration
        self.shown_by: dict[str, str] = {}
        self._gave_way = False
        self._changing = threading.Lock()
        self.add_class("layer-explorer")

    @property
    def results(self) -> xr.Dataset:
        """What has been measured so far, as `explorer.sweep` returns it (a copy)."""
        session = self._shown.session
        with session.lock:
            return session.results.copy(deep=True)

    @property
    def measured(self) -> Any:
        """Everything that was measured here, joint interventions too: a pandas.DataFrame."""
        session = self._shown.session
        with session.lock:
            return measured_frame(session.measured)

    @property
    def found(self) -> dict[str, xr.Dataset]:
        """What the panels beyond the paper have measured, by the name of their command.

        Each as the public function returns it; the attribute ``complete`` says whether it is all.
        """
        session = self._shown.session
        with session.lock:
            return {kind: found.copy(deep=True) for kind, found in session.found.items()}

    def close(self) -> None:
        """Stop what runs, end the thread and take the explorer off the page."""
        if self._exploration is not None:  # None: it never opened, and ipywidgets closes it too
            self._exploration.close()
        super().close()

    def give_way(self) -> None:
        """Give up the views and the thread, if no page shows them, until it is displayed again."""
        with self._changing:
            if self._gave_way or self._shown.present:
                return
            self._gave_way = True
            self._alert.value = "<p>The cell of this explorer was run again.</p>"
            self.set_trait("children", (self._alert,))
            self._shown.close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        prepare_page()
        with self._changing:
            if self._gave_way:
                self._gave_way = False
                self._replace(self._stack, self._settings)
        displaced.note(self)
        return super()._repr_mimebundle_(**kwargs)

    # Another stack, other settings

    @property
    def _shown(self) -> Exploration:
        assert self._exploration is not None
        return self._exploration

    def _explore(self, look: Look | None = None) -> Exploration:
        settings, carried = self._settings, self._carried
        return Exploration(self._stack, settings, self._opened, self._apply, carried, look)

    def _choose(self, name: str) -> bool:
        """Open another stack, or say why that is not possible and keep this one."""
        try:
            stack = open_stack(name)
        except Exception as error:  # the widget's edge: nobody above could show it
            logger.exception("%s", name)
            self._alert.value = alert(complaint(error))
            self._chooser.follow(str(self._stack.attrs.get("name", "")))
            return False
        self._opened = repr(name)
        self._replace(stack, self._settings)
        return True

    def _apply(self, settings: Settings) -> None:
        """Go on with other settings."""
        self._replace(self._stack, settings)

    def _replace(self, stack: xr.DataTree, settings: Settings) -> None:
        """Show another exploration; of this one stays what holds there too."""
        before, look = self._shown, self._shown.look
        self._carried.keep(self._stack, self._settings, before.session)
        if stack is not self._stack:
            look = replace(look, selection=None)
        self._stack, self._settings = stack, settings
        self._exploration = self._explore(look)
        self._alert.value = ""
        self.set_trait("children", (*self._above, self._exploration))
        self._chooser.follow(str(stack.attrs.get("name", "")))
        before.close()


def _named(stack: xr.DataTree, model: Any) -> str:
    """Return the arguments that open a stack again, as far as a name can."""
    if model is not None:
        return "states, model=net"
    return repr(str(stack.attrs.get("name") or "a folder"))
