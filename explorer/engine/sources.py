"""The tensors of each source: what an intervention puts in a layer's place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import xarray as xr
from torch import Tensor, nn

from explorer.engine.interventions import Epoch, FreshDraw, Mixture, Moments, Noise, Source, Zeros
from explorer.weights.fresh import fresh_layer, layer_seed
from explorer.weights.stack import epoch_numbers, layer_variables, read_layer


def source_tensors(
    stack: xr.DataTree, module: nn.Module, layer: str, source: Source
) -> dict[str, Tensor]:
    """Tensors of a layer from a source, on the CPU.

    Parameters
    ----------
    stack : xarray.DataTree
        The stack; its last epoch is the trained layer.
    module : torch.nn.Module
        The network, whose initialisers draw anew; it is only read.
    layer : str
        Name of the layer.
    source : Source
        Where its values come from.

    Returns
    -------
    dict
        Name → values. Buffers are among them where the source has any: an epoch, a fresh draw,
        or a mixture with one of them.

    Raises
    ------
    CheckpointError
        An epoch's file is missing or altered.
    InterventionError
        The layer has no initialiser to draw from.
    """
    if isinstance(source, Epoch):
        return _at_epoch(stack, layer, source.epoch)
    if isinstance(source, FreshDraw):
        names = tuple(layer_variables(stack, layer))
        family = str(stack.attrs.get("family", ""))
        return fresh_layer(module, family, layer, names, source.draw, source.seed)
    if isinstance(source, Mixture):
        final = _at_epoch(stack, layer, epoch_numbers(stack)[-1])
        return _mixed(
            source_tensors(stack, module, layer, source.source), final, source.final_share
        )
    return _changed_parameters(_trained_parameters(stack, layer), layer, source)


def _at_epoch(stack: xr.DataTree, layer: str, epoch: int) -> dict[str, Tensor]:
    return {name: torch.from_numpy(a) for name, a in read_layer(stack, layer, epoch).items()}


def _trained_parameters(stack: xr.DataTree, layer: str) -> dict[str, Tensor]:
    """The layer's parameters at the last epoch, without its buffers."""
    variables = layer_variables(stack, layer)
    final = _at_epoch(stack, layer, epoch_numbers(stack)[-1])
    return {name: t for name, t in final.items() if not variables[name].attrs["buffer"]}


def _changed_parameters(
    trained: Mapping[str, Tensor], layer: str, source: Zeros | Moments | Noise
) -> dict[str, Tensor]:
    if isinstance(source, Zeros):
        return {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
    kind = type(source).__name__
    number = layer_seed(source.seed, f"{kind} {layer}", source.draw)
    generator = torch.Generator().manual_seed(number)
    normal = {n: torch.randn(t.shape, generator=generator) for n, t in trained.items()}
    if isinstance(source, Noise):
        return {name: t + source.sigma * normal[name] for name, t in trained.items()}
    return {name: t.mean() + t.std(correction=0) * normal[name] for name, t in trained.items()}


def _mixed(
    start: Mapping[str, Tensor], final: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """(1 − share)·start + share·final; counters, which are whole numbers, stay final."""
    return {
        name: (1 - share) * tensor + share * final[name]
        if tensor.is_floating_point()
        else final[name]
        for name, tensor in start.items()
    }
