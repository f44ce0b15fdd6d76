"""Pickles of torch as plain data: the instructions are walked, and nothing they name is called.

A pickle is a program. Python's own reader imports and calls what it names; here the few calls
that make tensors are understood, known harmless ones leave a `Stranger` behind, and every other
call is refused. So a file can be looked into without torch, and without trusting it.
"""

from __future__ import annotations

import functools
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from explorer.weights.checkpoints import MOST_AXES

DTYPES = {
    **{"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16"},
    **{"LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16"},
    **{"CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool"},
    "BFloat16Storage": "bfloat16",
}
"""torch's classes of storages → what their elements are."""


LONGEST = 64_000_000
"""Bytes of one pickle. What is in it are names and shapes; tensors lie outside."""


class PickleError(ValueError):
    """A pickle that is damaged, or asks for more than is understood."""


class RefusedError(PickleError):
    """A pickle that would call what is not known to be harmless; nothing was called."""


@dataclass(frozen=True)
class Storage:
    """Where the elements of tensors lie in the file."""

    dtype: str
    """As numpy names it, ``"bfloat16"``, or torch's name of one that is not read."""
    key: str
    """Its name in the file."""
    elements: int
    """How many it is declared to hold."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the file declares it: a view of a storage."""

    storage: Storage
    """Shared with other tensors, perhaps."""
    offset: int
    """First element."""
    shape: tuple[int, ...]
    """Length of each dimension."""
    strides: tuple[int, ...]
    """Elements from one position to the next, for each dimension."""

    @property
    def dtype(self) -> str:
        """What its elements are."""
        return self.storage.dtype


@dataclass(frozen=True)
class Stranger:
    """Stands for an object that was not made."""

    name: str
    """Its class, or the function that would have made it."""


@dataclass(frozen=True)
class _Global:
    name: str


_MARK = _Global("(mark)")

_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list},
}
_DICTS = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict")
_HARMLESS = (
    *("torch.Size", "torch.device", "builtins.set", "builtins.frozenset", "builtins.complex"),
    *("builtins.bytearray", "builtins.slice", "builtins.range", "_codecs.encode"),
    *("copyreg._reconstructor", "numpy.dtype", "decimal.Decimal", "uuid.UUID"),
    *(f"numpy.{c}.multiarray.{f}" for c in ("core", "_core") for f in ("scalar", "_reconstruct")),
    *(f"datetime.{name}" for name in ("datetime", "date", "timedelta", "timezone")),
    *(f"pathlib.{p}{k}Path" for p in ("", "Pure") for k in ("", "Posix", "Windows")),
    *(f"pathlib._local.{p}{k}Path" for p in ("", "Pure") for k in ("", "Posix", "Windows")),
)
"""Functions and classes that training scripts leave in their files and that do nothing."""


@dataclass(frozen=True, eq=False)
class Pickled:
    """Content of one pickle; files of one network often share it, so it must not be changed."""

    content: Any
    """What was saved."""
    states: dict[str | None, Any] = field(default_factory=dict)
    """Key → the state dict that was found under it, once it was asked for."""


_DAMAGE = (
    *(ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError),
    *(RecursionError, struct.error),
)
"""What goes wrong while a damaged pickle is walked."""


@functools.lru_cache(maxsize=256)
def unpickled(data: bytes) -> Pickled:
    """Walk a pickle once for all files that hold the same."""
    return Pickled(read_pickle(BytesIO(data)))


def read_pickle(stream: Any) -> Any:
    """Walk the pickle that begins here, and leave the stream behind its end.

    Parameters
    ----------
    stream : BytesIO or mmap
        Not a file, from which a damaged pickle could ask for more bytes than there are.

    Raises
    ------
    PickleError
        It is damaged, or would call a function that is not known to be harmless.
    """
    walker = _Walker()
    try:
        start = stream.tell()
        for opcode, argument, at in pickletools.genops(stream):
            if at is not None and at - start > LONGEST:
                raise PickleError(f"its pickle has more than {LONGEST} bytes")
            walker.step(opcode.name, argument)
        return walker.stack.pop()
    except PickleError:
        raise
    except _DAMAGE as error:
        raise PickleError(f"its pickle is damaged ({error or type(error).__name__})") from error


class _Walker:
    """The stack and the memory of one walk."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._act(name, argument)

    def _act(self, name: str, argument: Any) -> None:
        action = getattr(self, f"_op_{name.lower()}", None)
        if action is None:
            raise PickleError(f"its pickle has the instruction {name}, which is not understood")
        action(argument)

    def _since_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise PickleError("its pickle is damaged (no mark)")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _op_mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _op_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _op_pop(self, _: Any) -> None:
        self.stack.pop()

    def _op_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _op_list(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    _op_frozenset = _op_tuple

    def _op_dict(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._update(items)

    def _op_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def _op_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def _op_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def _op_append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _op_appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    _op_additems = _op_appends

    def _op_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _op_setitems(self, _: Any) -> None:
        self._update(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], dict):
            keys = map(_key, items[::2])
            self.stack[-1].update(zip(keys, items[1::2], strict=True))

    def _op_global(self, argument: str) -> None:
        self.stack.append(_Global(argument.replace(" ", ".").replace("__builtin__.", "builtins.")))

    def _op_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleError("its pickle names a function in an unknown way")
        self.stack.append(_Global(f"{module}.{name}"))

    def _op_binpersid(self, _: Any) -> None:
        kind, storage, key, _, elements, *_ = self.stack.pop()
        known = kind == "storage" and isinstance(key, (str, int)) and isinstance(storage, _Global)
        if not known or not _is_count(elements):
            raise PickleError("its pickle declares a storage in an unknown way")
        name = storage.name.rpartition(".")[2]
        self.stack.append(Storage(DTYPES.get(name, name), str(key), elements))

    def _op_newobj(self, _: Any) -> None:
        self.stack[-2:] = [Stranger(self.stack[-2].name)]

    def _op_newobj_ex(self, _: Any) -> None:
        self.stack[-3:] = [Stranger(self.stack[-3].name)]

    def _op_build(self, _: Any) -> None:
        self.stack.pop()  # attributes of an object that was not made

    def _op_reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(_called(function.name, arguments))


def _key(key: Any) -> Any:
    """A key of a mapping; of a tuple, whose hash may take for ever, only that it is one."""
    plain = isinstance(key, (str, bytes, float, Stranger)) or (
        isinstance(key, int) and abs(key) < 2**63
    )
    return key if plain else Stranger(type(key).__name__)


def _is_count(number: Any) -> bool:
    """Whether a number can be one of elements: no truth value, and not longer than 63 bits."""
    return type(number) is int and 0 <= number < 2**63


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
    """What a call of the pickle stands for, or an error that names the function."""
    if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        return _tensor(*arguments[:4])
    if name == "torch._utils._rebuild_tensor_v3":
        storage, dtype = arguments[0], arguments[6].name
        return _tensor(Storage(dtype, storage.key, storage.elements), *arguments[1:4])
    if name.startswith("torch._utils._rebuild_parameter"):
        return arguments[0]
    if name == "torch._tensor._rebuild_from_type_v2":
        return _called(arguments[0].name, arguments[2])
    if name in _DICTS:
        return {}
    if name in _HARMLESS:
        return Stranger(name)
    raise RefusedError(f"it would call {name}, which is not known to be harmless")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    numbers = (offset, *shape, *strides)
    whole = all(map(_is_count, numbers)) and len(shape) == len(strides) <= MOST_AXES
    if not isinstance(storage, Storage) or not whole:
        raise PickleError("its pickle declares a tensor in an unknown way")
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))
