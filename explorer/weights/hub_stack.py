"""Stacks of the model hub: ``hub:OWNER/NAME``, one checkpoint per revision or per repository.

================================  =================================================================
``hub:EleutherAI/pythia-14m``     revisions ``stepN``, ``stepN-tokensM`` or ``stageK-stepN-tokensM``
``hub:OWNER/NAME-step_*``         one repository per checkpoint (MultiBERTs); ``*`` is the step
``hub:OWNER/NAME@REVISION``       one checkpoint alone, for example ``@main``
================================  =================================================================
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from safetensors import SafetensorError, safe_open

from explorer.errors import CheckpointError, StackError
from explorer.inventory.hub import Hub, Revision, sizes
from explorer.weights.checkpoints import NUMPY_DTYPES, Array, ArraySpec, snapshot
from explorer.weights.layers import LayerScheme, group_layers, is_buffer
from explorer.weights.sources import check_model

logger = logging.getLogger(__name__)

PREFIX = "hub:"

STEP = re.compile(r"(?:stage(?P<stage>\d+)-)?step_?(?P<step>\d+)(?:-tokens[\d.]+[KMBT]?)?", re.I)
"""Names of revisions that are checkpoints of one run: Pythia's, and OLMo's with its tokens."""

COUNT = re.compile(r"(\d+)([kM]?)")
"""What stands for ``*``: 20k is 20,000."""

ONLY = 1
"""Number of the only checkpoint, where there is just the trained one."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, the better one first; each may be in pieces that FILE.index.json lists."""

HALVES = ("F16", "BF16")
"""Types that are widened to float32 when they are read, which loses nothing."""


class Parts(NamedTuple):
    """What a stack is made of, in the order of `explorer.weights.stack._tree`'s arguments."""

    checkpoints: Sequence[Any]
    """One per epoch or step."""
    numbers: Sequence[int]
    """Their epochs or steps."""
    specs: Mapping[str, ArraySpec]
    """Name of a tensor → dtype and shape."""
    layers: Mapping[str, tuple[str, ...]]
    """Layer → names of its tensors."""
    buffers: Mapping[str, bool]
    """Name of a tensor → whether it is a buffer."""
    attributes: Mapping[str, Any]
    """Of the whole stack."""


@dataclass(eq=False)
class HubCheckpoint:
    """A revision whose files are downloaded when the first of their tensors is read."""

    hub: Hub
    """Where it is downloaded from, and to."""
    revision: Revision
    """Which one."""
    names: Callable[[Iterable[str]], Mapping[str, str]]
    """Names in the files → our name and theirs, of the tensors that are used."""
    _homes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def homes(self) -> dict[str, tuple[str, str]]:
        """Our name of a tensor → the file it is in, and its name there."""
        if not self._homes:
            where = _files_of_tensors(self.hub, self.revision)
            self._homes = {our: (where[n], n) for our, n in self.names(where).items()}
        return self._homes

    def specs(self) -> dict[str, ArraySpec]:
        """Names, dtypes and shapes; of safetensors without downloading the weights."""
        homes = self.homes()
        headers = {file: self._header(file) for file in {file for file, _ in homes.values()}}
        return {our: headers[file][name] for our, (file, name) in homes.items()}

    def read(self, name: str) -> Array:
        """Read one tensor; the file it is in is downloaded first, if it is not here."""
        homes = self.homes()
        if name not in homes:
            raise CheckpointError(
                f"{self.revision} has no tensor {name}.",
                "All checkpoints of a stack have the same tensors.",
                "Leave this one out with steps=; the others stay usable.",
            )
        file, own = homes[name]
        return read_tensor(self.hub.fetch(self.revision, file), own)

    def _header(self, file: str) -> dict[str, ArraySpec]:
        if file.endswith(".safetensors"):
            header = self.hub.header(self.revision, file)
            return {name: _spec(name, dtype, shape) for name, (dtype, shape) in header.items()}
        arrays = snapshot(_load_torch(self.hub.fetch(self.revision, file)), file)
        return {name: ArraySpec(_widened(a).dtype, a.shape) for name, a in arrays.items()}


