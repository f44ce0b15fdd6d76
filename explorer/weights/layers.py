"""Layers: which parameters and buffers one click moves together."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from explorer.errors import StackError

LayerScheme = str | Mapping[str, str] | Sequence[str] | Callable[[str], str]
"""``"paper"``, ``"fine"``, {layer: regular expression}, regular expressions, or a function."""

ROOT_LAYER = "(root)"
"""Layer of the tensors that belong to the network itself and to none of its modules."""

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def group_layers(
    names: Sequence[str],
    scheme: LayerScheme | None,
    paper: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Divide the tensors of a network into layers.

    Parameters
    ----------
    names : sequence of str
        Names in the state dict, in its order.
    scheme : str, mapping, sequence or function, optional
        ``"paper"``: the family's units. ``"fine"``: one layer per module that owns tensors.
        A mapping {layer: regular expression} or a sequence of regular expressions, whose matched
        text names the layer, both searched in the tensor's name, first match wins. A function
        from a tensor's name to its layer's. Default: ``"paper"`` where known, else ``"fine"``.
    paper : mapping, optional
        The family's units, layer → tensor names.

    Returns
    -------
    dict
        Layer → names of its tensors; every name is in exactly one layer.

    Raises
    ------
    StackError
        An unknown scheme, ``"paper"`` for an unknown family, a name that no pattern matches, or
        a layer name with ``/``, which xarray reserves.
    """
    if scheme == "paper" and paper is None:
        raise StackError(
            "layers='paper' was asked for, but the family of this stack is not known.",
            "layers='fine', patterns or a function will do.",
            "Leave layers out to get one layer per module.",
        )
    if scheme in (None, "paper") and paper is not None:
        groups = {layer: tuple(members) for layer, members in paper.items()}
    else:
        label = _labeller(scheme)
        grouped: dict[str, list[str]] = {}
        for name in names:
            grouped.setdefault(label(name), []).append(name)
        groups = {layer: tuple(members) for layer, members in grouped.items()}
    _check_names(groups)
    return groups


def is_buffer(name: str) -> bool:
    """Tell batch normalisation's running statistics by name, where no model is at hand."""
    return name.rpartition(".")[2] in _BUFFERS


def fan_in(name: str, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Inputs that feed one output: of a weight matrix or kernel, or of the one beside a bias.

    1 for a tensor that has no such neighbour (normalisation scales and shifts).
    """
    module = name.rpartition(".")[0]
    shape = shapes[name]
    if len(shape) < 2:
        shape = shapes.get(f"{module}.weight" if module else "weight", ())
    return max(math.prod(shape[1:]), 1)


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Tensor name → the part that is not the same for the whole layer."""
    names = list(names)
    modules = [name.split(".")[:-1] for name in names]
    common = 0
    while all(len(m) > common and m[common] == modules[0][common] for m in modules):
        common += 1
    return {name: ".".join(name.split(".")[common:]) for name in names}


def _labeller(scheme: LayerScheme | None) -> Callable[[str], str]:
    if scheme is None or scheme == "fine":
        return lambda name: name.rpartition(".")[0] or ROOT_LAYER
    if callable(scheme):
        return scheme
    if isinstance(scheme, str):
        raise StackError(
            f"The layer scheme is {scheme!r}.",
            "'paper', 'fine', a mapping or list of regular expressions, or a function will do.",
            "For one regular expression pass a list: layers=[r'block\\d+'].",
        )
    patterns = [(_compiled(text), layer) for layer, text in _named(scheme)]

    def label(name: str) -> str:
        for pattern, layer in patterns:
            match = pattern.search(name)
            if match:
                return layer if layer is not None else match.group(0)
        raise StackError(
            f"No pattern of the layer scheme matches the tensor {name!r}.",
            f"Every tensor needs a layer; the patterns are {[p.pattern for p, _ in patterns]}.",
            "Add a pattern for it, or a last one that matches everything: '.*'.",
        )

    return label


def _named(scheme: Mapping[str, str] | Sequence[str]) -> list[tuple[str | None, str]]:
    """Regular expressions with the layer that each is of; None where its match names the layer."""
    if isinstance(scheme, Mapping):
        return list(scheme.items())
    if not isinstance(scheme, Iterable):
        raise StackError(
            f"The layer scheme is {scheme!r}.",
            "'paper', 'fine', a mapping or list of regular expressions, or a function will do.",
            "Leave layers out to get one layer per module, or the family's units.",
        )
    return [(None, text) for text in scheme]


def _compiled(text: Any) -> re.Pattern[str]:
    if not isinstance(text, (str, re.Pattern)) or isinstance(getattr(text, "pattern", ""), bytes):
        raise StackError(
            f"The layer scheme holds {text!r} in the place of a regular expression.",
            "One text for each layer is needed, which is searched in the names of the tensors.",
            f"Join several names by |: {'|'.join(map(re.escape, text))!r}."
            if isinstance(text, (list, tuple)) and all(isinstance(one, str) for one in text)
            else r"Write it as text, for example r'block\d+'.",
        )
    try:
        with warnings.catch_warnings():  # of what may once mean a set in a set: one a bracket
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise StackError(
            f"The layer scheme holds {text!r}, which is no regular expression: {error}.",
            "What Python's re understands is accepted, for example r'block\\d+'.",
            "Correct it; a character with a meaning of its own is written with \\ before it.",
        ) from error


def _check_names(groups: Mapping[str, tuple[str, ...]]) -> None:
    for layer in groups:
        if not isinstance(layer, str) or not layer or "/" in layer:
            raise StackError(
                f"A layer is named {layer!r}.",
                "A layer's name is text, not empty, and has no '/', which xarray reserves.",
                "Change the layer scheme so that it gives another name.",
            )
