"""Faults that are certain: files, names, shapes, repeated checkpoints, numbers that are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from explorer.doctor.findings import Examined, Finding, some
from explorer.doctor.passage import Chart
from explorer.doctor.patient import Item, Patient

_PUT_BACK = "Put the original file back, or leave this checkpoint out."


def examined(patient: Patient, chart: Chart) -> tuple[Examined, ...]:
    """State of each checkpoint's file."""
    return tuple(
        Examined(item.number, item.file, _state(k, item, chart))
        for k, item in enumerate(patient.items)
    )


def hash_findings(patient: Patient, checkpoints: Sequence[Examined]) -> Iterator[Finding]:
    """Compare the files with their hashes, where those are known."""
    recorded = [item for item in patient.items if item.record is not None]
    for one in checkpoints:
        if one.state == "altered":
            yield Finding(
                "error",
                "hashes",
                f"{one.file} has another sha256 than was written down for it: it has been altered.",
                _PUT_BACK,
                (one.epoch,),
            )
    verified = sum(one.state == "verified" for one in checkpoints)
    if verified:
        yield Finding("ok", "hashes", f"{verified} of {len(recorded)} files have the known sha256.")
    if not recorded:
        yield Finding(
            "note",
            "hashes",
            "Unverified: no hash of these checkpoints is known, and no format notices a flipped "
            "bit.",
            "Keep the sha256 of each file beside them, as explorer train does in its stack.json.",
        )


def presence_findings(patient: Patient, chart: Chart) -> Iterator[Finding]:
    """Checkpoints that are missing, cut off, unreadable or without some tensor."""
    whole = 0
    for k, item in enumerate(patient.items):
        fault = _fault(item) or chart.problems.get(k, "")
        lacking = [name for name in patient.specs if name not in item.specs]
        beyond = [name for name in item.specs if name not in patient.specs]
        if fault:
            yield Finding("error", "checkpoints", fault, _PUT_BACK, (item.number,))
        elif lacking or beyond:
            parts = [f"lacks {some(lacking)}"] if lacking else []
            parts += [f"has {some(beyond)} beyond the others"] if beyond else []
            yield Finding(
                "error",
                "checkpoints",
                f"Incomplete or of another network: {item.file} {' and '.join(parts)}.",
                "Save or fetch it again, or leave it out.",
                (item.number,),
                layer=patient.layer_of[lacking[0]] if len(lacking) == 1 else "",
                tensor=lacking[0] if len(lacking) == 1 else "",
            )
        else:
            whole += 1
    if whole:
        of = len(patient.items)
        yield Finding("ok", "checkpoints", f"{whole} of {of} can be read and have every tensor.")


def number_findings(patient: Patient) -> Iterator[Finding]:
    """Numbers that stand twice, and gaps in a regular row."""
    numbers = [item.number for item in patient.items]
    twice = {n for n in numbers if numbers.count(n) > 1}
    for number in sorted(twice):
        files = [item.file for item in patient.items if item.number == number]
        yield Finding(
            "error",
            "numbers",
            f"{some(files)} have the same number.",
            "Give each checkpoint a number of its own, or pass epochs=.",
            (number,),
        )
    missing = _gaps(numbers)
    if missing:
        yield Finding(
            "note",
            "numbers",
            f"Perhaps missing, since those around them are equally far apart: {some(missing, 8)}.",
            "Fetch them, if the run kept them.",
        )


def spec_findings(patient: Patient) -> Iterator[Finding]:
    """Shapes and dtypes that differ from those of the other checkpoints."""
    quiet = True
    for name, spec in patient.specs.items():
        odd: dict[str, list[int]] = {}
        for item in patient.items:
            if name in item.specs and item.specs[name] != spec:
                other = item.specs[name]
                odd.setdefault(f"{other.dtype} {other.shape}", []).append(item.number)
        for found, numbers in odd.items():
            quiet = False
            yield Finding(
                "error",
                "shapes",
                f"{found} instead of {spec.dtype} {spec.shape}.",
                "Leave out the checkpoints of another network, or convert them.",
                tuple(numbers),
                patient.layer_of[name],
                name,
            )
    if quiet and any(item.specs for item in patient.items):
        yield Finding("ok", "shapes", "Every tensor keeps its shape and dtype.")


def finite_findings(patient: Patient, chart: Chart) -> Iterator[Finding]:
    """NaN and infinite values. What is infinite everywhere in the same way is a mask."""
    for name, at in chart.bad.items():
        nans, infinite = (sum(counts[k] for counts in at.values()) for k in (0, 1))
        mask = not nans and name not in patient.parameters and _unchanged(chart.digests[name])
        yield Finding(
            "note" if mask else "error",
            "finite",
            f"{nans:,} NaN and {infinite:,} infinite values"
            + (", the same in every checkpoint, as a mask has." if mask else "."),
            "" if mask else "Leave these checkpoints out; training had diverged or a file is torn.",
            tuple(patient.items[k].number for k in at),
            patient.layer_of.get(name, ""),
            name,
        )
    if not chart.bad and chart.digests:
        yield Finding("ok", "finite", "No value is NaN or infinite.")