def is_hub_address(source: object) -> TypeGuard[str]:
    """Tell whether a stack's source is on the hub."""
    return isinstance(source, str) and source.startswith(PREFIX)


def hub_parts(
    address: str,
    model: Any = None,
    layers: LayerScheme | None = None,
    every: int = 1,
    steps: Sequence[int] | slice | None = None,
    hub: Hub | None = None,
) -> Parts:
    """Find what a stack on the hub consists of; no weights are downloaded yet.

    Parameters
    ----------
    address : str
        As above.
    model : torch.nn.Module, optional
        The network, whose names and shapes the tensors must have; default one that the
        repository's config.json describes, where the package transformers has it.
    layers : str, mapping, sequence or function, optional
        The layer scheme, as in `explorer.open_stack`.
    every : int
        Take one of so many checkpoints; the first and the last are always among them.
    steps : sequence of int or slice, optional
        Take these steps, or those from ``slice.start`` to ``slice.stop`` inclusive.
    hub : Hub, optional
        Default ``Hub()``.

    Returns
    -------
    Parts

    Raises
    ------
    StackError
        There is no such repository, it has no steps, or they do not fit the model.
    CheckpointError
        The hub cannot be reached, and what is needed is not here.
    """
    hub = hub or Hub()
    name = address.removeprefix(PREFIX)
    found, left_out = _listed(hub, name)
    chosen = choose(list(found), every, steps)
    revisions = [found[number] for number in chosen]
    last = revisions[-1]
    checkpoints = [HubCheckpoint(hub, one, _as_they_are) for one in revisions]
    where = _files_of_tensors(hub, last)
    cost = sum(hub.files(last)[file].bytes for file in set(where.values()))
    family, sizes_, renamed = _family(hub, last, model, where)
    for checkpoint in checkpoints:
        checkpoint.names = renamed
    specs = checkpoints[-1].specs()
    if model is not None:
        specs = {n: specs[n] for n in check_model(specs, model)}
    groups = group_layers(list(specs), layers, _paper(family, sizes_, specs))
    _say(name, revisions, cost, hub)
    unused = sorted(set(where) - {own for _, own in checkpoints[-1].homes().values()})
    commits = "".join(f"{n} {one.commit}\n" for n, one in zip(chosen, revisions, strict=True))
    attributes = {
        "name": address,
        "title": f"{name}: {len(chosen)} of {len(found)} checkpoints, {sizes(cost)} each",
        "family": family,
        "sizes": sizes_,
        "dataset": "",
        "content_hash": hashlib.sha256(commits.encode()).hexdigest(),
        "checkpoint_unit": "epoch" if "@" in name else "step",
        "download_bytes": cost,
        "revisions_left_out": left_out,
        "tensors_left_out": unused,
        "tokenizer": str(last),
    }
    return Parts(checkpoints, chosen, specs, groups, _buffers(specs, model), attributes)


def choose(numbers: Sequence[int], every: int, steps: Sequence[int] | slice | None) -> list[int]:
    """Choose among the steps that exist.

    Raises
    ------
    StackError
        A step does not exist, or none is left.
    """
    if every < 1:
        raise StackError(
            f"every={every} was asked for.", "1 or more is needed.", "Use every=10, for example."
        )
    some = list(numbers)
    if isinstance(steps, slice):
        low = -1 if steps.start is None else steps.start
        high = max(numbers) if steps.stop is None else steps.stop
        some = [n for n in numbers if low <= n <= high][:: steps.step or 1]
    elif steps is not None:
        missing = [n for n in steps if n not in numbers]
        if missing:
            raise StackError(
                f"There are no checkpoints of the steps {_some(missing)}.",
                f"There are {len(numbers)}: {_some(numbers)}.",
                "Choose among these, or leave steps= out.",
            )
        some = [n for n in numbers if n in set(steps)]
    if not some:
        raise StackError(
            f"No checkpoint lies in {steps}.",
            f"There are {len(numbers)}: {_some(numbers)}.",
            "Choose among these, or leave steps= out.",
        )
    thinned = some[::every]
    return thinned if thinned[-1] == some[-1] else [*thinned, some[-1]]


