"""The training loop: network, optimiser and examples of a run; it knows nothing of files."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from explorer.data.datasets import load_test_set, load_training_set
from explorer.errors import TrainingError, UsageError, unknown_name
from explorer.training.device import arithmetic, autocast, reproducible, wants_channels_last
from explorer.training.optimiser import make_optimiser
from explorer.training.recipes import Experiment
from explorer.weights.families.chance import own_chance
from explorer.weights.families.known import build_network, find_family
from explorer.weights.fresh import fresh_layer, layer_seed

INITIAL_DRAW = -1
"""Number of the draw that a training run starts from; fresh draws count from 0."""
LOOK_EVERY = 100
"""Steps after which the losses are looked at; each look waits for the device."""
TRAIN_ERROR_EXAMPLES = 5_000
"""At most so many examples of an epoch, the first in its random order, give the train error."""
EXAMPLES_AT_ONCE, PREDICTIONS_AT_ONCE = 512, 4096
"""When measuring; the second counts for language models, with one prediction per position."""

Batch = tuple[Tensor, Tensor]


class Trainer:
    """A network on its way from its initial values through the epochs of a recipe.

    Parameters
    ----------
    experiment : Experiment
        What is trained how.
    device : torch.device
        Where.
    data : Path, optional
        Folder of the dataset, where it is not one that comes along.

    Raises
    ------
    UnknownNameError
        A frozen layer does not exist.
    UsageError
        All layers are frozen.
    DataError
        The dataset is missing; the message says how to get it.
    """

    def __init__(
        self, experiment: Experiment, device: torch.device, data: Path | None = None
    ) -> None:
        recipe = experiment.recipe
        self.recipe, self.seed, self.device = recipe, experiment.seed, device
        self.layers = find_family(experiment.family).layers(experiment.sizes)
        self.network = initial_network(experiment, self.layers)
        self._still = freeze(self.network, self.layers, recipe.frozen)
        self.network.to(device)
        if wants_channels_last(recipe.precision):
            self.network.to(memory_format=torch.channels_last)
        self.optimiser = make_optimiser(recipe, self.network)
        self.training = load_training_set(
            experiment.dataset,
            augment=recipe.augment,
            label_noise=recipe.label_noise,
            seed=experiment.seed,
            folder=data,
        )
        self.test = load_test_set(experiment.dataset, folder=data)
        self.steps = -(-len(self.training) // recipe.batch_size)  # per epoch, rounded up
        self._losses: list[float] = []
        self._pending: list[Tensor] = []

    def epoch(self, epoch: int, after_step: Callable[[int], None]) -> dict[str, Any]:
        """Make one pass over the training set and measure the errors.

        Parameters
        ----------
        epoch : int
            Number of the pass, from 1.
        after_step : function
            Called with the number of each optimiser step of the run, counted from 1.

        Returns
        -------
        dict
            The line of the log.

        Raises
        ------
        TrainingError
            The loss became NaN or infinite.
        """
        with reproducible(self.device), self._chance(epoch):
            start = time.perf_counter()
            loss = self._pass(epoch, after_step)
            seconds = time.perf_counter() - start
            train_error, _ = measured(self.network, self._seen(epoch))
            test_error, test_loss = measured(self.network, self._tested())
        self._check(test_loss, epoch, self.steps)
        return {
            "epoch": epoch,
            "step": epoch * self.steps,
            "rate": self.recipe.rate(epoch, self.steps, self.steps),
            "train_loss": loss,
            "train_error": train_error,
            "test_loss": test_loss,
            "test_error": test_error,
            "examples_per_second": round(len(self.training) / seconds, 1),
        }

    def arrays(self) -> dict[str, Any]:
        """Parameters and buffers as they are now, by their names in the state dict."""
        return {n: t.detach().cpu().numpy() for n, t in self.network.state_dict().items()}

    def look(self, epoch: int) -> None:
        """Wait for the device, and stop if a loss since the last look is not finite."""
        if not self._pending:
            return
        for loss in torch.stack(self._pending).tolist():
            self._losses.append(loss)
            self._check(loss, epoch, len(self._losses))
        self._pending.clear()

    def _pass(self, epoch: int, after_step: Callable[[int], None]) -> float:
        """Train on every example once; returns the mean loss."""
        self.network.train()
        for module in self._still:
            module.eval()
        self._losses, self._pending = [], []
        sizes = []
        batches = self.training.batches(self.recipe.batch_size, self._generator(epoch), self.device)
        for step, (inputs, labels) in zip(range(1, self.steps + 1), batches, strict=True):
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.rate(epoch, step, self.steps)
            self._pending.append(self._step(inputs, labels))
            sizes.append(len(inputs))
            if step % LOOK_EVERY == 0:
                self.look(epoch)
            after_step((epoch - 1) * self.steps + step)
        self.look(epoch)
        weighted = (loss * size for loss, size in zip(self._losses, sizes, strict=True))
        return sum(weighted) / sum(sizes)

    def _step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Make one step of the optimiser; returns the batch's mean loss, still on the device."""
        parts = self.recipe.accumulate
        total = torch.zeros((), device=self.device)
        self.optimiser.zero_grad()
        with arithmetic(self.recipe.precision):
            for part, truth in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
                with autocast(self.recipe.precision, self.device):
                    loss = cross_entropy(self.network(part), truth)
                loss = loss * (len(part) / len(inputs))
                loss.backward()
                total += loss.detach()
        if self.recipe.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.optimiser.step()
        return total

    def _seen(self, epoch: int) -> Iterator[Batch]:
        """The first examples of an epoch, as the network has seen them in it."""
        at_once = _at_once(self.test.labels)
        batches = self.training.batches(at_once, self._generator(epoch), self.device)
        return itertools.islice(batches, -(-TRAIN_ERROR_EXAMPLES // at_once))

    def _tested(self) -> Iterator[Batch]:
        at_once = _at_once(self.test.labels)
        parts = zip(self.test.inputs.split(at_once), self.test.labels.split(at_once), strict=True)
        return ((x.to(self.device), y.to(self.device)) for x, y in parts)

    def _generator(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(layer_seed(self.seed, "training", epoch))

    @contextlib.contextmanager
    def _chance(self, epoch: int) -> Iterator[None]:
        """Seed torch's own generators, which dropout draws from, for one epoch."""
        with own_chance(layer_seed(self.seed, "dropout", epoch), self.device):
            yield

    def _check(self, loss: float, epoch: int, step: int) -> None:
        if math.isfinite(loss):
            return
        rate = self.recipe.rate(epoch, step, self.steps)
        raise TrainingError(
            f"The loss is {loss} in epoch {epoch}, step {step} of {self.steps}, at rate {rate:g}.",
            "A finite loss is needed to go on.",
            "Lower learning_rate, or set warmup or clip_norm; the checkpoints so far are kept.",
        )


def initial_network(experiment: Experiment, layers: Mapping[str, tuple[str, ...]]) -> nn.Module:
    """Build the network with the initial values that the experiment's seed gives."""
    network = build_network(experiment.family, experiment.sizes)
    state: dict[str, Tensor] = {}
    for layer, names in layers.items():
        state |= fresh_layer(
            network, experiment.family, layer, names, INITIAL_DRAW, experiment.seed
        )
    network.load_state_dict(state)
    return network


def freeze(
    network: nn.Module, layers: Mapping[str, tuple[str, ...]], frozen: Iterable[str]
) -> list[nn.Module]:
    """Exclude layers from training; returns their batch normalisations, which must not learn.

    Such a module has to stay in evaluation mode: its running statistics are part of the layer
    and keep their initial value as well, so the network is trained with what it is tested with.
    """
    names: set[str] = set()
    for layer in frozen:
        if layer not in layers:
            raise unknown_name("layer", layer, layers)
        names.update(layers[layer])
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in names)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UsageError(
            f"All {len(layers)} layers are frozen.",
            "At least one layer has to be trained.",
            "Take a layer out of frozen.",
        )
    normalisations = [(n, m) for n, m in network.named_modules() if isinstance(m, _BatchNorm)]
    return [module for name, module in normalisations if f"{name}.running_mean" in names]


def cross_entropy(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Of (example, class) and (example,), or of (example, position, class) and their labels."""
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction=reduction)


@torch.inference_mode()
def measured(network: nn.Module, batches: Iterable[Batch]) -> tuple[float, float]:
    """Share of predictions that are wrong, and mean loss, in evaluation mode and float32."""
    network.eval()
    wrong = count = 0
    loss = 0.0
    with arithmetic("float32"):
        for inputs, labels in batches:
            logits = network(inputs)  # (example, …, class)
            wrong += int((logits.argmax(-1) != labels).sum())
            loss += float(cross_entropy(logits, labels, reduction="sum"))
            count += labels.numel()
    return wrong / count, loss / count


def _at_once(labels: Tensor) -> int:
    """Examples per forward pass when measuring."""
    positions = labels[0].numel()
    return max(1, min(EXAMPLES_AT_ONCE, PREDICTIONS_AT_ONCE // positions))
