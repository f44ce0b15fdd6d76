"""The tensors of each source: what an intervention puts in a layer's place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from explorer.engine.interventions import (
    Epoch,
    FreshDraw,
    Mixture,
    Moments,
    Noise,
    Skip,
    Source,
    Zeros,
)
from explorer.errors import InterventionError
from explorer.weights.families.known import FAMILIES
from explorer.weights.fresh import fresh_layer, layer_seed
from explorer.weights.stack import epoch_numbers, layer_variables, read_layer

PROJECTION = ".downsample."
"""In the names of a projection inside a skip connection, which does not pass on what comes in."""


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
        a mixture with one of them, or noise around one.

    Raises
    ------
    CheckpointError
        An epoch's file is missing or altered.
    InterventionError
        The layer has no initialiser to draw from, or cannot pass its input on unchanged.
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
    if isinstance(source, Skip):
        return _skipped(stack, module, layer)
    trained = _trained_parameters(stack, layer)
    if isinstance(source, Noise):
        around = source.around and source_tensors(stack, module, layer, source.around)
        return _noisy(around or trained, trained, layer, source)
    return _changed_parameters(trained, layer, source)


def _at_epoch(stack: xr.DataTree, layer: str, epoch: int) -> dict[str, Tensor]:
    return {name: torch.from_numpy(a) for name, a in read_layer(stack, layer, epoch).items()}


def _trained_parameters(stack: xr.DataTree, layer: str) -> dict[str, Tensor]:
    """The layer's parameters at the last epoch, without its buffers."""
    variables = layer_variables(stack, layer)
    final = _at_epoch(stack, layer, epoch_numbers(stack)[-1])
    return {name: t for name, t in final.items() if not variables[name].attrs["buffer"]}


def _changed_parameters(
    trained: Mapping[str, Tensor], layer: str, source: Zeros | Moments
) -> dict[str, Tensor]:
    if isinstance(source, Zeros):
        return {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
    normal = _normal(trained, layer, source)
    return {name: t.mean() + t.std(correction=0) * normal[name] for name, t in trained.items()}


def _noisy(
    around: Mapping[str, Tensor], trained: Mapping[str, Tensor], layer: str, source: Noise
) -> dict[str, Tensor]:
    """Parameters with noise, and buffers, where there are any, without."""
    normal = _normal(trained, layer, source)
    return {n: t + source.sigma * normal[n] if n in normal else t for n, t in around.items()}


def _normal(
    trained: Mapping[str, Tensor], layer: str, source: Moments | Noise
) -> dict[str, Tensor]:
    """Standard normal values for each parameter; the same for one kind, seed, layer and draw."""
    number = layer_seed(source.seed, f"{type(source).__name__} {layer}", source.draw)
    generator = torch.Generator().manual_seed(number)
    float32 = torch.float32  # whatever the session's default is
    return {
        name: torch.randn(tensor.shape, generator=generator, dtype=float32)
        for name, tensor in trained.items()
    }


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


def _skipped(stack: xr.DataTree, network: nn.Module, layer: str) -> dict[str, Tensor]:
    """Parameters with which a layer passes its input on.

    A branch beside a skip connection gives nothing when all its parameters are 0. Elsewhere each
    module becomes the identity.
    """
    trained = _trained_parameters(stack, layer)
    family = str(stack.attrs.get("family", ""))
    beside = family in FAMILIES and FAMILIES[family].skips(layer)
    if beside and not any(PROJECTION in name for name in trained):
        return {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
    tensors: dict[str, Tensor] = {}
    for path in dict.fromkeys(name.rpartition(".")[0] for name in trained):
        part = network.get_submodule(path)
        found = _identity(part)
        if found is None:
            raise InterventionError(
                f"{layer} cannot be skipped: {path or 'the network'} is {part!r}.",
                "As many outputs as inputs, of the same size, or a skip connection around the "
                "layer are needed.",
                "Choose another source, for example zeros.",
            )
        prefix = f"{path}." if path else ""
        tensors |= {prefix + name: tensor for name, tensor in found.items()}
    return {name: tensors[name] for name in trained}


def _identity(module: nn.Module) -> dict[str, Tensor] | None:
    """Parameters with which a module is the identity; None where there are none."""
    own = {n: torch.zeros(p.shape) for n, p in module.named_parameters(recurse=False)}
    if isinstance(module, nn.Linear) and module.in_features == module.out_features:
        return {**own, "weight": torch.eye(module.in_features)}
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and _keeps_size(module):
        return {**own, "weight": nn.init.dirac_(own["weight"], module.groups)}
    if isinstance(module, _BatchNorm) and module.affine and module.running_mean is not None:
        assert module.running_var is not None
        spread = (module.running_var + module.eps).sqrt().cpu()
        return {"weight": spread, "bias": module.running_mean.cpu().clone()}
    return None


def _keeps_size(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> bool:
    """Tell whether a convolution's outputs can be its inputs."""
    if module.in_channels != module.out_channels or set(module.stride) != {1}:
        return False
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    pads = module.padding
    if isinstance(pads, str):
        return pads == "same"
    sizes = zip(pads, reach, module.kernel_size, strict=True)
    return all(k % 2 == 1 and 2 * p == r for p, r, k in sizes)