def duplicate_findings(patient: Patient, chart: Chart) -> tuple[list[Finding], frozenset[int]]:
    """Checkpoints that equal another bit for bit, and which positions are no news for the order.

    Neighbours that are equal may be true (training stood still); any other pair cannot be, since
    the network has moved on in between.
    """
    groups: dict[tuple[tuple[str, bytes], ...], list[int]] = {}
    for k in range(len(patient.items)):
        known = tuple((name, at[k]) for name, at in sorted(chart.digests.items()) if k in at)
        if known and k not in chart.problems:
            groups.setdefault(known, []).append(k)
    found, explained = [], set()
    for group in groups.values():
        if len(group) < 2:
            continue
        numbers = tuple(patient.items[k].number for k in group)
        neighbours = all(b - a == 1 for a, b in pairwise(group))
        explained |= set(group)
        if group[-1] == len(patient.items) - 1 and not neighbours:
            explained.discard(group[-1])  # the final model is what it should be
        found.append(_duplicate(patient, numbers, group, neighbours))
    if not found and chart.digests:
        found = [Finding("ok", "duplicates", "No two checkpoints are the same.")]
    return found, frozenset(explained)


def tied_findings(patient: Patient, chart: Chart) -> Iterator[Finding]:
    """Tensors that are the same in every checkpoint: one tensor under several names."""
    groups: dict[tuple[tuple[int, bytes], ...], list[str]] = {}
    for name, at in chart.digests.items():
        if name in chart.varied and name in patient.parameters:
            groups.setdefault(tuple(sorted(at.items())), []).append(name)
    for names in groups.values():
        if len(names) < 2:
            continue
        layers = list(dict.fromkeys(patient.layer_of[name] for name in names))
        apart = len(layers) > 1
        yield Finding(
            "note",
            "tied",
            f"{' and '.join(names)} are the same in every checkpoint: tied weights, or the same "
            "gradient for both" + (f", in the layers {' and '.join(layers)}." if apart else "."),
            "If they are tied, put such layers back together." if apart else "",
            layer="" if apart else layers[0],
            tensor=names[0],
        )


def _state(k: int, item: Item, chart: Chart) -> str:
    if item.record is not None and not item.record.path.is_file():
        return "missing"
    if item.checkpoint is None or k in chart.problems:
        return "unreadable"
    if item.record is None:
        return "unverified"
    return "verified" if chart.hashes.get(k) == item.record.sha256 else "altered"


def _fault(item: Item) -> str:
    """Why a checkpoint cannot be used, from the outside; empty where it can."""
    if item.record is not None:
        if not item.record.path.is_file():
            return f"Missing: {item.file} was written down, but is not there."
        size = item.record.path.stat().st_size
        if size != item.record.bytes:
            what = "Cut off" if size < item.record.bytes else "Too long"
            return f"{what}: {item.file} has {size:,} bytes of {item.record.bytes:,}."
    return f"Cannot be read: {item.problem}" if item.checkpoint is None else ""


def _gaps(numbers: Sequence[int]) -> list[str]:
    """Numbers between two that are a multiple of the usual step apart, with that step around."""
    steps = [b - a for a, b in pairwise(sorted(set(numbers)))]
    missing = []
    for before, here, after, start in zip(
        steps, steps[1:], steps[2:], sorted(set(numbers))[1:], strict=False
    ):
        if before == after and here > before and here % before == 0 and steps.count(before) >= 4:
            missing += [str(start + n) for n in range(before, here, before)]
    return missing


def _unchanged(digests: Mapping[int, bytes]) -> bool:
    return len(set(digests.values())) == 1


def _duplicate(
    patient: Patient, numbers: tuple[int, ...], group: Sequence[int], neighbours: bool
) -> Finding:
    if neighbours:
        return Finding(
            "warning",
            "duplicates",
            "The same bit for bit, one after the other.",
            "Leave one out, unless training stood still there.",
            numbers,
        )
    last = group[-1] == len(patient.items) - 1
    said = (
        f"Holds the final model, that of {patient.unit} {numbers[-1]}, bit for bit."
        if last
        else "The same bit for bit, though others lie between."
    )
    return Finding(
        "error",
        "duplicates",
        said,
        "Fetch or save it again; one of the two is under a wrong number.",
        numbers[:-1] if last else numbers,
    )
