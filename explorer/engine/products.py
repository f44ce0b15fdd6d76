"""Convolutions of very small images as matrix products, where a GPU's library is slow at them.

cuDNN without TF32 computes a 3×3 convolution of 512 channels on 4×4 pixels at a quarter of the rate
of a matrix product (docs/decisions/0018), by Fourier transforms that waste most of their tile.
Copying the patches side by side costs little there, and what remains is the product.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from explorer.engine.program import Operation, Program

MOST_PIXELS = 49
"""Images of up to this many pixels are small."""

LEAST_CHANNELS = 256
"""With fewer, the product is too narrow to pay."""


def with_products(program: Program) -> Program:
    """Return the program with its convolutions of very small images as products."""
    operations = tuple(
        dataclasses.replace(one, call=convolve) if _is_small(one, program.shapes) else one
        for one in program.operations
    )
    return dataclasses.replace(program, operations=operations)


def _is_small(one: Operation, shapes: Mapping[int, tuple[int, ...]]) -> bool:
    if one.name != "aten.convolution":
        return False
    _, kernel, _, _, _, _, transposed, _, groups = one.arguments
    size, output = shapes.get(kernel.value, ()), shapes.get(one.value, ())
    return (
        len(size) == 4
        and not transposed
        and groups == 1
        and math.prod(size[2:]) > 1
        and min(size[:2]) >= LEAST_CHANNELS
        and math.prod(output[2:]) <= MOST_PIXELS
    )


def convolve(
    images: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *rest: Any,
) -> Tensor:
    """Convolve as `torch.ops.aten.convolution` does, float32 by a matrix product.

    Parameters
    ----------
    images : Tensor
        (image, channel, row, column).
    kernel : Tensor
        (output channel, channel, kernel row, kernel column).
    bias : Tensor, optional
        (output channel,).
    stride, padding, dilation : sequence of int
        Along rows and columns.
    rest
        What `aten.convolution` is given besides: not transposed, one group.

    Returns
    -------
    Tensor
        (image, output channel, row, column), channels last.
    """
    if images.dtype != torch.float32:
        arguments = (images, kernel, bias, stride, padding, dilation, *rest)
        plain: Tensor = torch.ops.aten.convolution(*arguments)
        return plain
    height, width = kernel.shape[2:]
    (top, left), (down, right) = padding, stride
    padded = functional.pad(images, (left, left, top, top)).permute(0, 2, 3, 1).contiguous()
    rows = (padded.shape[1] - dilation[0] * (height - 1) - 1) // down + 1
    columns = (padded.shape[2] - dilation[1] * (width - 1) - 1) // right + 1
    image, row, column, channel = padded.stride()
    patches = padded.as_strided(
        (len(images), rows, columns, height, width, images.shape[1]),
        (image, down * row, right * column, dilation[0] * row, dilation[1] * column, channel),
    ).reshape(len(images) * rows * columns, -1)
    weights = kernel.permute(2, 3, 1, 0).reshape(patches.shape[1], -1)
    found = patches @ weights if bias is None else torch.addmm(bias, patches, weights)
    return found.view(len(images), rows, columns, -1).permute(0, 3, 1, 2)