def read_tensor(path: Path, name: str) -> Array:
    """Read one tensor of a file from the hub, halves widened to float32.

    Raises
    ------
    CheckpointError
        The file cannot be read, or holds anything but tensors.
    """
    if path.suffix != ".safetensors":
        return _widened(snapshot({name: _load_torch(path)[name]}, str(path))[name])
    try:
        with safe_open(path, framework="numpy") as file:
            if file.get_slice(name).get_dtype() != "BF16":
                return _widened(file.get_tensor(name))
        return _bfloat16(path, name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{name} cannot be read from {path}: {error}",
            "A whole safetensors file with this tensor is needed.",
            "Remove the file, so that it is downloaded anew; other checkpoints stay usable.",
        ) from error


def _widened(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _bfloat16(path: Path, name: str) -> Array:
    """Read bfloat16 without torch: the upper half of a float32."""
    with path.open("rb") as stream:
        start = int.from_bytes(stream.read(8), "little")
        about = json.loads(stream.read(start))[name]
        begin, end = about["data_offsets"]
        stream.seek(8 + start + begin)
        upper = np.frombuffer(stream.read(end - begin), "<u2")
    return (upper.astype("<u4") << 16).view("<f4").reshape(about["shape"])


def _load_torch(path: Path) -> Mapping[str, Any]:
    import pickle  # only for the class of the error that torch raises

    import torch  # slow to import and not needed for safetensors

    try:
        state: Mapping[str, Any] = torch.load(
            path, map_location="cpu", weights_only=True, mmap=True
        )
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {first}",
            "A file of torch.save with nothing but tensors is needed; no code is run from it.",
            "Ask its owner for safetensors; other checkpoints stay usable.",
        ) from error
    return state


def _spec(name: str, dtype: str, shape: tuple[int, ...]) -> ArraySpec:
    if dtype in HALVES:
        return ArraySpec(np.dtype(np.float32), shape)
    if dtype not in NUMPY_DTYPES:
        raise CheckpointError(
            f"The tensor {name!r} has dtype {dtype}.",
            f"Read so far: {', '.join((*NUMPY_DTYPES, 'BF16'))}.",
            "Choose a repository whose weights are not quantised.",
        )
    return ArraySpec(np.dtype(NUMPY_DTYPES[dtype]), shape)


# --- which revisions ------------------------------------------------------------------------------


def _listed(hub: Hub, name: str) -> tuple[dict[int, Revision], list[str]]:
    """Number → revision, rising; and the names that are no checkpoints of this run."""
    if "*" in name:
        return _repositories(hub, name)
    repository, _, wanted = name.partition("@")
    revisions = {one.name: one for one in hub.revisions(repository)}
    if wanted:
        if wanted not in revisions:
            raise StackError(
                f"{repository} has no revision {wanted!r}.",
                f"The hub lists {_some(sorted(revisions))}.",
                "Choose one of these, or leave @REVISION out.",
            )
        return {ONLY: revisions[wanted]}, []
    steps: dict[int, Revision] = {}
    left_out = []
    for one in revisions.values():
        match = STEP.fullmatch(one.name)
        if match is None or match["stage"] not in (None, "1"):
            left_out.append(one.name)
            continue
        _put(steps, int(match["step"]), one)
    if not steps:
        raise StackError(
            f"{repository} has no revisions named stepN; the hub lists {_some(sorted(revisions))}.",
            "Revisions stepN or stepN-tokensM make a stack; others can be opened one by one.",
            f"Open one checkpoint with {PREFIX}{repository}@{next(iter(revisions), 'main')}.",
        )
    return dict(sorted(steps.items())), left_out


