"""Mutation testing: ``make mutation ARGS="--sample 300 --seed 0"``.

``--record`` first notes which tests reach which lines (the tests that concern the four folders, a
quarter of an hour on an idle machine). Each trial then runs a mutant's own tests: those that reach
its line, one of each test function after the other, quick ones first, until one fails or the
budget is spent. A sample that was interrupted goes on with those that were not tried.
docs/decisions/0022-mutation-testing.md has the design and what was found.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import libcst as cst

from explorer.engine.intervals import wilson_interval
from tests.mutation import trial
from tests.mutation.mutants import Mutant, Site, make_mutant, sites_of

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("engine", "stats", "weights", "inventory")
EQUIVALENT = Path(__file__).with_name("equivalent.json")
"""Survivors that were looked at and do nothing different: name of the mutant → why."""

ELSEWHERE = (
    *("test_notebooks", "test_servers", "test_set_up", "test_environment"),
    *("test_kills", "test_widget", "test_views", "test_live", "test_escaping", "test_cli"),
)
"""Tests that are not asked: they are about other parts, or look from afar."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Record, or try mutants, and print the scores."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.record:
        return record(options.out / "reached.json")
    trials = options.out / "trials.jsonl"
    if not options.report:
        reached = json.loads((options.out / "reached.json").read_text())
        mutants = _chosen(options, trials)
        print(f"{len(mutants)} mutants")
        try_all(mutants, reached, trials, options.budget)
    print(scores(_latest(trials), json.loads(EQUIVALENT.read_text())))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.run", description=__doc__)
    parser.add_argument("--record", action="store_true", help="note which tests reach which lines")
    parser.add_argument("--sample", type=int, default=300, help="mutants in all (%(default)s)")
    parser.add_argument("--at-least", type=int, default=2, help="of each module (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", default="1/1", help="1/2 and 2/2 in two processes")
    parser.add_argument("--whole", help="all mutants of these: engine/paired,stats/measures")
    parser.add_argument(
        "--survivors", action="store_true", help="those again, with all tests beside"
    )
    parser.add_argument("--report", action="store_true", help="print the scores only")
    parser.add_argument("--budget", type=float, default=15.0, help="processor seconds of tests")
    parser.add_argument("--out", type=Path, default=ROOT / "test-artifacts" / "mutation")
    return parser


# --- which tests ----------------------------------------------------------------------------------


def record(to: Path) -> int:
    """Run the tests once under coverage; a run of part of them can be added by hand."""
    files = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        if path.stem not in ELSEWHERE and not path.stem.endswith("_views")
    ]
    folders = [word for name in FOLDERS for word in ("--lines-of", f"explorer/{name}")]
    run = [sys.executable, "-m", "pytest", "-q", "-m", "not slow and not browser"]
    plugin = ["-p", "tests.mutation.recorder", *folders, "--lines-to", str(to)]
    return subprocess.run([*run, *plugin, *files], cwd=ROOT, check=False).returncode


def chosen_tests(mutant: Mutant, reached: Mapping[str, Any], budget: float) -> list[str]:
    """Choose the tests of a mutant, in the order in which they run.

    First those that reach its line; what runs on import is reached by every test that reaches the
    file at all. Then the others of the same files: a fixture that several share is noted for the
    first of them alone.
    """
    if mutant.file == trial.KERNELS:
        return ["tests/test_kernels.py"]
    of_file = {
        test: set(one["lines"][mutant.file])
        for test, one in reached.items()
        if mutant.file in one["lines"]
    }
    direct = [test for test, lines in of_file.items() if lines.intersection(mutant.lines)]
    direct = in_turn(direct or of_file, reached)
    files = {test.split("::")[0] for test in direct}
    beside = {test for test in reached if test.split("::")[0] in files} - set(direct)
    chosen, spent = [], 0.0
    for test in (*direct, *in_turn(beside, reached)):
        seconds = reached[test]["seconds"]
        if not chosen or spent + seconds <= budget:
            chosen.append(test)
            spent += seconds
    return chosen


def in_turn(tests: Iterable[str], reached: Mapping[str, Any]) -> list[str]:
    """Order tests: the quickest of each function, quick ones first, then the second of each, …"""
    by_function: dict[str, list[str]] = defaultdict(list)
    for test in sorted(tests, key=lambda test: (reached[test]["seconds"], test)):
        by_function[test.split("[")[0]].append(test)
    turns = [
        (number, reached[test]["seconds"], test)
        for variants in by_function.values()
        for number, test in enumerate(variants)
    ]
    return [test for _, _, test in sorted(turns)]


# --- which mutants --------------------------------------------------------------------------------


def _chosen(options: argparse.Namespace, trials: Path) -> list[Mutant]:
    if options.survivors:
        names = {name for name, one in _latest(trials).items() if one["ended"] in ALIVE}
        files = sorted({name.split(" | ")[0] for name in names})
        mutants = [mutant for file in files for mutant in every_mutant(file)]
        mutants = [mutant for mutant in mutants if mutant.name in names]
    elif options.whole:
        files = [f"explorer/{name}.py" for name in options.whole.split(",")]
        mutants = [mutant for file in files for mutant in every_mutant(file)]
    else:
        tried = _latest(trials) if trials.exists() else {}
        drawn = sample(options.sample, options.at_least, options.seed)
        mutants = [mutant for mutant in drawn if mutant.name not in tried]
    number, parts = map(int, options.part.split("/"))
    return mutants[number - 1 :: parts]


