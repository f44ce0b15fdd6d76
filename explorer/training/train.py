"""Train a stack from its recipe: checkpoints at chosen epochs, resumable, the same every time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from explorer.arguments import whole_number
from explorer.errors import TrainingError, UsageError
from explorer.training.device import check_precision, threads
from explorer.training.loop import Trainer
from explorer.training.optimiser import memory, recall
from explorer.training.recipe import Recipe
from explorer.training.recipes import Experiment, find_experiment
from explorer.training.settings import with_settings
from explorer.weights.device import pick_device
from explorer.weights.folder import (
    about_of,
    clear,
    finish,
    finished,
    load_state,
    save_checkpoint,
    save_log,
    save_state,
    training_lock,
)

CITATION = "Zhang, Bengio, Singer: Are All Layers Created Equal? JMLR 23(67), 2022."


def train(
    name: str | Experiment,
    *,
    out: str | Path,
    device: str = "auto",
    resume: bool = True,
    epochs: int | None = None,
    seed: int | None = None,
    progress: bool = True,
    settings: Mapping[str, object] | None = None,
    data: str | Path | None = None,
) -> Path:
    """Train a stack from its recipe and keep its checkpoints.

    The numbers are the same for the same seed on the same platform, also when the run is
    interrupted and resumed: initial values, augmentation and the order of the examples of each
    epoch come from generators that depend only on the seed and the epoch.

    Parameters
    ----------
    name : str or Experiment
        ``"fcn3x256-digits"``, or an experiment of your own.
    out : str or Path
        Folder for the checkpoints, ``log.csv`` and ``stack.json``; made if it is missing.
    device : str
        ``"auto"`` or a torch device.
    resume : bool
        Go on where an interrupted run in `out` stopped; False removes what it left there and
        begins anew.
    epochs : int, optional
        Passes over the training set; default the recipe's.
    seed : int, optional
        Default the experiment's.
    progress : bool
        Show a progress bar.
    settings : mapping, optional
        Fields of `explorer.training.recipe.Recipe` and sizes of the family, by name, for example
        ``{"weight_decay": 5e-4, "width": 64, "frozen": ["layer2"]}``; ``keep``: epochs whose
        checkpoint is kept; ``steps``: optimiser steps whose checkpoint is kept as well, with
        which the stack counts steps and not epochs; ``dataset``: another dataset.
    data : str or Path, optional
        Where downloaded datasets lie; default as `explorer.data.datasets` says.

    Returns
    -------
    Path
        The folder, which `explorer.open_stack` opens.

    Raises
    ------
    UnknownNameError
        Nothing of this name can be trained, or there is no such setting or layer.
    StackError
        A size that the family does not take.
    UsageError
        An unknown device, a value out of range, or a precision that the device does not have.
    DataError
        The dataset is missing.
    TrainingError
        `out` holds another experiment, or the loss became NaN or infinite.
    CheckpointError
        `out` cannot be written to, another process trains there, or the state in it is damaged.
    """
    chosen = {**(settings or {}), **({} if epochs is None else {"epochs": epochs})}
    run = _settled(find_experiment(name) if isinstance(name, str) else name, chosen, seed)
    folder = Path(out)
    place = pick_device(device)
    check_precision(run.recipe.precision, place)
    if resume and _is_done(run, folder):
        return folder
    with threads(run.recipe.threads):
        trainer = Trainer(run, place, None if data is None else Path(data))
        _check_steps(run, trainer.steps)
        with training_lock(folder):
            if not resume:
                clear(folder)
            if not _is_done(run, folder):  # by another process meanwhile
                _Run(run, folder, trainer).go(progress)
    return folder


def _is_done(run: Experiment, folder: Path) -> bool:
    """Whether this very run has ended here; that of another experiment is refused."""
    done = finished(folder)
    if done is None:
        return False
    per_epoch = done.checkpoints[-1].epoch // run.recipe.epochs
    theirs = {**about_of(done), "recipe": Recipe.from_json(done.recipe).as_json()}
    _check_same(_about(run, per_epoch), theirs, folder)
    return True


class _Run:
    """One training run: a trainer and the folder in which it leaves its checkpoints."""

    def __init__(self, experiment: Experiment, folder: Path, trainer: Trainer) -> None:
        self.experiment = experiment
        self.folder = folder
        self.trainer = trainer
        self.log: list[dict[str, Any]] = []

    def go(self, progress: bool) -> None:
        """Run all epochs that are not behind us, then describe the stack."""
        last, steps = self.experiment.recipe.epochs, self.trainer.steps
        start = self._restore()
        if start == 0:
            self._save(0)
        with tqdm(
            desc=self.experiment.name,
            initial=start * steps,
            total=last * steps,
            unit="step",
            disable=not progress,
        ) as bar:
            for epoch in range(start + 1, last + 1):
                self._epoch(epoch, bar)
        self._finish()

    def _epoch(self, epoch: int, bar: tqdm) -> None:
        """Train for one epoch and keep what it is to be kept of it."""
        line = self.trainer.epoch(epoch, functools.partial(self._after_step, epoch, bar))
        self.log.append(line)
        told = f"epoch {epoch}/{self.experiment.recipe.epochs}, test error {line['test_error']:.4f}"
        bar.set_postfix_str(told, refresh=False)
        if epoch in self.experiment.keep:
            self._save(_number(self.experiment, epoch, self.trainer.steps))
        save_log(self.folder, self.log)
        self._remember(epoch)

    def _after_step(self, epoch: int, bar: tqdm, step: int) -> None:
        if step in self.experiment.steps:
            self.trainer.look(epoch)
            self._save(step)
        bar.update()

    def _save(self, number: int) -> None:
        save_checkpoint(self.folder, number, self.trainer.arrays(), self.experiment.unit)

    def _finish(self) -> None:
        final = {key: self.log[-1][key] for key in ("train_error", "test_error")}
        buffers = [name for name, _ in self.trainer.network.named_buffers()]
        about = {**_about(self.experiment, self.trainer.steps), "final": final}
        finish(self.folder, about, about.pop("keep"), self.trainer.layers, buffers)

    def _remember(self, epoch: int) -> None:
        """Keep what the next epoch needs, so that a killed run can go on."""
        arrays = {f"network/{name}": array for name, array in self.trainer.arrays().items()}
        arrays |= memory(self.trainer.optimiser, self.trainer.network)
        about = _about(self.experiment, self.trainer.steps)
        notes = {"epoch": epoch, "about": about, "log": self.log}
        save_state(self.folder, arrays, notes)

    def _restore(self) -> int:
        """Take up an interrupted run; returns the last finished epoch, 0 for none."""
        found = load_state(self.folder)
        if found is None:
            return 0
        arrays, notes = found
        about = _about(self.experiment, self.trainer.steps)
        _check_same(about, notes["about"], self.folder)
        prefix = "network/"
        state = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        self.trainer.network.load_state_dict({n: torch.from_numpy(a) for n, a in state.items()})
        recall(self.trainer.optimiser, self.trainer.network, arrays)
        self.log = list(notes["log"])
        return int(notes["epoch"])


def _settled(
    experiment: Experiment, settings: Mapping[str, object], seed: int | None
) -> Experiment:
    """Put the caller's settings and seed in."""
    settled = with_settings(experiment, settings)
    if seed is None:
        return settled
    number = whole_number("seed", seed, "Use 0, 1, 2, …", least=0)
    return dataclasses.replace(settled, seed=number)


