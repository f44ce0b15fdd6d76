"""Reusing submodules' results where a network cannot be recorded.

The forward pass runs as it is written, with all its decisions. Only a submodule that holds no
changed tensor, and is called with the very values the intact pass called it with, is not run
again: it gives what it gave then.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from explorer.engine.calling import call_with
from explorer.engine.kept import KeptSlice
from explorer.engine.passes import INTACT


@dataclass(frozen=True)
class _Call:
    """One call of a submodule in the intact pass."""

    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    result: Any
    """A copy: the network may write to what it was given."""
    versions: tuple[int, ...]
    """How often each tensor among the arguments had been written to when the call began: a
    submodule that writes to its inputs never counts as known."""

    def holds_for(self, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> bool:
        """Tell whether a call with these arguments would give the same."""
        untouched = _versions([self.arguments, self.options]) == self.versions
        return untouched and _same([arguments, options], [self.arguments, self.options])


@dataclass
class SubmodulePass:
    """Runs the network as it is written and skips submodules whose result is known.

    Parameters
    ----------
    module : torch.nn.Module
        A network that nobody else runs meanwhile; its submodules' calls are watched.
    owned : mapping
        Submodule → the names under which its tensors are replaced, tied ones under one name.
    check : callable
        Logits → logits; refuses what are none.
    """

    module: nn.Module
    owned: Mapping[str, frozenset[str]]
    check: Callable[[Any], Tensor]
    _calls: dict[str, list[_Call]] = field(init=False, default_factory=dict)
    _changed: frozenset[str] | None = field(init=False, default=None)
    _lock: Any = field(init=False, default_factory=threading.RLock)

    def __post_init__(self) -> None:
        for name, part in self.module.named_modules():
            if name:
                part.forward = self._watched(name, part.forward)

    def prepare(
        self, replacement: Mapping[str, Tensor], *, low: bool = False
    ) -> Mapping[str, Tensor]:
        """Nothing is to be done."""
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
        """Run the intact network once, then each intervention with what it left behind."""
        with self._lock, torch.inference_mode(False), torch.no_grad():
            # inference tensors do not count how often they have been written to
            given = inputs.clone()
            untouched = given._version
            self._calls, self._changed = {}, None
            logits = self._forward(given, {})
            found = [(INTACT, logits)] if intact else []
            try:
                for position, replacement in enumerate(prepared):
                    self._changed = frozenset(replacement)
                    if given._version != untouched:  # the network writes to its inputs
                        given, untouched = inputs.clone(), 0
                    found.append((position, self._forward(given, replacement)))
            finally:
                self._calls, self._changed = {}, None
        yield from found

    def _forward(self, inputs: Tensor, replacement: Mapping[str, Tensor]) -> Tensor:
        return self.check(call_with(self.module, replacement, inputs))

    def _watched(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            if self._changed is None:
                before = _versions([arguments, options])
                result = forward(*arguments, **options)
                call = _Call(arguments, options, copy.deepcopy(result), before)
                self._calls.setdefault(name, []).append(call)
                return result
            if self._changed.isdisjoint(self.owned[name]):
                for call in self._calls.get(name, ()):
                    if call.holds_for(arguments, options):
                        return copy.deepcopy(call.result)
            return forward(*arguments, **options)

        return watched


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))


def _versions(values: Any) -> tuple[int, ...]:
    """How often the tensors among some values have been written to so far."""
    return tuple(tensor._version for tensor in _tensors(values))


def _same(now: Any, then: Any) -> bool:
    """Tell whether two arguments are the same values, tensors bit for bit."""
    if isinstance(now, Tensor) or isinstance(then, Tensor):
        return now is then or (
            isinstance(now, Tensor)
            and isinstance(then, Tensor)
            and now.dtype == then.dtype
            and torch.equal(now, then)
        )
    if isinstance(now, (list, tuple)) and type(now) is type(then):
        return len(now) == len(then) and all(map(_same, now, then))
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        return now.keys() == then.keys() and all(_same(now[k], then[k]) for k in now)
    return type(now) is type(then) and bool(now == then)
