"""Whether a stack can be trusted: one pass over its checkpoints, and everything that is odd."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from torch import nn

from explorer.arguments import whole_number
from explorer.doctor.beginning import Beginning
from explorer.doctor.faults import (
    duplicate_findings,
    examined,
    finite_findings,
    hash_findings,
    number_findings,
    presence_findings,
    spec_findings,
    tied_findings,
)
from explorer.doctor.findings import Diagnosis
from explorer.doctor.folder import folder_findings
from explorer.doctor.order import order_findings
from explorer.doctor.passage import examine
from explorer.doctor.patient import open_patient
from explorer.weights.layers import LayerScheme
from explorer.weights.unwrapped import unwrapped


def check(
    stack: str | Path | Sequence[str | Path] | Iterable[Mapping[str, Any]] | xr.DataTree,
    *,
    model: nn.Module | None = None,
    layers: LayerScheme | None = None,
    reader: Callable[[Path], Mapping[str, Any]] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Diagnosis:
    """Examine a stack of checkpoints, and go on after a damaged one.

    Parameters
    ----------
    stack : str, Path, sequence of paths, iterable of state dicts, or DataTree
        What `explorer.open_stack` takes, also where that refuses it.
    model : torch.nn.Module, optional
        The network, whose modules' ``reset_parameters`` tell how an initialisation looks; not
        needed where the stack names a known family.
    layers : str, mapping, sequence or function, optional
        How tensors are divided into layers, as in `explorer.open_stack`.
    reader : function, optional
        Path → {name: tensor}, for other formats.
    seed : int
        Of the fresh draws that the first checkpoint is compared with.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Diagnosis
        ``print`` it, iterate over its findings, or take ``worst``, ``at_least("warning")`` and
        ``as_json()``. Examined are hashes, missing and incomplete checkpoints, numbers, shapes
        and dtypes, NaN and infinities, duplicates, the order along the path of training, tied
        weights, and whether the first checkpoint is an initialisation; docs/check.md says how.

    Raises
    ------
    UnknownNameError
        There is no such stack or folder.
    StackError
        There are no checkpoints.
    """
    model, seed = unwrapped(model), whole_number("seed", seed, "Use 0, 1, 2, …")
    patient = open_patient(stack, model, layers, reader)
    beginning = Beginning(patient, model, seed)
    chart = examine(patient, beginning, progress=progress)
    checkpoints = examined(patient, chart)
    duplicates, explained = duplicate_findings(patient, chart)
    findings = [
        *patient.remarks,
        *hash_findings(patient, checkpoints),
        *presence_findings(patient, chart),
        *folder_findings(patient),
        *number_findings(patient),
        *spec_findings(patient),
        *finite_findings(patient, chart),
        *duplicates,
        *order_findings(patient, chart, explained),
        *tied_findings(patient, chart),
        *beginning.findings(),
    ]
    return Diagnosis(patient.name, patient.unit, checkpoints, tuple(findings))