def _number(experiment: Experiment, epoch: int, steps: int) -> int:
    """Number of the checkpoint at the end of an epoch of so many steps, in the stack's unit."""
    return epoch * steps if experiment.unit == "step" else epoch


def _numbers(experiment: Experiment, steps: int) -> list[int]:
    """Numbers of all checkpoints of a run, rising."""
    ends = {_number(experiment, epoch, steps) for epoch in experiment.keep}
    return sorted(ends | set(experiment.steps))


def _check_steps(experiment: Experiment, steps: int) -> None:
    last = steps * experiment.recipe.epochs
    if any(step > last for step in experiment.steps):
        raise UsageError(
            f"steps holds {max(experiment.steps)}.",
            f"The run has {last} optimiser steps, {steps} per epoch.",
            "Leave the later ones out, or train for more epochs.",
        )


def _about(experiment: Experiment, steps: int) -> dict[str, Any]:
    """What makes a run this one: the manifest's keys, and the numbers of its checkpoints."""
    unit = {"unit": "step"} if experiment.unit == "step" else {}
    return {
        "name": experiment.name,
        "family": {"name": experiment.family, "sizes": dict(experiment.sizes)},
        "dataset": experiment.dataset,
        "recipe": experiment.recipe.as_json(),
        "seed": experiment.seed,
        **unit,
        "title": experiment.title,
        "licence": "BSD-3-Clause",
        "citation": CITATION,
        "keep": _numbers(experiment, steps),
    }


def _check_same(
    wanted: Mapping[str, Any], found: Mapping[str, Any], folder: Path, within: str = ""
) -> None:
    """Refuse to go on in the folder of another run; the message names the first difference."""
    for key in dict.fromkeys((*wanted, *found)):
        ours, theirs = wanted.get(key), found.get(key)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            _check_same(ours, theirs, folder, f"{within}{key}.")
        elif ours != theirs:
            raise TrainingError(
                f"{folder} holds a run whose {within}{key} is {_said(theirs)}.",
                f"This run's is {_said(ours)}.",
                "Choose another folder, or begin anew with resume=False (--restart).",
            )


def _said(value: object) -> str:
    return "not given" if value is None else repr(value)
