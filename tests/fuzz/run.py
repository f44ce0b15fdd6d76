"""Fuzz guided by coverage: ``make fuzz ARGS="--minutes 5 --targets pickle,index"``.

One process of libFuzzer takes all targets in turn, which costs the imports once; this one counts,
starts it again where an input has ended it, and keeps what broke a promise in ``--findings``.
Needs atheris, the extra ``fuzz``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

# What is fuzzed is imported inside functions: in libFuzzer's process first atheris has to be there,
# to count its branches.

LONGEST_INPUT = 16_384
HANGING = 20
"""Seconds after which an input is taken for one that never ends."""

MEMORY = 4096
"""Megabytes of the process, which has torch and the rest in it."""

COUNTED_EACH = 50
"""Inputs after which the counts are written; libFuzzer ends a process without a word."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, and print how many inputs each target had; returns 1 if a promise was broken."""
    options = _parser().parse_args(arguments)
    if options.inside:
        _fuzz(options.inside, options.findings, options.rest)
    from tests.fuzz.targets import TARGETS

    names = options.targets.split(",") if options.targets else list(TARGETS)
    unknown = set(names) - set(TARGETS)
    if unknown:
        raise SystemExit(f"There is no target {', '.join(unknown)}; known: {', '.join(TARGETS)}")
    options.findings.mkdir(parents=True, exist_ok=True)
    _run(names, options)
    counts = _counted(options.findings)
    for name, count in sorted(counts.items()):
        print(f"{name:<14}{count:>10,} inputs")
    broken = [path for path in options.findings.glob("*/*") if path.parent.name in TARGETS]
    print(
        f"{'in all':<14}{sum(counts.values()):>10,} inputs, {len(broken)} kinds of broken promises"
    )
    return int(bool(broken))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--targets", help="names with commas between them; default all")
    parser.add_argument("--findings", type=Path, default=Path("test-artifacts/fuzz"))
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    return parser


def _counted(findings: Path) -> Counter[str]:
    """How many inputs each target had, over all runs with this folder of findings."""
    file = findings / "counts.json"
    return Counter(json.loads(file.read_text()) if file.is_file() else {})


def _run(names: Sequence[str], options: argparse.Namespace) -> None:
    """Fuzz until the time is over, and go on after what ends the process."""
    from tests.fuzz.targets import inputs_of

    end = time.monotonic() + 60 * options.minutes
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        work = Path(folder)
        (work / "corpus").mkdir()
        for name in names:
            for path in inputs_of(name):
                marked = name.encode() + b"\0" + path.read_bytes()
                (work / "corpus" / f"{name}-{path.name}").write_bytes(marked)
        while (left := end - time.monotonic()) > 5:
            command = [
                *(sys.executable, "-m", "tests.fuzz.run", "--inside", str(work)),
                *("--findings", str(options.findings), "--", str(work / "corpus")),
                *(f"-max_total_time={int(left)}", f"-max_len={LONGEST_INPUT}"),
                *(f"-timeout={HANGING}", f"-rss_limit_mb={MEMORY}"),
                f"-artifact_prefix={options.findings}/",
            ]
            with (options.findings / "log.txt").open("ab") as log:
                done = subprocess.run(command, stdout=log, stderr=log)
            if done.returncode:
                print(f"libFuzzer was ended ({done.returncode}); log.txt says why", flush=True)
        for path in (work / "corpus").iterdir():
            name, _, data = path.read_bytes().partition(b"\0")
            kept = options.findings / "corpus" / name.decode(errors="replace") / path.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(data)


def _fuzz(work: Path, findings: Path, arguments: Sequence[str]) -> None:
    """Fuzz in this process; never returns."""
    import atheris

    compiled = ["explorer.stats.kernels"]  # numba does not understand what counts branches
    with atheris.instrument_imports(["explorer"], compiled, enable_loader_override=False):
        import tests.fuzz.targets  # noqa: F401
    logging.disable(logging.CRITICAL)
    atheris.Setup([sys.argv[0], *arguments], _once(work, findings), custom_mutator=_change)
    atheris.Fuzz()


def _once(work: Path, findings: Path) -> Callable[[bytes], None]:
    from tests.fuzz.limits import PromiseError
    from tests.fuzz.targets import TARGETS, promise

    counts = _counted(findings)
    kinds: set[str] = set()
    number = itertools.count()

    def once(marked: bytes) -> None:
        start, _, data = marked.partition(b"\0")
        name = start.decode(errors="replace")
        if name not in TARGETS:  # libFuzzer tries the empty input first
            return
        counts[name] += 1
        if counts.total() % COUNTED_EACH == 0:
            (findings / "counts.json").write_text(json.dumps(counts))
        try:
            promise(name, data, work, f"input-{next(number)}")
        except PromiseError as error:  # each kind is kept once, and fuzzing goes on
            kind = f"{name}/{_kind(error)}"
            if kind not in kinds:
                kinds.add(kind)
                (findings / name).mkdir(exist_ok=True)
                (findings / kind).write_bytes(data)
                print(f"{kind}: {error}", file=sys.stderr, flush=True)

    return once


def _change(marked: bytes, longest: int, seed: int) -> bytes:
    """One change in four is libFuzzer's own; the target stays."""
    import atheris

    from tests.fuzz.mutators import mutated

    start, zero, data = marked.partition(b"\0")
    if seed % 4 == 0:
        changed = bytes(atheris.Mutate(data, longest - len(start) - 1))
    else:
        changed = mutated(data, random.Random(seed))
    whole = start + zero + changed
    return whole if len(whole) <= longest else marked


def _kind(error: BaseException) -> str:
    """Class of what went wrong, and where in our code."""
    cause = error.__cause__
    if cause is None:
        return re.sub(r"\W+", "-", str(error)[:40])
    places, at = [], cause.__traceback__
    while at is not None:
        places.append((at.tb_frame.f_code.co_filename, at.tb_lineno))
        at = at.tb_next
    ours = [place for place in places if "explorer" in Path(place[0]).parts] or places
    file, line = ours[-1]
    return f"{type(cause).__name__}-{Path(file).stem}-{line}"


if __name__ == "__main__":
    raise SystemExit(main())
