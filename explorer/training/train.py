"""Train a stack from its recipe: checkpoints at chosen epochs, resumable, the same every time."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from explorer.data.datasets import load_test_set, load_training_set
from explorer.errors import TrainingError, UsageError
from explorer.training.recipes import Experiment, find_experiment
from explorer.weights.device import pick_device
from explorer.weights.families.known import build_network, find_family
from explorer.weights.folder import (
    clear,
    finish,
    finished,
    load_state,
    save_epoch,
    save_log,
    save_state,
)
from explorer.weights.fresh import fresh_layer, layer_seed

INITIAL_DRAW = -1
"""Number of the draw that a training run starts from; fresh draws count from 0."""


def train(
    name: str | Experiment,
    *,
    out: str | Path,
    device: str = "auto",
    resume: bool = True,
    epochs: int | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> Path:
    """Train a stack from its recipe and keep its checkpoints.

    The numbers are the same for the same seed on the same platform, also when the run is
    interrupted and resumed: initial values, shifts and the order of the examples of each epoch
    come from generators that depend only on the seed and the epoch.

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

    Returns
    -------
    Path
        The folder, which `explorer.open_stack` opens.

    Raises
    ------
    UnknownNameError
        Nothing of this name can be trained.
    UsageError
        An unknown device, or less than one epoch.
    TrainingError
        `out` holds another experiment, or the loss became NaN or infinite.
    CheckpointError
        `out` cannot be written to, or the state in it is damaged.
    """
    experiment = _settled(find_experiment(name) if isinstance(name, str) else name, epochs, seed)
    folder = Path(out)
    place = pick_device(device)
    if not resume:
        clear(folder)
    done = finished(folder)
    if done is not None:
        _check_same(_about(experiment), _about_entry(done), folder)
        return folder
    with _threads(experiment.recipe.threads):
        _Run(experiment, folder, place).go(progress)
    return folder


class _Run:
    """One training run: network, optimiser and data of an experiment."""

    def __init__(self, experiment: Experiment, folder: Path, device: torch.device) -> None:
        self.experiment = experiment
        self.folder = folder
        self.device = device
        self.family = find_family(experiment.family)
        self.layers = self.family.layers(experiment.sizes)
        self.network = _initial_network(experiment, self.layers).to(device)
        recipe = experiment.recipe
        self.optimiser = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.training = load_training_set(experiment.dataset)
        self.labels = self.training.labels.to(device)
        self.test = load_test_set(experiment.dataset)
        self.log: list[dict[str, Any]] = []

    def go(self, progress: bool) -> None:
        """Run all epochs that are not behind us, then describe the stack."""
        last = self.experiment.recipe.epochs
        start = self._restore()
        if start == 0:
            save_epoch(self.folder, 0, self._arrays())
        bar = tqdm(
            range(start + 1, last + 1),
            initial=start,
            total=last,
            unit="epoch",
            disable=not progress,
        )
        for epoch in bar:
            bar.set_description(self.experiment.name)
            self.log.append(self._epoch(epoch))
            bar.set_postfix_str(f"test error {self.log[-1]['test_error']:.4f}", refresh=False)
            if epoch in self.experiment.keep:
                save_epoch(self.folder, epoch, self._arrays())
            self._remember(epoch)
        save_log(self.folder, self.log)
        self._finish()

    def _epoch(self, epoch: int) -> dict[str, Any]:
        """One pass over the training set; returns its line of the log."""
        rate = self.experiment.recipe.rate(epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        generator = _epoch_generator(self.experiment.seed, epoch)
        inputs = self.training.inputs(generator).to(self.device)
        order = torch.randperm(len(inputs), generator=generator).to(self.device)
        self.network.train()
        loss_sum = 0.0
        for chosen in order.split(self.experiment.recipe.batch_size):
            self.optimiser.zero_grad()
            loss = functional.cross_entropy(self.network(inputs[chosen]), self.labels[chosen])
            loss.backward()
            self.optimiser.step()
            loss_sum += float(loss.detach()) * len(chosen)
        mean_loss = loss_sum / len(inputs)
        if not math.isfinite(mean_loss):
            raise TrainingError(
                f"The training loss is {mean_loss} in epoch {epoch} at rate {rate:g}.",
                "A finite loss is needed to go on.",
                "Lower the recipe's learning_rate; the checkpoints so far are kept.",
            )
        error = _error(self.network, self.test.inputs.to(self.device), self.test.labels)
        return {"epoch": epoch, "rate": rate, "train_loss": mean_loss, "test_error": error}

    def _finish(self) -> None:
        epochs = [e for e in self.experiment.keep if e <= self.experiment.recipe.epochs]
        generator = _epoch_generator(self.experiment.seed, self.experiment.recipe.epochs)
        seen = self.training.inputs(generator).to(self.device)
        final = {
            "train_error": _error(self.network, seen, self.training.labels),
            "test_error": _error(self.network, self.test.inputs.to(self.device), self.test.labels),
        }
        buffers = [name for name, _ in self.network.named_buffers()]
        about = {**_about(self.experiment), "final": final}
        finish(self.folder, about, epochs, self.layers, buffers)

    def _arrays(self) -> dict[str, Any]:
        return {n: t.detach().cpu().numpy() for n, t in self.network.state_dict().items()}

    def _remember(self, epoch: int) -> None:
        """Keep what the next epoch needs, so that a killed run can go on."""
        arrays = {f"network/{name}": array for name, array in self._arrays().items()}
        for name, parameter in self.network.named_parameters():
            momentum = self.optimiser.state[parameter].get("momentum_buffer")
            if momentum is not None:
                arrays[f"momentum/{name}"] = momentum.cpu().numpy()
        notes = {"epoch": epoch, "about": _about(self.experiment), "log": self.log}
        save_state(self.folder, arrays, notes)

    def _restore(self) -> int:
        """Take up an interrupted run; returns the last finished epoch, 0 for none."""
        found = load_state(self.folder)
        if found is None:
            return 0
        arrays, notes = found
        _check_same(_about(self.experiment), notes["about"], self.folder)
        prefix = "network/"
        state = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        self.network.load_state_dict({n: torch.from_numpy(a) for n, a in state.items()})
        for name, parameter in self.network.named_parameters():
            if f"momentum/{name}" in arrays:
                momentum = torch.from_numpy(arrays[f"momentum/{name}"]).to(self.device)
                self.optimiser.state[parameter]["momentum_buffer"] = momentum
        self.log = list(notes["log"])
        return int(notes["epoch"])


def _settled(experiment: Experiment, epochs: int | None, seed: int | None) -> Experiment:
    """Put the caller's epochs and seed in, and make sure that both ends are kept."""
    recipe = experiment.recipe
    if epochs is not None:
        if epochs < 1:
            raise UsageError(
                f"epochs is {epochs}.", "At least 1 epoch is needed.", "Leave it out for all."
            )
        recipe = dataclasses.replace(recipe, epochs=epochs)
    keep = {0, recipe.epochs, *(e for e in experiment.keep if e < recipe.epochs)}
    return dataclasses.replace(
        experiment,
        recipe=recipe,
        keep=tuple(sorted(keep)),
        seed=experiment.seed if seed is None else seed,
    )


