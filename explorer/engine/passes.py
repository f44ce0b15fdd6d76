"""What every way to run the forward pass under interventions offers, and the plain way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from explorer.engine.kept import KeptSlice

INTACT = -1
"""Number under which a pass yields the logits of the intact network."""


class Pass(Protocol):
    """One way to run the forward pass for a batch under several interventions."""

    def prepare(self, replacement: Mapping[str, Tensor], *, low: bool = False) -> Any:
        """Do what is needed once per intervention; `low`: to run it in lower precision."""
        ...

    def run(
        self,
        inputs: Tensor,
        prepared: Sequence[Any],
        intact: bool,
        kept: KeptSlice | None = None,
        *,
        low: bool = False,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (position in `prepared`, logits) in any order, and with `intact` `INTACT` too.

        `kept`: what is known already of these inputs, and where to keep what will be needed again.
        `low`: to run the intact network in lower precision; all in `prepared` are, too.
        """
        ...


@dataclass(frozen=True)
class PlainPass:
    """The whole network for every intervention: always possible, nothing is shared."""

    logits: Callable[[Tensor, Mapping[str, Tensor]], Tensor]
    """(inputs, replacement) → logits."""

    def prepare(
        self, replacement: Mapping[str, Tensor], *, low: bool = False
    ) -> Mapping[str, Tensor]:
        """Nothing is to be done; a plain pass has no lower precision."""
        return replacement

    def run(
        self,
        inputs: Tensor,
        prepared: Sequence[Mapping[str, Tensor]],
        intact: bool,
        kept: KeptSlice | None = None,
        *,
        low: bool = False,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the logits of one intervention after the other; nothing is kept."""
        for position, replacement in enumerate(prepared):
            yield position, self.logits(inputs, replacement)
        if intact:
            yield INTACT, self.logits(inputs, {})
