"""Networks that others have trained, with one checkpoint and no history.

==================================  ============================================================
``torchvision/resnet50@TAG``        weights of torchvision, TAG such as IMAGENET1K_V2 or DEFAULT
``timm/NAME@TAG``                   weights of timm, from the hub (extra ``[hub]``)
==================================  ============================================================

Nothing is downloaded before a tensor is read. With one checkpoint there is no earlier epoch to put
a layer back to: fresh draws, trained moments, zeros and skipping remain.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from explorer.errors import CheckpointError, DataError, StackError, UnknownNameError, unknown_name
from explorer.inventory.hub import Hub
from explorer.inventory.hub_folder import Revision, sizes
from explorer.inventory.store import fetch, torch_weights_folder
from explorer.weights.checkpoints import Array, ArraySpec
from explorer.weights.hub_checkpoint import HubCheckpoint
from explorer.weights.hub_revisions import ONLY, some_of
from explorer.weights.layers import LayerScheme, group_layers
from explorer.weights.parts import Parts
from explorer.weights.readers.torch_files import TorchCheckpoint

TORCHVISION, TIMM = "torchvision/", "timm/"

HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
"""At the end of a file's name: the first digits of its sha256, as torch's own loader checks."""

CHANGED_WITH_WEIGHTS = ("googlenet", "inception_v3")
"""torchvision gives these another normalisation of their inputs when it gives them its weights."""

_DENSE = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")
"""Names in files older than today's DenseNet, as torchvision itself corrects them."""


@dataclass(frozen=True)
class WeightsFile:
    """A checkpoint of torchvision: one file, downloaded when the first tensor is read."""

    address: str
    """Where it is downloaded from."""
    declared: Mapping[str, ArraySpec]
    """What the network's tensors are."""
    in_parts = True

    def specs(self) -> dict[str, ArraySpec]:
        """Names, dtypes and shapes of the network's tensors; the file is not read."""
        return dict(self.declared)

    def read(self, name: str) -> Array:
        """Read one tensor.

        Raises
        ------
        CheckpointError
            The file cannot be downloaded, has another hash, or lacks the tensor.
        """
        return self.read_part(name, (slice(None),) * len(self.declared[name].shape))

    def read_part(self, name: str, key: Sequence[Any]) -> Array:
        """Read one tensor where each of its axes is indexed by itself."""
        path = self.path()
        names = _names(path)
        if name not in names and name.endswith("num_batches_tracked"):
            return np.zeros((), np.int64)  # not in files older than torch 0.4.1
        if name not in names:
            raise CheckpointError(
                f"{path} has no tensor {name}; it has {some_of(sorted(names))}.",
                "The network's tensors are needed.",
                "Choose other weights of this network.",
            )
        return TorchCheckpoint(path).read_part(names[name], key)

    def path(self) -> Path:
        """Path of the file, which is downloaded and checked if need be."""
        file = self.address.rpartition("/")[2]
        found = HASH_IN_NAME.search(file)
        if found is None:
            raise CheckpointError(
                f"The address {self.address} holds no hash.",
                "A name that ends in the first digits of its sha256 is needed.",
                "Download it yourself, check it, and open the file.",
            )
        try:
            target = torch_weights_folder() / file
            return _fetched(self.address, target, found[1])
        except DataError as error:
            raise CheckpointError(error.came, error.accepted, error.advice) from error


def is_pretrained_name(source: object) -> TypeGuard[str]:
    """Tell whether a stack's source is the weights of a library."""
    named = isinstance(source, str) and source.startswith((TORCHVISION, TIMM))
    return named and "@" in str(source)


def pretrained_parts(name: str, layers: LayerScheme | None = None, hub: Hub | None = None) -> Parts:
    """Find what a stack with one checkpoint consists of; no weights are downloaded yet.

    Parameters
    ----------
    name : str
        ``torchvision/NAME@TAG`` or ``timm/NAME@TAG``.
    layers : str, mapping, sequence or function, optional
        The layer scheme, as in `explorer.open_stack`.
    hub : Hub, optional
        For timm; default ``Hub()``.

    Returns
    -------
    Parts

    Raises
    ------
    UnknownNameError
        The library has no such network or weights, or is not installed.
    StackError
        The network is changed when it gets its weights.
    CheckpointError
        For timm: the hub cannot be reached.
    """
    family, _, tag = name.partition("@")
    if family.startswith(TIMM):
        return _of_timm(name, family, tag, layers, hub)
    return _of_torchvision(name, family, tag, layers)