def _about(experiment: Experiment) -> dict[str, Any]:
    """The manifest's keys that describe an experiment."""
    return {
        "name": experiment.name,
        "title": experiment.title,
        "family": {"name": experiment.family, "sizes": dict(experiment.sizes)},
        "dataset": experiment.dataset,
        "recipe": experiment.recipe.as_json(),
        "seed": experiment.seed,
        "licence": "BSD-3-Clause",
        "citation": "Zhang, Bengio, Singer: Are All Layers Created Equal? JMLR 23(67), 2022.",
    }


def _about_entry(entry: Any) -> dict[str, Any]:
    family = {"name": entry.family, "sizes": dict(entry.sizes)}
    return {
        **{key: getattr(entry, key) for key in ("name", "title", "dataset", "recipe", "seed")},
        "family": family,
        "licence": entry.licence,
        "citation": entry.citation,
    }


def _check_same(wanted: Mapping[str, Any], found: Mapping[str, Any], folder: Path) -> None:
    different = [key for key in wanted if wanted[key] != found.get(key)]
    if different:
        key = different[0]
        raise TrainingError(
            f"{folder} holds a run whose {key} is {found.get(key)!r}.",
            f"This run's is {wanted[key]!r}.",
            "Choose another folder, or begin anew with resume=False (--restart).",
        )


def _initial_network(experiment: Experiment, layers: Mapping[str, tuple[str, ...]]) -> nn.Module:
    network = build_network(experiment.family, experiment.sizes)
    state: dict[str, Tensor] = {}
    for layer, names in layers.items():
        state |= fresh_layer(
            network, experiment.family, layer, names, INITIAL_DRAW, experiment.seed
        )
    network.load_state_dict(state)
    return network


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Fix the number of CPU threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _epoch_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(layer_seed(seed, "training", epoch))


@torch.inference_mode()
def _error(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of examples misclassified, in evaluation mode."""
    network.eval()
    wrong = sum(
        int((network(part).argmax(1).cpu() != truth).sum())
        for part, truth in zip(inputs.split(512), labels.split(512), strict=True)
    )
    return wrong / len(labels)