def every_mutant(file: str) -> list[Mutant]:
    """Make all mutants of a file."""
    source = (ROOT / file).read_text(encoding="utf-8")
    module, sites = sites_of(source)
    return [make_mutant(file, source, module, site) for site in sites]


def sample(size: int, at_least: int, seed: int) -> Iterator[Mutant]:
    """Draw mutants of each module in proportion to its lines.

    They come in a random order, so that a run which is cut short has tried a sample too.
    """
    files = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for name in FOLDERS
        for path in sorted((ROOT / "explorer" / name).rglob("*.py"))
        if path.name != "__init__.py"
    }
    lines = sum(source.count("\n") for source in files.values())
    counts = {
        file: max(at_least, round(size * source.count("\n") / lines))
        for file, source in files.items()
    }
    places = [(file, number) for file, count in counts.items() for number in range(count)]
    random.Random(seed).shuffle(places)

    @functools.cache
    def drawn(file: str) -> tuple[cst.Module, list[Site]]:
        module, sites = sites_of(files[file])
        chance = random.Random(f"{seed} {file}")
        return module, chance.sample(sites, min(counts[file], len(sites)))

    for file, number in places:
        module, sites = drawn(file)
        if number < len(sites):
            yield make_mutant(file, files[file], module, sites[number])


# --- trials and scores ----------------------------------------------------------------------------

ALIVE = ("survived", "unreached")


def try_all(
    mutants: Iterable[Mutant],
    reached: Mapping[str, Any],
    trials: Path,
    budget: float,
) -> None:
    """Try mutants, each written down at once; then see the tests that failed pass without them."""
    trial.import_heavy()
    with tempfile.TemporaryDirectory() as folder:
        copy = trial.copy_checkout(ROOT, Path(folder) / "copy")
        killers: dict[str, Mutant] = {}
        for mutant in mutants:
            outcome = _try(mutant, reached, copy, chosen_tests(mutant, reached, budget))
            _write(trials, mutant, outcome)
            if outcome.ended == "killed" and "::" in outcome.killer:
                killers.setdefault(outcome.killer, mutant)
        for jit in (True, False):
            tests = [t for t, one in killers.items() if (one.file != trial.KERNELS) == jit]
            if tests:
                found = trial.run_tests(copy, tests, 3600, first=False, jit=jit)
                print(f"{len(tests)} tests that failed, without mutants: {found}")


def _try(
    mutant: Mutant, reached: Mapping[str, Any], copy: Path, tests: Sequence[str]
) -> trial.Outcome:
    if not tests:
        return trial.Outcome("unreached")
    seconds = sum(reached.get(test, {"seconds": 30})["seconds"] for test in tests)
    with trial.changed(copy, mutant.file, mutant.code):
        return trial.run_tests(
            copy,
            tests,
            trial.PROCESSOR + 3 * seconds,
            first=True,
            jit=mutant.file != trial.KERNELS,
        )


def _write(trials: Path, mutant: Mutant, outcome: trial.Outcome) -> None:
    about = {"name": mutant.name, "line": mutant.line, "kind": mutant.kind, **asdict(outcome)}
    print(f"{outcome.ended:<10}{outcome.seconds:>6} s  {mutant.line} {mutant.name}", flush=True)
    with trials.open("a", encoding="utf-8") as file:
        file.write(json.dumps(about, ensure_ascii=False) + "\n")


def _latest(trials: Path) -> dict[str, dict[str, Any]]:
    lines = map(json.loads, trials.read_text(encoding="utf-8").splitlines())
    return {line["name"]: line for line in lines}


def scores(trials: Mapping[str, Mapping[str, Any]], equivalent: Mapping[str, str]) -> str:
    """Write a table: per folder how many were killed, of all and without the equivalent ones."""
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in trials.values():
        rows[one["name"].split("/")[1]].append(one)
        rows["all"].append(one)
    table = [
        "| folder | mutants | killed | of them by time | equivalent | score | without equivalent |"
    ]
    table.append("|---|---|---|---|---|---|---|")
    for folder in (*FOLDERS, "all"):
        tried = rows[folder]
        killed = sum(one["ended"] not in ALIVE for one in tried)
        slow = sum(one["ended"] == "timeout" for one in tried)
        same = sum(one["name"] in equivalent and one["ended"] in ALIVE for one in tried)
        cells = (folder, len(tried), killed, slow, same, share(killed, len(tried)))
        table.append(f"| {' | '.join(map(str, cells))} | {share(killed, len(tried) - same)} |")
    return "\n".join(table)


def share(killed: int, tried: int) -> str:
    """Write a share in per cent with Wilson's 95 % interval."""
    if not tried:
        return "–"
    low, high = wilson_interval(killed, tried)
    return f"{100 * killed / tried:.1f} % ({100 * low:.1f}…{100 * high:.1f})"


if __name__ == "__main__":
    sys.exit(main())
