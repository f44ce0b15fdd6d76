"""Linear maps with what follows them as one operation of oneDNN, and their packed weights.

oneDNN, which torch calls for convolutions and linear layers, adds, normalises and activates while a
result is still in the cache, and reads weights faster once they are packed in its own order.
torch's compiler uses the same operators on networks whose weights do not change any more. Here they
do, and are folded and packed once per intervention.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

MOST_PACKED = 16_000_000
"""Bytes of a weight up to which a second, packed one is kept; a linear layer can do without."""

ACTIVATIONS: Mapping[Any, tuple[str, str]] = {
    aten.relu.default: ("relu", ""),
    aten.gelu.default: ("gelu", "none"),
    aten.silu.default: ("swish", ""),
    aten.hardswish.default: ("hardswish", ""),
    aten.sigmoid.default: ("sigmoid", ""),
    aten.tanh.default: ("tanh", ""),
}
"""Activation → its name and variant for oneDNN; none has options."""

AFTER_SUM = (aten.relu.default,)
"""Those of them that can follow a sum."""


class Weights:
    """Weight and bias of one linear map, packed in each precision and form when first wanted.

    Parameters
    ----------
    weight : Tensor
        (output, input) or (output channel, input channel, row, column), float32.
    bias : Tensor, optional
        (output,).
    """

    __slots__ = ("__weakref__", "_packed", "bias", "made_of", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.made_of: tuple[Tensor, ...] = ()
        self._packed: dict[tuple[torch.dtype, int], tuple[Tensor, Tensor | None]] = {}

    def packed(
        self, dtype: torch.dtype, pack: Callable[[Tensor], Tensor], *, form: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """Both in a precision, the weight packed; what packs otherwise has another form."""
        key = dtype, form
        if key not in self._packed:
            bias = None if self.bias is None else self.bias.to(dtype)
            self._packed[key] = pack(self.weight.to(dtype)), bias
        return self._packed[key]


class Fused:
    """An operation that several have become; its result is memory of its own."""


@dataclass(frozen=True)
class Convolve(Fused):
    """A convolution with what follows it: a sum with other images, an activation.

    Images of few columns leave most of oneDNN's registers empty. They are put side by side, with
    columns of zeros between them that stand for the padding of either neighbour.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    activation: Any = None
    """One of `ACTIVATIONS`, or None; with a sum one of `AFTER_SUM`."""
    per_row: int = 1
    """Images that are put side by side; no result may be wider than `pitch_of` says."""

    def __call__(self, images: Tensor, weights: Weights, other: Tensor | None = None) -> Tensor:
        """Convolve images (image, channel, row, column); add `other`, of the result's shape.

        Both are brought to channels last, whatever wrote them: another layout has other rounding.
        """
        images = images.contiguous(memory_format=torch.channels_last)
        if other is not None:
            other = other.contiguous(memory_format=torch.channels_last)
        if self.per_row == 1:
            return self._run(images, weights, other, self.activation)
        narrow = self._side_by_side(images, weights, None if other is not None else self.activation)
        if other is None:
            return narrow
        narrow.add_(other)
        found: Tensor = self.activation(narrow) if self.activation else narrow
        return found

    def _run(
        self, images: Tensor, weights: Weights, other: Tensor | None, activation: Any
    ) -> Tensor:
        how = (list(self.padding), list(self.stride), list(self.dilation), self.groups)

        def pack(weight: Tensor) -> Tensor:
            size = list(images.shape)
            packed: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *how, size)
            return packed

        weight, bias = weights.packed(images.dtype, pack)
        name, variant = ACTIVATIONS.get(activation, ("none", ""))
        call = torch.ops.mkldnn._convolution_pointwise
        found: Tensor
        if other is None:
            found = call(images, weight, bias, *how, name, [], variant)
        else:
            last: Any = (name, [], variant) if activation else (None, [], None)
            found = call.binary(images, other, weight, bias, *how, "add", 1.0, *last)
        return found

    def _side_by_side(self, images: Tensor, weights: Weights, activation: Any) -> Tensor:
        count, channels, height, width = images.shape
        rows, pitch = count // self.per_row, pitch_of(width, self.padding[1], self.stride[1])
        wide = images.new_zeros((rows, height, self.per_row, pitch, channels))
        columns_last = images.permute(0, 2, 3, 1).unflatten(0, (rows, self.per_row))
        wide[:, :, :, :width] = columns_last.transpose(1, 2)
        long = wide.view(rows, height, self.per_row * pitch, channels).permute(0, 3, 1, 2)
        found = self._run(long, weights, None, activation)
        reach = self.dilation[1] * (weights.weight.shape[3] - 1)
        columns = (width + 2 * self.padding[1] - reach - 1) // self.stride[1] + 1
        row, channel, line, column = found.stride()
        apart = found.as_strided(
            (rows, self.per_row, found.shape[2], columns, found.shape[1]),
            (row, column * (pitch // self.stride[1]), line, column, channel),
        )
        # a view would have its sums taken in another order
        dense = apart.clone(memory_format=torch.contiguous_format)
        return dense.view(count, found.shape[2], columns, -1).permute(0, 3, 1, 2)


def pitch_of(width: int, padding: int, stride: int) -> int:
    """Columns from one image to the next: its own and enough zeros, in whole strides."""
    return -(-(width + padding) // stride) * stride


@dataclass(frozen=True)
class Multiply(Fused):
    """A linear layer with the activation that follows it."""

    activation: Any = None
    """One of `ACTIVATIONS`, or None."""
    shape: tuple[int, ...] | None = None
    """Of the result, where it is not (row, output)."""

    def __call__(self, rows: Tensor, weights: Weights) -> Tensor:
        """Multiply (row, input) by the weight, add the bias, activate."""

        def pack(weight: Tensor) -> Tensor:
            if weight.nbytes > MOST_PACKED:
                return weight
            packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, len(rows))
            return packed

        weight, bias = weights.packed(rows.dtype, pack)
        name, variant = ACTIVATIONS.get(self.activation, ("none", ""))
        found: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, name, [], variant)
        return found if self.shape is None else found.reshape(self.shape)


@functools.cache
def can_fuse() -> bool:
    """Tell whether torch has these operators, and they run on this processor."""
    ones = torch.ones(1, 1, 1, 1)
    try:
        with torch.inference_mode():
            relu = aten.relu.default
            Convolve((1, 1), (0, 0), (1, 1), 1, relu)(ones, Weights(ones, None), ones)
            Multiply(relu)(ones[0, 0], Weights(ones[0, 0], None))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True


def folded(
    weight: Tensor, bias: Tensor | None, *normalisation: Tensor | None, epsilon: float
) -> Weights:
    """Fold what normalises a convolution's channels into its weights.

    Parameters
    ----------
    weight, bias
        Of the convolution.
    *normalisation : Tensor
        (channel,) each: scale and shift, which may be None, mean and variance.
    epsilon : float
        Added to the variance.
    """
    scale, shift, mean, variance = (
        None if tensor is None else tensor.double() for tensor in normalisation
    )
    assert mean is not None
    assert variance is not None
    factor = (variance + epsilon).rsqrt()
    if scale is not None:
        factor = factor * scale
    offset = -mean if bias is None else bias.double() - mean
    offset = offset * factor
    if shift is not None:
        offset = offset + shift
    by_channel = factor.to(weight).view(-1, *[1] * (weight.ndim - 1))
    return Weights(weight * by_channel, offset.to(weight))


def transposed(weight: Tensor, bias: Tensor | None) -> Weights:
    """Weights of a product whose second factor is (input, output)."""
    return Weights(weight.t(), bias)
