"""Whether the first checkpoint is an initialisation: each tensor against fresh draws of it.

A tensor that the initialiser sets to one value has to have exactly that one. Of any other, three
things are compared with fresh draws of the same tensor, under "every element is drawn independently
from that distribution":

- the mean, as its deviation z in standard errors, by the central limit theorem;
- the variance likewise, as χ² with 2n/(κ−1) degrees of freedom, κ the kurtosis (Wilson and Hilferty
  1931: its cube root is close to normal even for few degrees);
- the range: of n elements and m fresh ones, whatever the distribution, the j largest are all of the
  n with a probability below (n/(n+m))ʲ. Training pushes some beyond the bounds of a uniform
  initialiser long before it changes a moment.

|z| > `LARGEST` has a probability of 2·10⁻⁹ for a normal variable, and j is held to the same. In
1,400 initialisations (200 of the network of each of the seven bundled stacks, 77,200 tensors) there
was no false alarm: the largest |z| was 4.2, the largest j 0.48 of what is allowed. Epoch 1 of those
stacks is told from an initialisation in six, epoch 2 in all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from explorer.doctor.findings import Finding, some
from explorer.doctor.patient import Patient
from explorer.errors import ExplorerError
from explorer.weights.checkpoints import Array
from explorer.weights.families.known import FAMILIES, build_network
from explorer.weights.fresh import fresh_layer, values_of

LARGEST = 6.0
"""Deviation, in standard errors, that is still put down to chance."""

RARE = 2e-9
"""Probability of the same: of a normal variable beyond ± `LARGEST`."""

DRAWN = 4096
"""Fresh values of a tensor that are drawn at least, and more where it has more elements."""

MOST_DRAWS = 64
"""Draws of one tensor, whatever its size."""

SAID = 3
"""Tensors whose numbers are written out."""


@dataclass(frozen=True)
class Moments:
    """Moments of a tensor's elements, in float64."""

    count: int
    """Elements."""
    mean: float
    """Of them."""
    variance: float
    """Mean squared deviation from the mean."""
    kurtosis: float
    """Mean fourth power of the deviation over the squared variance: 3 for a normal. The variance of
    a sample's variance is (kurtosis − 1)·σ⁴/n."""


class Beginning:
    """The first checkpoint while it is read: `look` at each tensor, then take the findings.

    Parameters
    ----------
    patient : Patient
        The stack.
    model : torch.nn.Module or None
        Whose modules draw anew where the stack names no known family.
    seed : int
        Of the fresh draws.
    """

    def __init__(self, patient: Patient, model: Any, seed: int) -> None:
        self._patient = patient
        self._seed = seed
        self._family = patient.family if model is None else ""
        self._network = model
        self._looked = 0
        self._odd: dict[str, str] = {}
        self._unjudged: tuple[str, str] | None = None  # why not, and what would help
        if model is not None:
            return
        if self._family not in FAMILIES:
            self._unjudged = (
                "the stack names no family, so its initialiser is not known.",
                "Give the network with explorer.check(stack, model=net).",
            )
            return
        try:
            self._network = build_network(self._family, patient.sizes or {})
        except ExplorerError as error:
            self._unjudged = error.came, error.advice

    def look(self, name: str, values: Array) -> None:
        """Compare one tensor of the first checkpoint with fresh draws of it."""
        if self._unjudged or name not in self._patient.specs or not values.size:
            return
        if not np.isfinite(values).all():
            return  # reported as such
        try:
            fresh = self._fresh(name)
        except ExplorerError as error:
            self._unjudged = error.came, error.advice
            return
        if fresh is None:  # a module's extra state is not drawn
            return
        self._looked += 1
        odd = oddity(values.reshape(-1), fresh)
        if odd:
            self._odd[name] = odd

    def findings(self) -> Iterator[Finding]:
        """Say what was seen, once every tensor has been looked at."""
        number, unit = self._patient.items[0].number, self._patient.unit
        if not self._unjudged and not self._looked:
            self._unjudged = f"{unit} {number} could not be read.", ""
        if self._unjudged:
            why, advice = self._unjudged
            yield Finding("note", "beginning", f"Cannot be judged: {why}", advice)
        elif not self._odd:
            said = f"All {self._looked} tensors look like a fresh draw."
            yield Finding("ok", "beginning", said, epochs=(number,))
        else:
            yield self._not_fresh(number, unit)

    def _not_fresh(self, number: int, unit: str) -> Finding:
        layer_of = self._patient.layer_of
        layers = list(dict.fromkeys(layer_of[name] for name in self._odd))
        first = "; ".join(f"{name}: {why}" for name, why in list(self._odd.items())[:SAID])
        claimed = number == 0
        return Finding(
            "warning" if claimed else "note",
            "beginning",
            f"Not an initialisation: {len(self._odd)} of {self._looked} tensors, in "
            f"{some(layers)}, are no draw of their initialiser. {first}.",
            "Look whether it was saved after training had begun, or drawn otherwise."
            if claimed
            else f"To see the layers before training, add the checkpoint of {unit} 0.",
            (number,),
            layer=layers[0] if len(layers) == 1 else "",
            tensor=next(iter(self._odd)) if len(self._odd) == 1 else "",
        )

    def _fresh(self, name: str) -> Array | None:
        """Values of fresh draws of one tensor, if it is drawn; one draw where all are the same."""
        layer = self._patient.layer_of[name]
        drawn: list[Array] = []
        while len(drawn) < MOST_DRAWS:
            state = fresh_layer(self._network, self._family, layer, (name,), len(drawn), self._seed)
            if name not in state:
                return None
            drawn.append(values_of(state[name]).reshape(-1))
            size = drawn[0].size
            if size * len(drawn) >= DRAWN or (size > 1 and _constant(drawn[0])):
                break
        return np.concatenate(drawn)


