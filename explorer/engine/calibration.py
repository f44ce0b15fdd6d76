"""Running statistics taken anew from training examples, after a layer has been replaced."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from explorer.engine.calling import call_with
from explorer.errors import DataError

STATISTICS = ("running_mean", "running_var")
"""Buffers of batch normalisation that are taken anew."""

CLOSE = 1e-5
"""Relative difference up to which two statistics come from the same values."""


class Calibration:
    """Batch normalisation's statistics over fixed examples, under any intervention.

    Parameters
    ----------
    module : torch.nn.Module
        The final network; it is only read.
    batches : sequence of Tensor
        (example, …) training inputs, on the network's device.
    """

    def __init__(self, module: nn.Module, batches: Sequence[Tensor]) -> None:
        self._module, self._batches = module, _without_a_last_one(batches)
        self._intact = self._statistics({})

    def statistics(self, replacement: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Statistics of the layers whose inputs an intervention changes.

        Layers before the changed one keep those of training: their statistics over the same
        examples are the same with and without the intervention.

        Parameters
        ----------
        replacement : mapping
            Tensor name → its value.

        Returns
        -------
        dict
            Name of a buffer → mean or variance over all examples, averaged over batches.
        """
        return {
            name: tensor
            for name, tensor in self._statistics(replacement).items()
            if not torch.allclose(tensor, self._intact[name], rtol=CLOSE, atol=0.0)
        }

    @torch.no_grad()
    def _statistics(self, replacement: Mapping[str, Tensor]) -> dict[str, Tensor]:
        twin = copy.deepcopy(self._module)
        normalising = {n: m for n, m in twin.named_modules() if isinstance(m, _BatchNorm)}
        for module in normalising.values():
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
            module.train()
        kept = {n: t for n, t in replacement.items() if n.rpartition(".")[2] not in STATISTICS}
        with torch.inference_mode(False):
            for inputs in self._batches:
                call_with(twin, kept, inputs.clone())  # which some networks write to
        return {
            f"{name}.{part}": getattr(module, part).clone()
            for name, module in normalising.items()
            for part in STATISTICS
            if getattr(module, part) is not None
        }


def _without_a_last_one(batches: Sequence[Tensor]) -> Sequence[Tensor]:
    """Batches of which the last, if it is a single example, is part of the one before.

    A mean over one value says nothing, and torch refuses to take it.
    """
    if len(batches) > 1 and len(batches[-1]) == 1:
        return [*batches[:-2], torch.cat(list(batches[-2:]))]
    return batches


def not_calibrated(inputs: Tensor, error: Exception) -> DataError:
    """Say that the network takes no statistics of these training inputs."""
    dtype = str(inputs.dtype).removeprefix("torch.")
    return DataError(
        f"No statistics can be taken of {len(inputs)} training inputs of shape "
        f"{tuple(inputs.shape[1:])}, {dtype}: {error}",
        "Inputs as the network was trained on, two or more, are needed.",
        "Pass calibration=, a tensor (example, …) of about a thousand.",
    )
