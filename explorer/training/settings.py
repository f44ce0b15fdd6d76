"""Settings by name: any number of a recipe or size of a family, as Python or as typed text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args, get_origin, get_type_hints

from explorer.errors import UsageError, unknown_name
from explorer.training.recipe import Recipe
from explorer.training.recipes import Experiment
from explorer.weights.families.known import find_family

_FIELDS = get_type_hints(Recipe)
_OTHERS = ("dataset", "keep", "steps")
"""Settings of an experiment that are neither a recipe's nor a size."""
_SIZE_KINDS: Mapping[str, type] = {"count": int, "factor": float, "switch": bool}
_WORDS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def with_settings(experiment: Experiment, settings: Mapping[str, object]) -> Experiment:
    """Return the experiment with some of its numbers changed.

    Parameters
    ----------
    experiment : Experiment
        As it is without any setting.
    settings : mapping
        Name → value, of the type of the field or size, or as text: ``"5e-4"``, ``"on"``,
        ``"0.3,0.6"``. Names are the fields of `Recipe`, the sizes of the experiment's family,
        ``dataset``, ``keep`` (epochs) and ``steps`` (optimiser steps whose checkpoint is kept as
        well).

    Returns
    -------
    Experiment
        Epoch 0 and the last are always kept; epochs beyond the last are dropped, unless they
        were asked for. The title names what differs in the recipe and the sizes.

    Raises
    ------
    UnknownNameError
        A setting that does not exist.
    UsageError
        A value that cannot be read or is out of range.
    StackError
        A value that the family does not take as a size.
    """
    family = find_family(experiment.family)
    recipe_changes: dict[str, Any] = {}
    size_changes: dict[str, Any] = {}
    for name, value in settings.items():
        if name in _FIELDS:
            recipe_changes[name] = _parsed(name, value, _FIELDS[name])
        elif name in family.takes:
            size = _parsed(name, value, _SIZE_KINDS[family.takes[name].kind])
            size_changes[name] = int(size) if isinstance(size, bool) else size
        elif name not in _OTHERS:
            raise unknown_name("setting", name, (*_FIELDS, *family.takes, *_OTHERS))
    recipe = dataclasses.replace(experiment.recipe, **recipe_changes)
    sizes = {**experiment.sizes, **size_changes}
    family.settled(sizes)  # refuses what the family does not take
    dataset = str(settings.get("dataset", experiment.dataset))
    return dataclasses.replace(
        experiment,
        recipe=recipe,
        sizes=sizes,
        dataset=dataset,
        title=_titled(experiment, {**recipe_changes, **size_changes, "dataset": dataset}),
        keep=_kept(experiment, settings, recipe.epochs),
        steps=_steps(settings.get("steps", experiment.steps)),
    )


def _titled(experiment: Experiment, changes: Mapping[str, Any]) -> str:
    """Title with what was set differently; not the epochs, which the checkpoints tell."""
    before = {**dataclasses.asdict(experiment.recipe), **find_family(experiment.family).sizes}
    before |= {**experiment.sizes, "dataset": experiment.dataset}
    told = [
        f"{name} {','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in changes.items()
        if value != before.get(name) and name != "epochs"
    ]
    return f"{experiment.title}, {', '.join(told)}" if told else experiment.title


def _kept(experiment: Experiment, settings: Mapping[str, object], epochs: int) -> tuple[int, ...]:
    if "keep" not in settings:
        return tuple(sorted({0, epochs, *(e for e in experiment.keep if e < epochs)}))
    chosen: tuple[int, ...] = _parsed("keep", settings["keep"], tuple[int, ...])
    wrong = [epoch for epoch in chosen if not 0 <= epoch <= epochs]
    if wrong:
        raise UsageError(
            f"keep holds {wrong[0]}.",
            f"Epochs from 0 to {epochs} are accepted.",
            "Leave it out, or train for more epochs.",
        )
    return tuple(sorted({0, epochs, *chosen}))


def _steps(value: object) -> tuple[int, ...]:
    chosen: tuple[int, ...] = _parsed("steps", value, tuple[int, ...])
    if any(step < 1 for step in chosen):
        raise UsageError(
            f"steps holds {min(chosen)}.",
            "Optimiser steps are counted from 1; initialisation is kept anyway.",
            "Take it out of the list.",
        )
    return tuple(sorted(set(chosen)))


def _parsed(name: str, value: object, kind: Any) -> Any:
    """Read a value of the kind that a field has; a tuple from a list or from text with commas."""
    if get_origin(kind) is not tuple:
        return _scalar(name, value, kind)
    inner = get_args(kind)[0]
    if isinstance(value, str):
        items: Iterable[object] = filter(None, value.split(","))
    else:
        items = value if isinstance(value, Iterable) else (value,)
    return tuple(_scalar(name, item, inner) for item in items)


_READERS: Mapping[type, tuple[Callable[[str], Any], str]] = {
    int: (int, "A whole number"),
    float: (float, "A number"),
    bool: (lambda text: _WORDS[text.lower()], "0 or 1 (also off and on, false and true)"),
    str: (str, "Text"),
}


def _scalar(name: str, value: object, kind: type) -> Any:
    read, accepted = _READERS[kind]
    try:
        return read(str(value).strip())
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"{name} is {value!r}.",
            f"{accepted} is accepted.",
            f"Write it like {_EXAMPLES.get(name, _EXAMPLE_OF[kind])}.",
        ) from error


_EXAMPLES = {
    "keep": "keep=0,1,10,100",
    "steps": "steps=1,2,4,8",
    "decay_at": "decay_at=0.3,0.6,0.9",
    "betas": "betas=0.9,0.999",
}
_EXAMPLE_OF = {
    int: "width=64",
    float: "weight_decay=5e-4",
    bool: "augment=0",
    str: "schedule=cosine",
}


def assignments(texts: Iterable[str]) -> dict[str, str]:
    """Read ``key=value`` as people type it, one setting each; the last of a name counts.

    Raises
    ------
    UsageError
        There is no equals sign.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                f"The setting {text!r} has no name and value.",
                "key=value is accepted, for example weight_decay=5e-4.",
                "Write --set key=value, once per setting and without spaces.",
            )
        pairs[key.strip()] = value
    return pairs