def _of_torchvision(name: str, family: str, tag: str, layers: LayerScheme | None) -> Parts:
    from torchvision import models  # a second and 160 MB, which other stacks do without

    short = family.removeprefix(TORCHVISION)
    if short in CHANGED_WITH_WEIGHTS:
        raise StackError(
            f"torchvision changes {short} when it gives it its weights.",
            "Networks that stay as they are can be opened by name.",
            "Make the network, net = torchvision.models.get_model(…, weights=…), and open it with "
            "open_stack([net.state_dict()], model=net).",
        )
    members, units, declared, buffers = _network(family, {})
    known = models.get_model_weights(short).__members__
    if tag not in known:
        raise unknown_name("weights", name, [f"{family}@{one}" for one in known])
    weights = known[tag]
    about = weights.meta
    megabytes = float(about.get("_file_size", 0))
    cost = int(megabytes * 2**20)
    title = f"{short}, weights {weights.name} of torchvision, {sizes(cost)}"
    attributes = _attributes(name, title, family, members, weights.url, cost)
    groups = group_layers(list(declared), layers, units)
    checkpoint = WeightsFile(str(weights.url), declared)
    return Parts([checkpoint], [ONLY], declared, groups, buffers, attributes)


def _of_timm(
    name: str, family: str, tag: str, layers: LayerScheme | None, hub: Hub | None
) -> Parts:
    from explorer.weights.families.known import find_family  # brings torch

    full = f"{family}.{tag}"
    find_family(full)  # or it says what there is, or that timm is not installed
    models: Any = importlib.import_module("timm.models")
    try:
        about = models.get_pretrained_cfg(full.removeprefix(TIMM))
    except RuntimeError:  # what timm raises for a tag that it does not have
        about = None
    repository = str(getattr(about, "hf_hub_id", "") or "")
    if getattr(about, "tag", "") != tag or not repository:
        raise UnknownNameError(
            f"timm has no weights {name!r} on the hub.",
            "NAME@TAG of timm.list_pretrained() is needed, such as timm/resnet18@a1_in1k.",
            "Correct the tag after @.",
        )
    classes = int(getattr(about, "num_classes", 0))
    members, units, declared, buffers = _network(full, {"classes": classes})
    hub = hub or Hub()
    revisions = {one.name: one for one in hub.revisions(repository)}
    main: Revision = revisions["main"]
    checkpoint = HubCheckpoint(hub, main, functools.partial(_exactly, tuple(declared)))
    cost = sum(hub.files(main)[file].bytes for file in {f for f, _ in checkpoint.homes().values()})
    title = f"{family.removeprefix(TIMM)}, weights {tag} of timm, {sizes(cost)}"
    attributes = _attributes(name, title, full, members, str(main.commit), cost)
    groups = group_layers(list(declared), layers, units)
    return Parts([checkpoint], [ONLY], declared, groups, buffers, attributes)


def _network(
    family: str, given: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, tuple[str, ...]], dict[str, ArraySpec], dict[str, bool]]:
    """Sizes, layers, tensors and which of them are buffers, of a network without memory."""
    from explorer.weights.families.known import find_family  # brings torch

    found = find_family(family)
    members = found.settled(given)
    skeleton = found.skeleton(members)
    trained = {name for name, _ in skeleton.named_parameters(remove_duplicate=False)}
    state = skeleton.state_dict()
    declared = {
        name: ArraySpec(np.dtype(str(t.dtype).removeprefix("torch.")), tuple(t.shape))
        for name, t in state.items()
    }
    return members, found.layers(members), declared, {name: name not in trained for name in state}


def _attributes(
    name: str, title: str, family: str, members: Mapping[str, Any], origin: str, cost: int
) -> dict[str, Any]:
    return {
        "name": name,
        "title": title,
        "family": family,
        "sizes": dict(members),
        "dataset": "",
        "content_hash": hashlib.sha256(f"{name} {origin}".encode()).hexdigest(),
        "integrity": "hashes of the hub"
        if family.startswith(TIMM)
        else "first digits of the sha256",
        "checkpoint_unit": "checkpoint",
        "download_bytes": cost,
    }


def _exactly(wanted: tuple[str, ...], names: Any) -> Mapping[str, str]:
    """Names in the files, which have to be the network's."""
    there = set(names)
    missing = [name for name in wanted if name not in there]
    if missing:
        raise StackError(
            f"The weights lack {some_of(missing)}.",
            f"They have {some_of(sorted(there))}.",
            "Choose other weights of this network.",
        )
    return {name: name for name in wanted}


@functools.lru_cache(maxsize=64)
def _fetched(address: str, target: Path, digest: str) -> Path:
    """Download and check a file once per session."""
    return fetch([address], target, digest, algorithm="sha256")


@functools.lru_cache(maxsize=2)
def _names(path: Path) -> Mapping[str, str]:
    """Name in today's network → name in a file, of all its tensors."""
    return {_DENSE.sub(r"\1", own): own for own in TorchCheckpoint(path).specs()}