def _repositories(hub: Hub, pattern: str) -> tuple[dict[int, Revision], list[str]]:
    """One repository per checkpoint: the part of the name that ``*`` stands for is its number."""
    owner, _, name = pattern.partition("/")
    beginning = name.partition("*")[0]
    if name.count("*") != 1 or not beginning:
        raise StackError(
            f"The pattern is {PREFIX}{pattern}.",
            "An owner, and a name with one * that stands for the number, are needed.",
            f"For MultiBERTs: {PREFIX}google/multiberts-seed_0-step_*",
        )
    steps: dict[int, Revision] = {}
    left_out = []
    for one in hub.repositories(owner, beginning):
        middle = one.repository[len(owner) + 1 + len(beginning) :]
        middle = middle.removesuffix(name.partition("*")[2])
        match = COUNT.fullmatch(middle)
        if match is None or not fnmatch.fnmatchcase(one.repository, pattern):
            left_out.append(one.repository)
            continue
        factor = {"": 1, "k": 1_000, "M": 1_000_000}[match[2]]
        _put(steps, int(match[1]) * factor, one)
    if not steps:
        raise StackError(
            f"The hub lists no repositories {pattern}.",
            f"Of this owner it lists {_some(left_out)}." if left_out else "It lists none near it.",
            "Correct the owner or the pattern.",
        )
    return dict(sorted(steps.items())), left_out


def _put(steps: dict[int, Revision], number: int, one: Revision) -> None:
    if number in steps and steps[number].commit != one.commit:
        raise StackError(
            f"{steps[number]} and {one} are both step {number}.",
            "One checkpoint per step is needed.",
            f"Open one of them alone with {PREFIX}{one}.",
        )
    steps[number] = one


# --- which tensors --------------------------------------------------------------------------------


def _files_of_tensors(hub: Hub, revision: Revision) -> dict[str, str]:
    """Name of a tensor in the files → its file; pieces are known from their index."""
    there = hub.files(revision)
    for single in WEIGHTS:
        if single in there:
            if single.endswith(".safetensors"):
                return dict.fromkeys(hub.header(revision, single), single)
            return dict.fromkeys(_load_torch(hub.fetch(revision, single)), single)
        index = f"{single}.index.json"
        if index in there:
            text = hub.fetch(revision, index).read_text(encoding="utf-8")
            pieces: dict[str, str] = json.loads(text)["weight_map"]
            return pieces
    raise CheckpointError(
        f"{revision} has no weights that can be read; it has {_some(sorted(there))}.",
        f"{' or '.join(WEIGHTS)} is needed, or the index of its pieces.",
        "Leave this revision out with steps=; the others stay usable.",
    )


def _as_they_are(names: Iterable[str]) -> Mapping[str, str]:
    return {name: name for name in names}


def _family(
    hub: Hub, last: Revision, model: Any, names: Iterable[str]
) -> tuple[str, Mapping[str, Any], Callable[[Iterable[str]], Mapping[str, str]]]:
    """Family and sizes that config.json describes, and how names in files become the model's."""
    return "", {}, _as_they_are


def _paper(
    family: str, sizes_: Mapping[str, Any], specs: Mapping[str, ArraySpec]
) -> Mapping[str, tuple[str, ...]] | None:
    return None


def _buffers(specs: Mapping[str, ArraySpec], model: Any) -> dict[str, bool]:
    if model is None:
        return {name: is_buffer(name) for name in specs}
    trained = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: name not in trained for name in specs}


def _say(name: str, revisions: Sequence[Revision], cost: int, hub: Hub) -> None:
    """Log what reading will cost, before anything is read."""
    total = cost * len(revisions)
    logger.info("%s: %d checkpoints, %s each", name, len(revisions), sizes(cost))
    if total > hub.budget:
        logger.warning(
            "%s: all %d checkpoints have %s, the disk budget is %s: take fewer with every= or "
            "steps=, or set EXPLORER_HUB_CACHE_GB",
            *(name, len(revisions), sizes(total), sizes(hub.budget)),
        )


def _some(items: Sequence[object], most: int = 6) -> str:
    shown = ", ".join(map(str, items[:most])) or "nothing"
    return shown if len(items) <= most else f"{shown} … {items[-1]} ({len(items)} in all)"
