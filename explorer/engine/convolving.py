"""How each convolution of a program is run: in tiles, side by side, or as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from explorer.engine.fused import Convolve, pitch_of
from explorer.engine.inplace import IN_PLACE
from explorer.engine.program import Operation
from explorer.engine.winograd import ConvolveTiles, best_side, transformed_bytes

NARROW = 7
"""Images of up to so many columns are convolved side by side."""

ROW = 64
"""Columns that images side by side take, at most."""

MOST_HELD = 256_000_000
"""Bytes that transformed weights of the final network may take: up to four times the kernels."""


class Convolving:
    """Chooses for each convolution.

    Parameters
    ----------
    convolutions : sequence of Operation
        Those of a program, in order.
    shapes, fixed : mapping
        Shapes of its values, and those values that do not depend on the examples, by number.
    hold : bool
        Whether transformed weights of the final network may be kept.
    """

    def __init__(
        self,
        convolutions: Sequence[Operation],
        shapes: Mapping[int, tuple[int, ...]],
        fixed: Mapping[int, Any],
        *,
        hold: bool,
    ) -> None:
        self._shapes, self._fixed = shapes, fixed
        self._held = self._worth_holding(convolutions) if hold else {}

    def call(
        self, convolution: Operation, activation: Any, *, as_trained: bool, low: bool
    ) -> Convolve | ConvolveTiles:
        """Return what runs instead of a convolution.

        Parameters
        ----------
        convolution : Operation
            The convolution.
        activation
            What follows it, or None.
        as_trained : bool
            Whether its weight is the final network's.
        low : bool
            Whether it is run in lower precision.
        """
        stride, padding, dilation, _, _, groups = convolution.arguments[3:]
        held = as_trained and convolution.value in self._held
        side = self._held[convolution.value] if held else self._side(convolution, held=False)
        if side and not low:
            return ConvolveTiles(side, tuple(padding), held, activation and IN_PLACE[activation])
        how = (tuple(stride), tuple(padding), tuple(dilation), groups)
        return Convolve(*how, activation, self._per_row(convolution))

    def _worth_holding(self, convolutions: Sequence[Operation]) -> dict[int, int]:
        """Convolution → side of the tiles in which it is run, as long as there is memory."""
        found = {}
        left = MOST_HELD
        for one in convolutions:
            side = self._side(one, held=True)
            needed = transformed_bytes(self._fixed[one.arguments[1].value], side) if side else 0
            if side and needed <= left:
                found[one.value] = side
                left -= needed
        return found

    def _side(self, convolution: Operation, *, held: bool) -> int:
        """Side of the tiles in which a convolution is run, 0 for none."""
        weight, _, stride, _, dilation, _, _, groups = convolution.arguments[1:]
        shape, kernel = self._shapes[convolution.value], self._fixed[weight.value]
        return best_side(shape, kernel, stride, dilation, held=held) if groups == 1 else 0

    def _per_row(self, convolution: Operation) -> int:
        """Images that are put side by side, 1 where there is nothing to be won."""
        images, weight, _, stride, padding, _, _, _, groups = convolution.arguments
        count, _, _, width = self._shapes[images.value]
        columns = self._shapes[convolution.value][3]
        pitch = pitch_of(width, padding[1], stride[1])
        pointwise = self._fixed[weight.value].shape[3] == 1
        if width > NARROW or groups > 1 or pointwise or columns * stride[1] > pitch:
            return 1
        return max(k for k in range(1, max(ROW // pitch, 1) + 1) if count % k == 0)
