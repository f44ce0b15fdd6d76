"""Convolutions with fewer products: Winograd's minimal filtering, tile by tile.

For every pair of channels a 3×3 convolution takes 9 m² products for a tile of m × m results. On
values and weights that have been transformed, (m + 2) × (m + 2) of each, it takes one product per
value: four times fewer for m = 4, and 2.25 times for m = 2. The products of all tiles with one
transformed weight are a matrix product.

References
----------
Lavin, Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016, section 4.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from explorer.engine.fused import Fused, Weights

TAPS = 3
"""Rows and columns of a kernel."""

POINTS = {2: (0, 1, -1), 4: (0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))}
"""Side of a tile → where polynomials are evaluated, beside infinity. For 4, half the rounding error
of the usual 0, ±1, ±2 (docs/decisions/0031)."""

CHUNK = 1_200_000
"""Transformed values that are worked on at once; of more, some leave the cache before they are
read."""

LEAST_CHANNELS = 128
"""Channels, in and out, from which on the transforms take less time than they save."""

LEAST_TILES = {True: 32, False: 256}
"""Whether the transformed weight is held → tiles from which on reading or making it, which is
larger, takes less time than it saves."""

MOST_ANEW = 2**25
"""Bytes of a transformed weight that is not held; larger memory is given back to the system after
every use, and fetched page by page."""

LEAST_GAIN = 1.5
"""How many times fewer the products have to be, so that the transforms pay."""


@dataclass(frozen=True)
class ConvolveTiles(Fused):
    """A 3×3 convolution of stride 1 in float32, with what follows it: a sum, an activation."""

    side: int
    """Rows and columns of a tile of results, one of `POINTS`."""
    padding: tuple[int, ...]
    held: bool
    """Whether the transformed weight is kept; else it is made anew for every slice."""
    activation: Any = None
    """An elementwise operation that writes over its argument, or None."""

    def __call__(self, images: Tensor, weights: Weights, other: Tensor | None = None) -> Tensor:
        """Convolve images (image, channel, row, column); add `other`, of the result's shape."""
        if self.held:
            kernels, bias = weights.packed(images.dtype, self._kept, form=self.side)
        else:
            kernels, bias = self._transformed(weights.weight), weights.bias
        images = images.permute(0, 2, 3, 1)
        count, height, width, channels = images.shape
        top, left = self.padding
        rows, columns = height + 2 * top - TAPS + 1, width + 2 * left - TAPS + 1
        down, across = -(-rows // self.side), -(-columns // self.side)
        found = images.new_empty((count, rows, columns, kernels.shape[2]))
        size = min(count, max(1, CHUNK // (down * across * len(kernels) * max(kernels.shape[1:]))))
        reach = TAPS - 1
        shape = (size, down * self.side + reach, across * self.side + reach, channels)
        padded = images.new_zeros(shape)
        for start in range(0, count, size):
            part, some = found[start : start + size], images[start : start + size]
            padded[: len(some), top : top + height, left : left + width] = some
            self._convolve(padded[: len(some)], kernels, bias, part)
            if other is not None:
                part += other[start : start + size].permute(0, 2, 3, 1)
            if self.activation is not None:
                self.activation(part)
        return found.permute(0, 3, 1, 2)

    def _convolve(
        self, padded: Tensor, kernels: Tensor, bias: Tensor | None, found: Tensor
    ) -> None:
        """Fill (image, row, column, output) from (image, row, column, input) in whole tiles."""
        m, reach, maps = self.side, TAPS - 1, transforms(self.side)
        n = m + reach
        count, height, width, channels = padded.shape
        down, across, outputs = (height - reach) // m, (width - reach) // m, kernels.shape[2]
        by_image, by_row, by_column, by_channel = padded.stride()
        tiles = padded.as_strided(
            (n, n, count, down, across, channels),
            (by_row, by_column, by_image, m * by_row, m * by_column, by_channel),
        )
        values = (maps.values @ tiles.reshape(n * n, -1)).view(n * n, -1, channels)
        products = (values @ kernels).view(n * n, -1)
        results = (maps.results @ products).view(m, m, count, down, across, outputs)
        blocks = results.permute(2, 3, 0, 4, 1, 5)
        if found.shape[1:3] == (down * m, across * m):
            found = found.view(blocks.shape)
        else:
            whole = blocks.reshape(count, down * m, across * m, outputs)
            blocks = whole[:, : found.shape[1], : found.shape[2]]
        torch.add(blocks, 0.0 if bias is None else bias, out=found)

    def _transformed(self, weight: Tensor) -> Tensor:
        """(output, input, row, column) → (n², input, output)."""
        flat = weight.permute(2, 3, 0, 1).flatten(0, 1).flatten(1)
        found = transforms(self.side).weights @ flat
        return found.view(-1, *weight.shape[:2]).transpose(1, 2)

    def _kept(self, weight: Tensor) -> Tensor:
        return self._transformed(weight).contiguous()  # which is faster to multiply by


def best_side(
    shape: Sequence[int],
    weight: Tensor,
    stride: Sequence[int],
    dilation: Sequence[int],
    *,
    held: bool,
) -> int:
    """Side of the tiles that take the fewest products, 0 where tiles do not pay.

    Parameters
    ----------
    shape : sequence of int
        Of the result.
    weight : Tensor
        (output, input, row, column); without groups.
    stride, dilation : sequence of int
        Of the convolution.
    held : bool
        Whether the transformed weight will be kept.
    """
    if weight.shape[2:] != (TAPS, TAPS) or {*stride, *dilation} != {1}:
        return 0
    if min(weight.shape[:2]) < LEAST_CHANNELS:
        return 0
    count, _, rows, columns = shape
    products = {}
    for side in POINTS:
        tiles = -(-rows // side) * -(-columns // side)
        fits = held or transformed_bytes(weight, side) <= MOST_ANEW
        if fits and count * tiles >= LEAST_TILES[held]:
            products[side] = tiles * (side + TAPS - 1) ** 2
    side = min(products, key=products.__getitem__, default=0)
    return side if side and LEAST_GAIN * products[side] <= TAPS**2 * rows * columns else 0


def transformed_bytes(weight: Tensor, side: int) -> int:
    """Bytes of a weight that has been transformed for such tiles."""
    return weight.nbytes * (side + TAPS - 1) ** 2 // TAPS**2


@dataclass(frozen=True)
class Transforms:
    """Linear maps of flattened tiles, float32; n = m + 2."""

    values: Tensor
    """(n², n²): of what is convolved."""
    weights: Tensor
    """(n², 9): of a kernel."""
    results: Tensor
    """(m², n²): of the products."""


@functools.cache
def transforms(side: int) -> Transforms:
    """Return the maps for tiles of so many rows and columns, by the construction of Toom and Cook.

    Along one side: polynomials of degree m + 1 are multiplied by way of their values at the points
    and the leading coefficient ("at infinity"); filtering is the transpose of multiplying.
    """
    points = POINTS[side]
    n = len(points) + 1
    values, weights, results = np.zeros((n, n)), np.zeros((n, TAPS)), np.zeros((side, n))
    for k, point in enumerate(points):
        others = [other for other in points if other != point]
        values[k, :-1] = np.poly(others)[::-1]
        weights[k] = np.power(float(point), range(TAPS)) / np.prod(np.subtract(point, others))
        results[:, k] = np.power(float(point), range(side))
    values[-1] = np.poly(points)[::-1]
    weights[-1, -1] = results[-1, -1] = 1
    both = (torch.from_numpy(np.kron(one, one)).float() for one in (values, weights, results))
    return Transforms(*both)
