"""How the cells of a sweep are shared out: groups that keep what their prefixes have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from explorer.engine.interventions import Intervention

FIRST_SHARE = 2
"""A group takes this part of what is left for each worker: half of it, then half of the rest, …"""

SMALLEST_SHARE = 16
"""A group is no smaller than this part of a worker's share: each walks the intact pass once."""


def share_out(
    interventions: Iterable[Intervention], layers: Sequence[str], workers: int
) -> list[tuple[Intervention, ...]]:
    """Group interventions for the workers of a cluster, the most expensive group first.

    All cells of a layer, or of neighbouring layers, stay together: a group computes what lies
    before its first layer only once. Groups become smaller towards the end (guided
    self-scheduling), so that no worker waits long for the last one.

    Parameters
    ----------
    interventions : iterable of Intervention
        Each once.
    layers : sequence of str
        All layers of the network, in forward order.
    workers : int
        Workers that measure at the same time, ≥ 1.

    Returns
    -------
    list of tuple of Intervention
        Every intervention in exactly one of them.

    References
    ----------
    Polychronopoulos, Kuck, *Guided self-scheduling*, IEEE Trans. Computers C-36(12), 1987.
    """
    position = {layer: place for place, layer in enumerate(layers)}

    def first(intervention: Intervention) -> int:
        """Place of the first layer that changes; behind the last one where nothing does."""
        return min((position[layer] for layer in intervention.layers), default=len(layers))

    # joint interventions first: they share nothing, and cost the most
    ordered = sorted(interventions, key=lambda i: (len(i.layers) < 2, first(i)))
    cost = {i: 1.0 - first(i) / (len(layers) + 1) for i in ordered}  # the share that runs again
    left = sum(cost.values())
    least = left / (workers * SMALLEST_SHARE)
    groups: list[tuple[Intervention, ...]] = []
    start = 0
    while start < len(ordered):
        limit = max(left / (workers * FIRST_SHARE), least)
        stop = _as_many(ordered, start, cost, limit)
        groups.append(tuple(ordered[start:stop]))
        left -= sum(cost[i] for i in groups[-1])
        start = stop
    return groups


def _as_many(
    ordered: Sequence[Intervention], start: int, cost: Mapping[Intervention, float], limit: float
) -> int:
    """End of a group that begins at `start`: one cell, and more while they stay within a limit."""
    stop, used = start + 1, cost[ordered[start]]
    while stop < len(ordered) and used + cost[ordered[stop]] <= limit:
        used += cost[ordered[stop]]
        stop += 1
    return stop


def assign_devices(visible: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Give each worker one of the devices it sees, each device to as few workers as possible.

    Workers that see the same devices take turns; one that was started for a device of its own,
    which it sees first or alone, gets that one.

    Parameters
    ----------
    visible : mapping
        Worker → identities of its devices, in the order of their numbers there.

    Returns
    -------
    dict
        Worker → number of its device; workers that see none are left out.
    """
    users: dict[str, int] = {}
    chosen = {}
    for worker, devices in sorted(visible.items()):
        if not devices:
            continue
        number = min(range(len(devices)), key=lambda k: users.get(devices[k], 0))
        users[devices[number]] = users.get(devices[number], 0) + 1
        chosen[worker] = number
    return chosen
