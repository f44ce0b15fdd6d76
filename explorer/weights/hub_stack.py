"""Stacks of the model hub: ``hub:OWNER/NAME``, one checkpoint per revision or per repository.

================================  =================================================================
``hub:EleutherAI/pythia-14m``     revisions ``stepN``, ``stepN-tokensM`` or ``stageK-stepN-tokensM``
``hub:OWNER/NAME-step_*``         one repository per checkpoint (MultiBERTs); ``*`` is the step
``hub:OWNER/NAME@REVISION``       one checkpoint alone, for example ``@main``
================================  =================================================================
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from explorer.errors import CheckpointError, StackError
from explorer.inventory.hub import Hub
from explorer.inventory.hub_folder import Revision, sizes
from explorer.weights.checkpoints import ArraySpec
from explorer.weights.fitting import check_model
from explorer.weights.hub_checkpoint import HubCheckpoint, files_of_tensors
from explorer.weights.hub_revisions import PREFIX, listed, some_of
from explorer.weights.layers import LayerScheme, group_layers, is_buffer
from explorer.weights.numbering import Choice, kept_positions
from explorer.weights.parts import Parts
from explorer.weights.readers.parts import read_json

logger = logging.getLogger(__name__)

CONFIG, TOKENIZER = "config.json", "tokenizer.json"


def is_hub_address(source: object) -> TypeGuard[str]:
    """Tell whether a stack's source is on the hub."""
    return isinstance(source, str) and source.startswith(PREFIX)


def hub_parts(
    address: str,
    model: Any = None,
    layers: LayerScheme | None = None,
    every: int = 1,
    only: Choice | None = None,
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
    every, only
        Which steps, as in `explorer.open_stack`.
    hub : Hub, optional
        Default ``Hub()``.

    Returns
    -------
    Parts

    Raises
    ------
    StackError
        There is no such repository, it has no steps, or they do not fit the model.
    UsageError, UnknownNameError
        As `explorer.weights.numbering.kept_positions`.
    CheckpointError
        The hub cannot be reached, and what is needed is not here.
    """
    hub = hub or Hub()
    name = address.removeprefix(PREFIX)
    found, left_out = listed(hub, name)
    numbers = list(found)
    chosen = [numbers[k] for k in kept_positions(numbers, every, only)]
    revisions = [found[number] for number in chosen]
    last = revisions[-1]
    checkpoints = [HubCheckpoint(hub, one, _as_they_are) for one in revisions]
    where = files_of_tensors(hub, last)
    cost = sum(hub.files(last)[file].bytes for file in set(where.values()))
    family, settings = _family(hub, last, model)
    units = _units(family, settings, checkpoints)
    specs = checkpoints[-1].specs()
    network = _skeleton(family, settings) if family else model
    if network is not None:
        expected = {name: tuple(t.shape) for name, t in network.state_dict().items()}
        specs = check_model(specs, expected)
    groups = group_layers(list(specs), layers, units)
    _say(name, revisions, cost, hub)
    unused = sorted(set(where) - {own for _, own in checkpoints[-1].homes().values()})
    commits = "".join(f"{n} {one.commit}\n" for n, one in zip(chosen, revisions, strict=True))
    attributes = {
        "name": address,
        "title": f"{name}: {len(chosen)} of {len(found)} checkpoints, {sizes(cost)} each",
        "family": family,
        "sizes": settings,
        "dataset": "",
        "content_hash": hashlib.sha256(commits.encode()).hexdigest(),
        "integrity": "hashes of the hub",
        "checkpoint_unit": "checkpoint" if "@" in name else "step",
        "download_bytes": cost,
        "revisions_left_out": left_out,
        "tensors_left_out": unused,
        **_language(hub, last, family, settings),
    }
    return Parts(checkpoints, chosen, specs, groups, _buffers(specs, network), attributes)


def _as_they_are(names: Iterable[str]) -> Mapping[str, str]:
    return {name: name for name in names}


def _as_in_model(wanted: Sequence[str], names: Iterable[str]) -> Mapping[str, str]:
    """Name in the model → name in the files, of every tensor of the model."""
    from explorer.weights.families.language import renamed  # brings torch

    there = dict.fromkeys(names)
    found = {name: renamed(name, there) for name in wanted}
    missing = [name for name, own in found.items() if own is None]
    if missing:
        raise StackError(
            f"The files lack {some_of(missing)} of the network that config.json describes.",
            f"They have {some_of(list(there))}.",
            "Pass model= with the network that these weights belong to.",
        )
    return {name: own for name, own in found.items() if own is not None}


def _family(hub: Hub, last: Revision, model: Any) -> tuple[str, dict[str, Any]]:
    """Family and sizes that config.json describes; none where a model is given."""
    if model is not None or CONFIG not in hub.files(last):
        return "", {}
    config = _config(hub, last)
    from explorer.weights.families import language  # brings torch

    kind = str(config.get("model_type"))
    if kind not in language.TYPES:
        return "", {}
    if not language.has_transformers():
        logger.warning(
            "%s is a %s network: to measure it, pip install 'layer-explorer[transformers]', or "
            "pass model=",
            *(last.repository, kind),
        )
        return "", {}
    return language.TRANSFORMERS + kind, language.settings_of(config)


def _config(hub: Hub, last: Revision) -> dict[str, Any]:
    """What config.json holds."""
    try:
        return dict(read_json(hub.fetch(last, CONFIG)))
    except CheckpointError:  # it says why
        raise
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{CONFIG} of {last} cannot be read: {error}.",
            "A mapping in JSON is expected.",
            "Pass model=, and it is not needed.",
        ) from error


def _units(
    family: str, settings: Mapping[str, Any], checkpoints: Sequence[HubCheckpoint]
) -> Mapping[str, tuple[str, ...]] | None:
    """The family's units; from now on tensors have the names of its model."""
    if not family:
        return None
    from explorer.weights.families.known import find_family  # brings torch

    units = find_family(family).layers(settings)
    wanted = [name for names in units.values() for name in names]
    for checkpoint in checkpoints:
        checkpoint.names = functools.partial(_as_in_model, wanted)
    return units


def _skeleton(family: str, settings: Mapping[str, Any]) -> Any:
    from explorer.weights.families.known import find_family  # brings torch

    return find_family(family).skeleton(settings)


def _language(hub: Hub, last: Revision, family: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a language model: path of its tokenizer, empty where there is none; its context."""
    if not family:
        return {}
    from explorer.weights.families.language import context_of  # brings torch

    there = TOKENIZER in hub.files(last)
    return {
        "tokenizer": str(hub.fetch(last, TOKENIZER)) if there else "",
        "context": context_of(settings),
    }


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
            "only=, or set EXPLORER_HUB_CACHE_GB",
            *(name, len(revisions), sizes(total), sizes(hub.budget)),
        )
