"""One mutant against its tests, in a child of a process that has the heavy imports behind it.

The child sees a copy of the checkout in which the one file is changed, so that what it imports, and
what programs it starts import, is the mutant. Needs os.fork.
"""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HEAVY = (
    *("torch", "torchvision", "xarray", "pandas", "numba", "sklearn.datasets", "scipy.stats"),
    *("scipy.sparse.linalg", "safetensors.torch", "h5netcdf", "zarr", "jsonschema", "PIL.Image"),
    *("pytest", "_pytest.assertion.rewrite", "hypothesis.strategies", "distributed", "tqdm.auto"),
)
OURS = ("explorer", "tests")
KERNELS = "explorer/stats/kernels.py"
"""Compiled code is not seen by coverage; its mutants run as plain Python."""

PROCESSOR = 60.0
"""Seconds of processor time that a trial may take beyond three times what its tests took."""

PATIENCE = 20
"""As long again, this many times, on the clock: the machine may have other work."""

FAILED = 70
"""How a child ends that did not come as far as its tests; pytest has no such code."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    ended: str
    """killed, survived, timeout, or unreached where no test runs the changed line."""

    killer: str = ""
    """The test that failed first."""

    tests: int = 0
    """Tests that were chosen."""

    seconds: float = 0.0
    """On the clock."""


def import_heavy() -> None:
    """Import what takes seconds, but nothing of ours: each trial imports that anew."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["CI"] = "true"  # hypothesis then draws the same examples each time
    for name in HEAVY:
        importlib.import_module(name)


def copy_checkout(root: Path, to: Path) -> Path:
    """Copy what git knows of a checkout, times included; compiled code then stays valid."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    return to


@contextmanager
def changed(copy: Path, file: str, code: str) -> Iterator[None]:
    """Put a mutant into a copy, and the file back afterwards."""
    path = copy / file
    original = path.with_suffix(".original")
    shutil.copy2(path, original)
    # Python takes compiled code for valid by the second and the size of its source.
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()
    try:
        path.write_text(code, encoding="utf-8")
        yield
    finally:
        os.replace(original, path)


def run_tests(copy: Path, tests: Sequence[str], limit: float, *, first: bool, jit: bool) -> Outcome:
    """Run tests in a copy until the first fails (or all of them) and say how it ended."""
    started = time.monotonic()
    failed = copy / "failed.txt"
    failed.write_text("")
    (copy / "tests.txt").write_text("\n".join(tests))
    child = os.fork()
    if child == 0:
        try:
            _be_the_child(copy, limit, first, jit)
        finally:
            os._exit(FAILED)
    code = _wait(child, started + PATIENCE * limit)
    killers = " ".join(failed.read_text().split("\n")).strip()
    seconds = round(time.monotonic() - started, 1)
    if code in (5, FAILED) or (code == 4 and not _cannot_be_imported(copy)):
        raise RuntimeError(f"The tests did not run, see {copy / 'output.txt'}: {tests}")
    ended = {0: "survived", 1: "killed", 2: "killed", 3: "killed", 4: "killed"}.get(code, "timeout")
    return Outcome(ended, killers or f"exit {code}" * (code != 0), len(tests), seconds)


def _cannot_be_imported(copy: Path) -> bool:
    """Say whether the mutant ends before its tests: in a file's imports, or in their names."""
    output = (copy / "output.txt").read_text(errors="replace")
    signs = ("while loading conftest", "ERROR: not found", "ERROR collecting")
    return any(sign in output for sign in signs)


def _wait(child: int, until: float) -> int:
    """Wait for a child; -signal where one ended it, as when its processor time is over."""
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # programs that it has left behind
    return os.waitstatus_to_exitcode(status)


def _be_the_child(copy: Path, limit: float, first: bool, jit: bool) -> None:
    _set_apart()
    _, hardest = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(limit) if hardest == resource.RLIM_INFINITY else min(int(limit), hardest)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hardest))
    with (copy / "output.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
        del sys.modules[name]
    os.chdir(copy)
    others = [p for p in sys.path if p and not (Path(p) / "explorer/api.py").exists()]
    sys.path[:] = [str(copy), *others]
    importlib.invalidate_caches()
    import numba
    import pytest

    numba.config.DISABLE_JIT = not jit

    class Failures:
        """Writes down what failed; a test that is interrupted has not."""

        @staticmethod
        def pytest_runtest_logreport(report: pytest.TestReport) -> None:
            if report.failed:
                with (copy / "failed.txt").open("a") as file:
                    file.write(report.nodeid + "\n")

    options = ["-q", "-p", "no:cacheprovider", "--timeout", "0", "-m", "", *["-x"] * first]
    code = int(pytest.main([*options, "@tests.txt"], plugins=[Failures()]))
    sys.stdout.flush()
    os._exit(code)


def _set_apart() -> None:
    """Begin a session, so that all of it can be ended; its priority stays that of the parent.

    Linux's scheduler takes a session for a group of its own, whose priority begins in the middle.
    """
    group = Path("/proc/self/autogroup")  # "/autogroup-12 nice 15"
    priority = group.read_text().split()[-1] if group.exists() else ""
    os.setsid()
    if priority:
        with suppress(OSError):
            group.write_text(priority)