def oddity(values: Array, fresh: Array) -> str:
    """Say what makes a tensor no draw of its initialiser; nothing where it may be one.

    Parameters
    ----------
    values : (element,) array
        The tensor, finite.
    fresh : (element,) array
        Values of fresh draws of it, as many as there happen to be.

    Returns
    -------
    str
        A few words, or ``""``.
    """
    if _constant(fresh):
        if (values == fresh[0]).all():
            return ""
        return f"{_said(values)}, not {fresh[0]:g}"
    if _constant(values) and values.size > 1:
        return _said(values)
    drawn = moments(fresh)
    z = max(deviations(moments(values), drawn), key=abs)
    if abs(z) > LARGEST:
        return (
            f"{_said(values)}, fresh draws mean {drawn.mean:.3g}, std "
            f"{math.sqrt(drawn.variance):.3g} ({abs(z):.0f} standard errors)"
        )
    beyond = int((values > fresh.max()).sum()), int((values < fresh.min()).sum())
    if max(beyond) > most_beyond(values.size, fresh.size):
        return (
            f"{sum(beyond):,} of {values.size:,} values lie beyond all {fresh.size:,} of fresh "
            f"draws, {fresh.min():.3g} to {fresh.max():.3g}"
        )
    return ""


def moments(values: Array) -> Moments:
    """Take the moments of a tensor's elements."""
    flat = values.reshape(-1).astype(np.float64)
    mean = float(flat.mean())
    flat -= mean
    np.square(flat, out=flat)
    variance = float(flat.mean())
    fourth = float(np.dot(flat, flat)) / flat.size
    return Moments(flat.size, mean, variance, fourth / variance**2 if variance else math.nan)


def deviations(found: Moments, drawn: Moments) -> tuple[float, float]:
    """Deviation of mean and variance from those of fresh draws, in standard errors.

    Parameters
    ----------
    found : Moments
        Of the tensor.
    drawn : Moments
        Of fresh draws, whose own error counts as well.

    Returns
    -------
    tuple of float
        z of the mean and z of the variance; both about normal for a draw like the others.
    """
    shares = 1 / found.count + 1 / drawn.count
    z_mean = (found.mean - drawn.mean) / math.sqrt(drawn.variance * shares)
    # variance about the known mean: its expectation does not depend on the count
    spread = found.variance + (found.mean - drawn.mean) ** 2
    freedom = 2 / max(drawn.kurtosis - 1, 1e-3)  # degrees of freedom per element
    error = 2 / (9 * freedom)
    expected = 1 - error / found.count
    z_variance = (np.cbrt(spread / drawn.variance) - expected) / math.sqrt(error * shares)
    return z_mean, float(z_variance)


def most_beyond(count: int, drawn: int) -> int:
    """How many of so many elements may lie beyond all drawn ones, on one side, by chance."""
    return math.ceil(math.log(RARE) / math.log(count / (count + drawn)))


def _said(values: Array) -> str:
    if _constant(values):
        return f"every value is {values[0]:g}"
    found = moments(values)
    return f"mean {found.mean:.3g}, std {math.sqrt(found.variance):.3g}"


def _constant(values: Array) -> bool:
    return bool((values == values[0]).all())
