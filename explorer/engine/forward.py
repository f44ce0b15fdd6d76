"""Somebody's forward pass, run with the tensors that it is given, and so that no trace of it stays.

What a pass does besides is found out once, on a few examples: what it writes, what it draws, which
tensors it reaches by other ways than their names, and whether examples depend on each other.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from explorer.engine.calling import call_with, call_written_over
from explorer.engine.memory import is_out_of_memory
from explorer.errors import DataError, ExplorerError, InterventionError, UsageError
from explorer.weights.copying import tensors_in
from explorer.weights.device import plain_float32
from explorer.weights.families.chance import own_chance

ROUNDING = 1e-4
"""Share of the largest logit by which two passes may differ: another order of the same sums."""

DRAWS = (
    "The network draws random numbers when it is evaluated, as dropout does that is always on. "
    "Each pass begins with the same ones: results can be repeated, and would differ with others."
)
MIXES = (
    "The network's answer to an example depends on which others are in the batch, as with batch "
    "normalisation that keeps no running statistics: every number depends on the batch size."
)


@dataclass(frozen=True)
class Traits:
    """What a forward pass does besides computing logits from its tensors and inputs."""

    writes: bool = False
    """It writes over its own tensors, such as a counter or an embedding that is renormalised."""
    holds: bool = False
    """It reaches its tensors by other ways than their names, such as a list of parameters."""
    draws: bool = False
    """It draws random numbers."""
    mixes: bool = False
    """The answer to an example depends on the others in the batch."""
    grad: bool = False
    """It computes gradients."""

    @property
    def caution(self) -> str:
        """What a reader has to know of the numbers; empty for most networks."""
        return " ".join([DRAWS] * self.draws + [MIXES] * self.mixes)

    @property
    def indivisible(self) -> str:
        """Why the pass cannot be run in parts; empty where it can."""
        reasons = {
            "it draws random numbers": self.draws,
            "it holds its tensors under other names too": self.holds,
            "it computes gradients": self.grad,
        }
        return ", ".join(reason for reason, applies in reasons.items() if applies)


class Forward:
    """Runs a network in evaluation mode and plain float32, one pass at a time.

    Parameters
    ----------
    module : torch.nn.Module
        A private copy of the network.
    own : mapping
        First name → tensor of the module.
    strangers : iterable of Tensor
        Tensors of the network that it was copied from, which no pass may reach.
    """

    def __init__(
        self, module: nn.Module, own: Mapping[str, Tensor], strangers: Iterable[Tensor] = ()
    ) -> None:
        self.traits = Traits()
        self.few_logits: Tensor | None = None
        """Logits of the intact network for the examples it was tried on."""
        self.lock = threading.RLock()
        """Held while the module runs, or is recorded: its tensors are others meanwhile."""
        self._module, self._own, self._strangers = module, own, list(strangers)

    def __call__(self, inputs: Tensor, replacement: Mapping[str, Tensor]) -> Tensor:
        """Logits (example, …, class) with some tensors replaced.

        Raises
        ------
        InterventionError
            They are no logits.
        """
        return self._run(inputs, replacement, self.traits)

    def _run(self, inputs: Tensor, replacement: Mapping[str, Tensor], traits: Traits) -> Tensor:
        with self.lock, plain_float32(), contextlib.ExitStack() as stack:
            with torch.inference_mode(False), torch.no_grad():
                if traits.writes:
                    replacement = copied({**self._own, **replacement})
                given = inputs.clone()
            if traits.draws:
                stack.enter_context(own_chance(0, inputs.device))
            stack.enter_context(torch.inference_mode(not traits.grad))
            stack.enter_context(torch.no_grad())
            if traits.holds:
                output = call_written_over(self._module, replacement, given, self._own)
            else:
                output = call_with(self._module, replacement, given)
            return as_logits(output)

    def learn(self, inputs: Tensor) -> None:
        """Find out what the pass does, on a few examples.

        Raises
        ------
        UsageError
            It computes with tensors of the network that was copied.
        DataError
            It does not run on these inputs.
        """
        try:
            with own_chance(0, inputs.device):
                self.traits, logits = self._tried(inputs)
                if not self._alone_the_same(inputs, logits):
                    drawn = apart(self._run(inputs, {}, self.traits), logits)
                    self.traits = replace(self.traits, draws=drawn, mixes=not drawn)
            self.few_logits = self._run(inputs, {}, self.traits) if self.traits.draws else logits
        except InterventionError:
            return  # it runs, and whoever measures is told what is wrong with its answer
        self._strangers = []

    def _alone_the_same(self, inputs: Tensor, logits: Tensor) -> bool:
        """Tell whether half of the examples get the same logits without the others."""
        half = (len(inputs) + 1) // 2
        try:
            alone = self._run(inputs[:half], {}, self.traits)
        except (RuntimeError, ValueError, TypeError, IndexError, InterventionError):
            # it takes batches of one size, which may still draw
            return not apart(self._run(inputs, {}, self.traits), logits)
        return alone.shape != logits[:half].shape or not apart(alone, logits[:half])

    def _tried(self, inputs: Tensor) -> tuple[Traits, Tensor]:
        """Run the pass on copies of all tensors, and see which others it reaches."""
        failure: Exception | None = None
        # what a pass does to look inside itself may not go together with being watched
        for grad, watched in itertools.product((False, True), (True, False)):
            with torch.inference_mode(False), torch.no_grad():
                copies = copied(self._own)
            before = {name: tensor._version for name, tensor in copies.items()}
            reached = _Reached(self._own.values(), self._strangers)
            try:
                with not_compiled(), reached if watched else contextlib.nullcontext():
                    logits = self._run(inputs, copies, Traits(grad=grad))
            except ExplorerError:
                raise
            except Exception as error:  # whatever somebody's forward pass raises
                if is_out_of_memory(error):
                    raise
                failure = failure or error
                continue
            if reached.strangers:
                raise _reaches_out()
            written = any(copies[name]._version != number for name, number in before.items())
            return Traits(writes=written, holds=reached.own, grad=grad), logits
        assert failure is not None  # each of the ways has failed
        raise does_not_run(inputs, failure) from failure


class _Reached(TorchDispatchMode):
    """Sees whether operators read the memory of some tensors."""

    def __init__(self, own: Iterable[Tensor], strangers: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.own = self.strangers = False
        self._own, self._strangers = _memory(own), _memory(strangers)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        read = _memory(tensors_in([*args, *(kwargs or {}).values()]))
        self.own = self.own or not read.isdisjoint(self._own)
        self.strangers = self.strangers or not read.isdisjoint(self._strangers)
        return func(*args, **(kwargs or {}))


def _memory(tensors: Iterable[Tensor]) -> set[int]:
    """Addresses of the memory in which tensors lie; of some kinds of tensors nothing is known."""
    found = set()
    for tensor in tensors:
        with contextlib.suppress(RuntimeError, NotImplementedError):
            found.add(tensor.untyped_storage().data_ptr())
    return found - {0}


def _reaches_out() -> UsageError:
    return UsageError(
        "The network's forward pass computes with tensors of the network that was passed, not with "
        "those of its copy: a function or hook in it has kept them.",
        "A forward pass that reaches its layers through self is needed: they are to be replaced.",
        "Make the function a method; where forward was compiled, compile the network instead.",
    )


def does_not_run(inputs: Tensor, error: Exception) -> DataError:
    """Say that the network does not take these examples."""
    shape, dtype = tuple(inputs.shape[1:]), str(inputs.dtype).removeprefix("torch.")
    return DataError(
        f"The network does not run on test examples of shape {shape}, {dtype}: {error}",
        "Inputs as it was trained on are needed.",
        "Compare their shape and kind with those of a training batch."
        if inputs.is_floating_point() or inputs.is_complex()
        else "Whole numbers are left as they are, for networks that read tokens: pass images "
        "as floats, normalised as in training.",
    )


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, which a forward pass may write over."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def as_logits(output: Any) -> Tensor:
    """Refuse what are no logits."""
    if not isinstance(output, Tensor) or output.ndim < 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InterventionError(
            f"The network's output is {shape}.",
            "Logits of shape (example, class) or (example, position, class) are needed.",
            "Wrap the model in a module that returns the logits.",
        )
    return output


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference of two sets of logits, as a share of the largest logit."""
    if torch.equal(found, expected):
        return 0.0
    largest = (found - expected).abs().max() / expected.abs().max()
    return float(largest.nan_to_num(nan=math.inf))


def apart(found: Tensor, expected: Tensor) -> bool:
    """Whether logits differ by more than rounding; none may be finite in one of them only."""
    finite = expected.isfinite()
    if not torch.equal(found.isfinite(), finite):
        return True
    return bool(finite.any()) and difference(found[finite], expected[finite]) > ROUNDING


@contextlib.contextmanager
def not_compiled() -> Iterator[None]:
    """Run what torch.compile has compiled as it is written; nothing where nothing is compiled."""
    if "torch._dynamo" not in sys.modules:  # its import takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
