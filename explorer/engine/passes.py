"""What every way to run the forward pass under interventions offers, and the plain way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from explorer.engine.kept import KeptSlice
from explorer.engine.memory import is_out_of_memory
from explorer.errors import DataError, ExplorerError

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


def check_that_it_runs(
    logits: Callable[[Tensor, Mapping[str, Tensor]], Tensor], few: Tensor
) -> None:
    """Tell a network that cannot be recorded from one that does not run on these inputs.

    Parameters
    ----------
    logits : callable
        (inputs, replacement) → logits, by the plain pass.
    few : Tensor
        (example, …) some of the test examples.

    Raises
    ------
    DataError
        The plain pass does not take them.
    """
    try:
        logits(few, {})
    except ExplorerError:
        return  # it runs, and whoever measures is told what is wrong with its answer
    except Exception as error:  # whatever somebody's forward pass raises
        if is_out_of_memory(error):
            raise
        shape, dtype = tuple(few.shape[1:]), str(few.dtype).removeprefix("torch.")
        raise DataError(
            f"The network does not run on test examples of shape {shape}, {dtype}: {error}",
            "Inputs as it was trained on are needed.",
            "Compare their shape and kind with those of a training batch."
            if few.is_floating_point() or few.is_complex()
            else "Whole numbers are left as they are, for networks that read tokens: pass images "
            "as floats, normalised as in training.",
        ) from error
