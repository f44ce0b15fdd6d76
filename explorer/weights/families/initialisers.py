"""Initial values: for each type of module, how each of its own tensors is drawn.

`TORCH` holds what torch's modules do by themselves. A family whose library does otherwise adds
to it, and a module that has to be told from others of its type is a subclass of its own.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from explorer.errors import InterventionError

Draw = Callable[[nn.Module, str, torch.Generator], Tensor]
"""(module, name of a tensor of its own, generator) → new values on the CPU."""

Table = Mapping[type[nn.Module], Mapping[str, Draw]]
"""Type of a module, which stands for its subclasses too → own tensor → how it is drawn."""


def _like(module: nn.Module, name: str) -> Tensor:
    tensor: Tensor = getattr(module, name)
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def _fan_in(module: nn.Module) -> int:
    """Inputs of one output of a module with a weight."""
    weight: Tensor = module.weight  # type: ignore[assignment]  # a Linear or a convolution
    return weight.shape[1:].numel()


def zeros(module: nn.Module, name: str, _generator: torch.Generator) -> Tensor:
    """All 0."""
    return nn.init.zeros_(_like(module, name))


def ones(module: nn.Module, name: str, _generator: torch.Generator) -> Tensor:
    """All 1."""
    return nn.init.ones_(_like(module, name))


def fan_in_uniform(module: nn.Module, name: str, generator: torch.Generator) -> Tensor:
    """Uniform in ±1/√fan_in, the default of torch's linear layers and convolutions."""
    bound = 1 / math.sqrt(_fan_in(module))
    return _like(module, name).uniform_(-bound, bound, generator=generator)


def fan_in_normal(module: nn.Module, name: str, generator: torch.Generator) -> Tensor:
    """Normal with variance 2/fan_in: under ReLU the signal keeps its size (He et al. 2015)."""
    return nn.init.kaiming_normal_(_like(module, name), nonlinearity="relu", generator=generator)


def fan_out_normal(module: nn.Module, name: str, generator: torch.Generator) -> Tensor:
    """Normal with variance 2/fan_out, as torchvision draws convolutions."""
    return nn.init.kaiming_normal_(
        _like(module, name), mode="fan_out", nonlinearity="relu", generator=generator
    )


def glorot_uniform(module: nn.Module, name: str, generator: torch.Generator) -> Tensor:
    """Uniform with variance 2/(fan_in + fan_out)."""
    return nn.init.xavier_uniform_(_like(module, name), generator=generator)


def fan_in_truncated(module: nn.Module, name: str, generator: torch.Generator) -> Tensor:
    """Normal with variance 1/fan_in, drawn again beyond ±2."""
    std = math.sqrt(1 / _fan_in(module))
    return nn.init.trunc_normal_(_like(module, name), std=std, generator=generator)


def normal(std: float) -> Draw:
    """Normal around 0."""

    def draw(module: nn.Module, name: str, generator: torch.Generator) -> Tensor:
        return nn.init.normal_(_like(module, name), std=std, generator=generator)

    return draw


_AFFINE = {"weight": fan_in_uniform, "bias": fan_in_uniform}
_SCALE = {"weight": ones, "bias": zeros}
_STATISTICS = {"running_mean": zeros, "running_var": ones, "num_batches_tracked": zeros}

TORCH: Table = {
    nn.Linear: _AFFINE,
    nn.Conv2d: _AFFINE,
    nn.BatchNorm1d: {**_SCALE, **_STATISTICS},
    nn.BatchNorm2d: {**_SCALE, **_STATISTICS},
    nn.LayerNorm: _SCALE,
    nn.MultiheadAttention: {"in_proj_weight": glorot_uniform, "in_proj_bias": zeros},
    # MultiheadAttention's out_proj: a linear layer whose bias begins at 0
    NonDynamicallyQuantizableLinear: {"weight": fan_in_uniform, "bias": zeros},
}


def how_to_draw(table: Table, module: nn.Module, name: str) -> Draw | None:
    """Look up how a module's own tensor is drawn; None where the table does not say."""
    for kind in type(module).__mro__:
        if kind in table:
            return table[kind].get(name)
    return None


def draw_tensors(
    table: Table, module: nn.Module, names: tuple[str, ...], generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw tensors anew, one name after the other.

    Parameters
    ----------
    table : mapping
        How each type of module is drawn.
    module : torch.nn.Module
        The network; only its shapes are read.
    names : tuple of str
        Parameters and buffers.
    generator : torch.Generator
        Of the CPU.

    Returns
    -------
    dict
        Name → new values, on the CPU.

    Raises
    ------
    InterventionError
        The table has nothing for one of them.
    """
    fresh = {}
    for name in names:
        path, _, own = name.rpartition(".")
        owner = module.get_submodule(path)
        draw = how_to_draw(table, owner, own)
        if draw is None:
            raise InterventionError(
                f"There is no initialiser for {name} of a {type(owner).__name__}.",
                f"Known types: {', '.join(kind.__name__ for kind in table)}.",
                "Give the network as model= with classes that have a reset_parameters method.",
            )
        fresh[name] = draw(owner, own, generator)
    return fresh


def from_table(table: Table) -> Callable[..., dict[str, Tensor]]:
    """Make the initialiser of a family from its table."""
    return functools.partial(draw_tensors, table)
