"""Verdicts with statistics: what a sweep's paired counts show of each layer, and how surely."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from explorer.arguments import fraction
from explorer.engine.margins import check_margin, margin_of
from explorer.engine.paired import exact_interval, holm, mcnemar, p_beyond, p_within
from explorer.engine.profiles import Profile
from explorer.engine.results import open_sweep
from explorer.engine.verdicts import DEFAULT_THRESHOLD
from explorer.errors import UsageError

LEVEL = 0.05
"""Probability with which any statement about a run is wrong, at most."""

ONLY = ""
"""Name of a run that stands alone."""

Run = xr.Dataset | xr.DataTree | str | Path
"""A sweep, a stack that is to be swept, or the name or file of a sweep."""

_COUNTS = ("turned_wrong", "turned_right", "examples")

_OVER_CELLS: Mapping[str, dict[str, Any]] = {
    "increase": {"long_name": "increase of the test error", "units": "1"},
    "p_mcnemar": {"long_name": "exact McNemar test of no change, two-sided"},
    "p_within": {"long_name": "test of an increase of the margin or more"},
    "p_beyond": {"long_name": "test of an increase of the margin or less"},
    "p_within_holm": {"long_name": "p_within, corrected for all tests of the run"},
    "p_beyond_holm": {"long_name": "p_beyond, corrected for all tests of the run"},
    "state": {"long_name": "what the tests show: within, beyond, open; or not measured, trained"},
}


def verdicts(
    runs: Run | Sequence[Run] | Mapping[str, Run],
    *,
    threshold: float = DEFAULT_THRESHOLD,
    margin: float | None = None,
    level: float = LEVEL,
    **measuring: Any,
) -> xr.Dataset:
    """Call each layer robust, critical or mixed as far as the test examples show it.

    For each cell (layer, epoch) with b answers turned wrong and c turned right, of n, two
    hypotheses about Δ = P(turns wrong) − P(turns right), the increase of the error in the
    population of which the test set is a sample, are tested with the margin ε:

    * within: H0 Δ ≥ ε against H1 Δ < ε (non-inferiority),
    * beyond: H0 Δ ≤ ε against H1 Δ > ε.

    Both tests of every cell of a run are corrected together (Holm), so that with probability
    1 − `level` all that is said of a run holds at once, wrong directions included.

    Parameters
    ----------
    runs : sweep, stack, name of a sweep, or several of them
        As `explorer.sweep` returns them. A stack is swept first. Of several, such as the seeds of
        one recipe, the agreement is told; a mapping names them.
    threshold : float
        Share of the way from the final error to chance that makes ε, each run having its own;
        in 0…1.
    margin : float, optional
        ε itself, a difference of errors in 0…1, instead of a threshold.
    level : float
        Probability of any false statement about a run; in 0…1.
    **measuring
        Of `explorer.sweep`, for stacks.

    Returns
    -------
    xarray.Dataset
        Over (layer, epoch), epochs rising: error, turned_wrong, turned_right, examples, increase,
        p_mcnemar (exact, two-sided, ε = 0, not corrected), p_within, p_beyond, the same with
        ``_holm`` (corrected), and state: ``"within"``, ``"beyond"``, ``"open"`` (neither is
        shown), ``"not measured"`` (or not on all examples), ``"trained"``. Over (layer): verdict;
        recovery, the first epoch from which on every cell is within; not_monotone, whether a later
        epoch is shown to be worse than an earlier one; because, the verdict's reason in words. The
        verdict is ``"robust"`` if every epoch is within, ``"critical"`` if the first is beyond,
        ``"mixed"`` if the first is within and a later one beyond, ``"undecided"`` if the examples
        do not show any of these, ``"not known"`` if cells are missing that would be needed.
        Of several runs everything has the dimension ``run`` as well, and there are common (the
        most frequent verdict) and agreement (share of pairs of runs with the same verdict).

    Raises
    ------
    UsageError
        A number is out of range, or the runs have other layers or epochs than each other.

    References
    ----------
    The words are those of Zhang, Bengio, Singer, JMLR 23(67), 2022, who give no threshold; the
    tests are in `explorer.engine.paired`, the correction is Holm's (1979).

    Examples
    --------
    >>> import explorer as lx
    >>> lx.verdicts("fcn3x256-digits").verdict.values.tolist()
    ['critical', 'undecided', 'robust', 'undecided']
    """
    check_margin(threshold, margin)
    fraction("level", level, "0.05 is the usual one")
    named = _named(runs)
    judged = {
        name: judge(_swept(one, measuring), threshold, margin, level) for name, one in named.items()
    }
    return judged[ONLY] if list(named) == [ONLY] else _together(judged)


def judge(
    sweep: xr.Dataset,
    threshold: float = DEFAULT_THRESHOLD,
    margin: float | None = None,
    level: float = LEVEL,
) -> xr.Dataset:
    """Verdicts of one sweep, as `verdicts` documents them; the arguments are not checked."""
    sweep = sweep.sortby("epoch").transpose("layer", "epoch", ...)
    final = float(sweep.attrs["final_error"])
    allowed = margin_of(threshold, margin, final, float(sweep.attrs["chance_error"]))
    whole = _measured(sweep)
    trained = sweep["epoch"].values == sweep.attrs.get("final_epoch")
    tested = whole & ~trained & (allowed >= 0)
    p = _tests(sweep, tested, allowed)
    states = np.where(trained, "trained", np.where(tested, "open", "not measured")).astype(object)
    states[p["p_within_holm"] <= level] = "within"
    states[p["p_beyond_holm"] <= level] = "beyond"
    epochs = [int(epoch) for epoch in sweep["epoch"].values]
    unit = str(sweep.attrs.get("checkpoint_unit", "epoch"))
    profiles = [
        Profile(epochs, list(states[row]), {name: found[row] for name, found in p.items()}, unit)
        for row in range(len(states))
    ]
    because = [one.because if allowed >= 0 else _no_margin(final) for one in profiles]
    rises = np.logical_or(_rises(sweep, whole, level), [one.sinks for one in profiles])
    cells = {**p, "state": states}
    return xr.Dataset(
        {
            **{name: (sweep[name].dims, sweep[name].values) for name in ("error", *_COUNTS)},
            **{name: (("layer", "epoch"), cells[name], a) for name, a in _OVER_CELLS.items()},
            "verdict": ("layer", np.array([one.verdict for one in profiles], object)),
            "recovery": ("layer", np.array([one.recovery for one in profiles], float)),
            "not_monotone": ("layer", rises),
            "because": ("layer", np.array(because, object)),
        },
        {"layer": sweep["layer"].values, "epoch": epochs},
        {
            **sweep.attrs,
            "margin": allowed,
            "threshold": np.nan if margin is not None else threshold,
            "level": level,
            "tests": 2 * int(tested.sum()),
            "correction": "Holm over both one-sided tests of every cell of the run",
        },
    )


def _no_margin(final: float) -> str:
    """Why nothing can be tested."""
    if np.isnan(final):
        return "The error of the trained network is not known."
    return "The trained network is worse than chance: there is no way from it to chance."


def _measured(sweep: xr.Dataset) -> NDArray[np.bool_]:
    """Cells that are measured on all examples; when to stop others depended on their numbers."""
    found: NDArray[np.bool_] = np.isfinite(sweep["error"].values) & (
        sweep["examples"].values == sweep.attrs["examples"]
    )
    return found


def _tests(
    sweep: xr.Dataset, tested: NDArray[np.bool_], margin: float
) -> dict[str, NDArray[np.float64]]:
    """Increase and p values of each cell, NaN where it is not tested."""
    names = ("increase", "p_mcnemar", "p_within", "p_beyond")
    found = {name: np.full(tested.shape, np.nan) for name in names}
    for at in zip(*np.nonzero(tested), strict=True):
        wrong, right, n = (int(sweep[name].values[at]) for name in _COUNTS)
        values = (
            (wrong - right) / n,
            mcnemar(wrong, right),
            p_within(wrong, right, n, margin),
            p_beyond(wrong, right, n, margin),
        )
        for name, value in zip(names, values, strict=True):
            found[name][at] = value
    both = holm(np.stack([found["p_within"], found["p_beyond"]]))
    return {**found, "p_within_holm": both[0], "p_beyond_holm": both[1]}


def _rises(sweep: xr.Dataset, whole: NDArray[np.bool_], level: float) -> NDArray[np.bool_]:
    """Layers whose error at a later epoch is above that at an earlier one, all tests at once.

    Two cells differ where their exact intervals, each at `level` over the number of cells, do not
    meet; that both are of the same examples is not used, since a sweep does not keep the answers.
    """
    each = level / max(1, int(whole.sum()))
    shape = whole.shape
    low, high = np.full(shape, np.nan), np.full(shape, np.nan)
    error, examples = sweep["error"].values, sweep["examples"].values
    for at in zip(*np.nonzero(whole), strict=True):
        n = int(examples[at])
        low[at], high[at] = exact_interval(round(error[at] * n), n, each)
    best = np.fmin.accumulate(high, 1)
    return np.asarray((low > best).any(1))


def _named(runs: Any) -> dict[str, Run]:
    """Runs by name; a single one has none."""
    if isinstance(runs, (xr.Dataset, xr.DataTree, str, Path)) or not isinstance(runs, Iterable):
        return {ONLY: runs}
    if isinstance(runs, Mapping):
        return {str(name): one for name, one in runs.items()}
    return {f"run {k}": one for k, one in enumerate(runs)}


def _swept(run: Run, measuring: Mapping[str, Any]) -> xr.Dataset:
    if isinstance(run, xr.DataTree):
        from explorer.engine.sweep import sweep  # a sweep that is there needs no torch

        return sweep(run, **{"draws": 0, **measuring})
    found = open_sweep(run) if isinstance(run, str | Path) else run
    if not isinstance(found, xr.Dataset):
        raise UsageError(
            f"What is to be judged is {found!r}.",
            "A sweep, a stack, the name of one, or several of these are needed.",
            "Pass what explorer.sweep or explorer.open_stack returns.",
        )
    if not {"error", *_COUNTS} <= set(found):
        raise UsageError(
            f"{found.attrs.get('stack', 'This dataset')} has no counts of answers that turned.",
            "A sweep with turned_wrong and turned_right is needed: the tests are paired.",
            "Sweep the stack with explorer.sweep; figures of a paper hold only errors.",
        )
    return found


def _together(judged: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Put runs beside each other, and tell how far they agree."""
    every = list(judged.values())
    if not every:
        raise UsageError(
            "There are no runs.", "At least one sweep is needed.", "Pass a sweep or a stack."
        )
    for name, one in judged.items():
        for dim in ("layer", "epoch"):
            if one[dim].values.tolist() != every[0][dim].values.tolist():
                raise UsageError(
                    f"{name} has other {dim}s than the first run.",
                    f"Runs with the same {dim}s are needed, such as seeds of one recipe.",
                    f"Select the common ones, for example sweep.sel({dim}=[…]).",
                )
    joined = xr.concat(every, "run", combine_attrs="drop_conflicts", join="exact")
    words = joined["verdict"].values  # (run, layer)
    pairs = [(i, j) for j in range(len(words)) for i in range(j)]
    same = np.array([words[i] == words[j] for i, j in pairs], float)
    counted = [np.unique(column.astype(str), return_counts=True) for column in words.T]
    common = [found[count.argmax()] for found, count in counted]
    agreement = same.mean(0) if pairs else np.full(len(words.T), np.nan)
    kept = ("margin", "final_error", "stack", "content_hash")
    told: dict[str, Any] = {
        name: ("run", [one.attrs.get(name, "") for one in every]) for name in kept
    }
    return joined.assign(
        common=("layer", np.array(common, object)), agreement=("layer", agreement)
    ).assign_coords(run=list(judged), **told)
