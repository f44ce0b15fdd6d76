"""Layer Explorer shows which layers of a trained network matter, and since when.

The public names load lazily (PEP 562): ``import explorer`` imports none of torch, bokeh, numba
and xarray.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explorer.api import distances
    from explorer.doctor.check import check
    from explorer.doctor.diff import diff
    from explorer.engine.across import compare, compare_parts
    from explorer.engine.criticality import criticality
    from explorer.engine.effective_parameters import effective_parameters
    from explorer.engine.evaluate import evaluate, predictions
    from explorer.engine.interventions import reinitialise, rerandomise
    from explorer.engine.joint import reset_order
    from explorer.engine.judging import verdicts
    from explorer.engine.outputs import outputs
    from explorer.engine.paths import paths
    from explorer.engine.results import open_sweep
    from explorer.engine.sweep import sweep
    from explorer.inventory.manifest import catalog
    from explorer.moving import motion
    from explorer.training.train import train
    from explorer.ui.widget import Explorer
    from explorer.weights.readers.known import readers
    from explorer.weights.saving import save_stack
    from explorer.weights.stack import open_stack

__version__ = "0.1.0.dev0"

__all__ = [
    "Explorer",
    "__version__",
    "catalog",
    "check",
    "compare",
    "compare_parts",
    "criticality",
    "diff",
    "distances",
    "effective_parameters",
    "evaluate",
    "motion",
    "open_stack",
    "open_sweep",
    "outputs",
    "paths",
    "predictions",
    "readers",
    "reinitialise",
    "rerandomise",
    "reset_order",
    "save_stack",
    "sweep",
    "train",
    "verdicts",
]

_HOMES = {
    "Explorer": "explorer.ui.widget",
    "catalog": "explorer.inventory.manifest",
    "check": "explorer.doctor.check",
    "compare": "explorer.engine.across",
    "compare_parts": "explorer.engine.across",
    "criticality": "explorer.engine.criticality",
    "diff": "explorer.doctor.diff",
    "distances": "explorer.api",
    "effective_parameters": "explorer.engine.effective_parameters",
    "evaluate": "explorer.engine.evaluate",
    "motion": "explorer.moving",
    "open_stack": "explorer.weights.stack",
    "open_sweep": "explorer.engine.results",
    "outputs": "explorer.engine.outputs",
    "paths": "explorer.engine.paths",
    "predictions": "explorer.engine.evaluate",
    "readers": "explorer.weights.readers.known",
    "reinitialise": "explorer.engine.interventions",
    "rerandomise": "explorer.engine.interventions",
    "reset_order": "explorer.engine.joint",
    "save_stack": "explorer.weights.saving",
    "sweep": "explorer.engine.sweep",
    "train": "explorer.training.train",
    "verdicts": "explorer.engine.judging",
}


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'explorer' has no attribute {name!r}; it has {__all__}")
    value = getattr(_imported(_HOMES[name]), name)
    globals()[name] = value
    return value


def _imported(name: str) -> Any:
    """Import a module to its end, also where the reader interrupts: the interrupt comes after it.

    Of numba or torch imported by halves parts stay behind, and no later import mends that. Python
    interrupts the main thread alone, so another one imports.
    """
    if name in sys.modules or threading.current_thread() is not threading.main_thread():
        return importlib.import_module(name)
    from concurrent.futures import ThreadPoolExecutor  # not before it is needed

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(importlib.import_module, name).result()


def __dir__() -> list[str]:
    return sorted(__all__)
