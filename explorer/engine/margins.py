"""How much larger an error may get: a share of the way to chance, or a difference of errors."""

from __future__ import annotations

from explorer.arguments import fraction


def check_margin(threshold: float, margin: float | None) -> None:
    """Refuse what is no fraction.

    Raises
    ------
    UsageError
        The threshold or the margin is outside 0…1.
    """
    fraction("threshold", threshold, "0.1 is a tenth of the way to chance")
    if margin is not None:
        fraction("margin", margin, "0.01 is one percentage point")


def margin_of(threshold: float, margin: float | None, final: float, chance: float) -> float:
    """Allowed increase of the error: the margin, or the share of the way from final to chance.

    Negative where a network is worse than chance.
    """
    return threshold * (chance - final) if margin is None else margin


def margin_of_resets(threshold: float, margin: float | None, final: float, chance: float) -> float:
    """Return the same, 0 for a network worse than chance: its own error is always allowed."""
    return max(0.0, margin_of(threshold, margin, final, chance))
