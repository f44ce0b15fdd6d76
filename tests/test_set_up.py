"""scripts/set_up.py: what it does on a machine where something is missing, and how it stops."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "set_up.py"
MAKE = shutil.which("make")


@pytest.fixture
def set_up() -> ModuleType:
    spec = importlib.util.spec_from_file_location("set_up_under_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one module that depends on a package nobody has."""
    root = tmp_path / "project"
    (root / "scripts").mkdir(parents=True)
    shutil.copy(SCRIPT, root / "scripts")
    (root / "constraints.txt").write_text("")
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "nothing"\nversion = "1"\n'
        '[project.optional-dependencies]\ntest = ["hatchling"]\n'
    )
    return root


@pytest.fixture
def installed(project: Path, set_up: ModuleType) -> Path:
    """A project whose environment looks finished; its Python is this one."""
    python = set_up.environment_python(project)
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    stamp = json.dumps(set_up.wanted_stamp(project, False))
    (project / ".venv" / set_up.STAMP).write_text(stamp)
    return project


def parts(message: str) -> list[str]:
    return message.strip().splitlines()


# --- Python ---------------------------------------------------------------------------------------


def test_the_oldest_python_it_turns_away_can_still_read_it() -> None:
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))


def test_newer_grammar_would_be_noticed() -> None:
    with pytest.raises(SyntaxError, match=r"3\.8"):
        ast.parse("while (n := 1): pass", feature_version=(3, 6))


def test_it_imports_the_standard_library_only() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    names += [str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert len(names) >= 12
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def test_a_python_too_old_is_told_what_was_found_what_is_needed_and_what_to_do(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_up, "runs", lambda name: False)
    with pytest.raises(set_up.SetUpError, match=r"This is Python 3\.9\.2 ") as caught:
        set_up.check_python((3, 9, 2), "/usr/bin/python3")
    found, accepted, advice = parts(str(caught.value))
    assert "/usr/bin/python3" in found
    assert "3.11 or newer" in accepted
    assert "PYTHON=python3.12 make lab" in advice


def test_a_newer_python_on_the_machine_is_named(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_up, "runs", lambda name: name == "python3.13")
    with pytest.raises(set_up.SetUpError, match=r"PYTHON=python3\.13 make lab"):
        set_up.check_python((3, 10, 0), "python3")


def test_python_3_11_is_accepted(set_up: ModuleType) -> None:
    set_up.check_python((3, 11, 0), "python3")


def test_a_python_that_is_on_path_but_does_not_start_is_not_offered(
    set_up: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = tmp_path / "python3.14"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("python3.14")
    assert not set_up.runs("python3.14")
    assert not set_up.runs("python3.13")


# --- the environment ------------------------------------------------------------------------------


def test_a_python_without_venv_is_told_the_package_to_install(
    set_up: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_up.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(set_up.shutil, "which", lambda name: None)
    with pytest.raises(set_up.SetUpError, match="venv or ensurepip is missing") as caught:
        set_up.install(project, False)
    assert len(parts(str(caught.value))) == 3
    assert "sudo apt install python3-venv" in str(caught.value)
    assert not (project / ".venv").exists()


def test_virtualenv_or_uv_makes_the_environment_where_venv_is_missing(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_up.importlib.util, "find_spec", lambda name: name == "virtualenv")
    assert "virtualenv" in set_up.environment_command(Path("x"))
    monkeypatch.setattr(set_up.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(set_up.shutil, "which", lambda name: "/bin/uv" if name == "uv" else None)
    assert set_up.environment_command(Path("x"))[:2] == ["uv", "venv"]


def test_a_folder_without_write_permission_is_named(
    set_up: ModuleType, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_up.os, "access", lambda path, mode: False)
    with pytest.raises(set_up.SetUpError, match="Nothing can be written in") as caught:
        set_up.install(project, False)
    assert str(project) in parts(str(caught.value))[0]
    assert len(parts(str(caught.value))) == 3


def test_a_second_run_does_and_says_nothing_and_is_fast(
    set_up: ModuleType,
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("the second run started something")

    monkeypatch.setattr(set_up, "install", never)
    monkeypatch.setattr(set_up.subprocess, "run", never)
    monkeypatch.setattr(set_up.subprocess, "Popen", never)
    own = ".".join(map(str, sys.version_info[:3]))
    (installed / ".venv" / "pyvenv.cfg").write_text(f"version = {own}\n")
    began = time.monotonic()
    assert set_up.main([], installed) == 0
    assert capsys.readouterr().out == ""
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_input_makes_the_next_run_install_again(
    set_up: ModuleType, installed: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    calls: list[tuple[Path, bool]] = []
    monkeypatch.setattr(set_up, "run_pip", lambda root, tests: calls.append((root, tests)))
    with (installed / name).open("a") as file:
        file.write("# changed\n")
    assert set_up.main([], installed) == 0
    assert calls == [(installed, False)]
    assert set_up.is_up_to_date(installed, False)
    assert set_up.environment_python(installed).exists()


def test_what_the_tests_need_is_installed_when_it_is_asked_for_and_kept_up_to_date(
    set_up: ModuleType, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(set_up, "run_pip", lambda root, tests: calls.append(tests))
    assert set_up.main(["--tests"], installed) == 0
    assert calls == [True]
    assert set_up.main([], installed) == 0
    assert set_up.main(["--tests"], installed) == 0
    assert calls == [True]  # both are up to date
    with (installed / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert set_up.main([], installed) == 0
    assert calls == [True, True]


@pytest.mark.parametrize(("tests", "wanted"), [(False, ".[hub]"), (True, ".[test,docs]")])
def test_readers_get_the_package_without_what_only_tests_need(
    set_up: ModuleType,
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
    tests: bool,
    wanted: str,
) -> None:
    commands: list[list[str]] = []

    def wait_for(command: list[str], _folder: Path, _errors: object) -> int:
        commands.append(command)
        return 0

    monkeypatch.setattr(set_up, "wait_for", wait_for)
    set_up.run_pip(installed, tests)
    assert commands[0][-2:] == ["--editable", wanted]


@pytest.mark.parametrize("line", ["version = 3.14.1", "version_info = 3.14.1.final.0"])
def test_an_environment_of_another_python_is_used_but_mentioned(
    set_up: ModuleType, installed: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    (installed / ".venv" / "pyvenv.cfg").write_text(f"home = /usr/bin\n{line}\n")
    assert set_up.main([], installed) == 0
    note = capsys.readouterr().out
    assert note.startswith(".venv was made with Python 3.14; delete it to change to ")


def interrupt(set_up: ModuleType, root: Path) -> None:
    (root / ".venv" / set_up.STARTED).touch()
    (root / ".venv" / set_up.STAMP).unlink()


def move(set_up: ModuleType, root: Path) -> None:
    (root / ".venv" / set_up.STAMP).write_text('{"inputs": "?", "folder": "/elsewhere"}')


def lose_python(set_up: ModuleType, root: Path) -> None:
    set_up.environment_python(root).unlink()


def break_python(set_up: ModuleType, root: Path) -> None:
    lose_python(set_up, root)
    set_up.environment_python(root).write_text("#!/bin/sh\nexit 1\n")
    set_up.environment_python(root).chmod(0o755)
    (root / ".venv" / set_up.STAMP).unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (interrupt, "an earlier installation was interrupted"),
        (move, "it was made in another folder"),
        (lose_python, "it is incomplete"),
        (break_python, "its Python is broken"),
    ],
)
def test_a_half_made_or_moved_environment_is_made_anew(
    set_up: ModuleType,
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[ModuleType, Path], None],
    reason: str,
) -> None:
    made: list[Path] = []

    def make_environment(root: Path) -> None:
        made.append(root)
        (root / ".venv").mkdir()

    monkeypatch.setattr(set_up, "make_environment", make_environment)
    monkeypatch.setattr(set_up, "run_pip", lambda root, tests: None)
    left_over = installed / ".venv" / "left-over"
    left_over.touch()
    damage(set_up, installed)
    assert set_up.main([], installed) == 0
    assert made == [installed]
    assert reason in capsys.readouterr().out
    assert not left_over.exists()


def test_an_interrupted_installation_leaves_a_mark_and_no_stamp(
    set_up: ModuleType, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(root: Path, tests: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(set_up, "run_pip", stop)
    (installed / "constraints.txt").write_text("# changed\n")
    assert set_up.main([], installed) == 130
    assert (installed / ".venv" / set_up.STARTED).exists()
    assert not (installed / ".venv" / set_up.STAMP).exists()


@pytest.mark.skipif(os.name == "nt", reason="no lock on a folder on Windows")
def test_a_second_set_up_in_the_same_folder_waits_for_the_first(
    set_up: ModuleType, project: Path
) -> None:
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('s', {str(SCRIPT)!r})\n"
        "s = importlib.util.module_from_spec(spec); spec.loader.exec_module(s)\n"
        f"with s.only_one({str(project)!r}): print('in', flush=True)\n"
    )
    with set_up.only_one(project):
        second = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert "waiting" in second.stdout.readline()
    rest, _ = second.communicate(timeout=20)
    assert rest.split() == ["in"]


# --- pip ------------------------------------------------------------------------------------------


def test_an_index_that_cannot_be_reached_is_said_in_three_parts(project: Path) -> None:
    pip_free = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    closed_port = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "1",
        "PIP_TIMEOUT": "2",
        "no_proxy": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, str(project / "scripts" / "set_up.py")],
        env={**pip_free, **closed_port},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1
    title, found, accepted, advice = parts(done.stderr)
    assert title == "set-up stopped"
    assert "The package index cannot be reached" in found
    assert "needs the internet" in accepted
    assert "run the same command again" in advice
    assert "Traceback" not in done.stderr
    assert "downloads about" in done.stdout
    assert not (project / ".venv" / "set-up-started").exists()
    assert not (project / ".venv" / "set-up-done.json").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Retrying: Temporary failure in name resolution", "index cannot be reached"),
        ("NewConnectionError: Failed to establish a new connection", "index cannot be reached"),
        ("ReadTimeoutError: Read timed out.", "index cannot be reached"),
        ("ERROR: Could not find a version of x (from versions: none)", "index cannot be reached"),
        ("OSError: [Errno 28] No space left on device", "The disk is full"),
        ("Connection broken: OSError(28, 'No space left on device')", "The disk is full"),
        ("[Errno 13] Permission denied: '/x'", "Nothing can be written"),
        ("ERROR: Cannot install a and b because of conflicts", "Its last words"),
        ("", "Its last words"),
    ],
)
def test_what_pip_said_decides_what_the_reader_is_told(
    set_up: ModuleType, tmp_path: Path, text: str, sentence: str
) -> None:
    message = str(set_up.explain(tmp_path, "pip could not install the packages.", text))
    assert sentence in message
    assert len(parts(message)) >= 3
    assert message.endswith(".")


def test_a_long_installation_gives_signs_of_life(
    set_up: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(set_up, "SECONDS_BETWEEN_SIGNS_OF_LIFE", 0.05)
    command = [sys.executable, "-c", "import time; time.sleep(0.4); raise SystemExit(3)"]
    with (tmp_path / "errors").open("w") as errors:
        assert set_up.wait_for(command, tmp_path, errors) == 3
    assert "still at work" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="no process groups on Windows")
def test_an_interrupted_installation_leaves_no_process_behind(
    set_up: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child"
    code = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(child)!r}).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )

    def interrupt_when_both_run(text: str) -> None:
        if child.exists() and child.read_text():
            raise KeyboardInterrupt("both run")

    monkeypatch.setattr(set_up, "SECONDS_BETWEEN_SIGNS_OF_LIFE", 0.05)
    monkeypatch.setattr(set_up, "say", interrupt_when_both_run)
    interrupted = pytest.raises(KeyboardInterrupt, match="both run")
    with (tmp_path / "errors").open("w") as errors, interrupted:
        set_up.wait_for([sys.executable, "-c", code], tmp_path, errors)
    wait_until_gone(int(child.read_text()))


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/stat")
        if status.exists() and ") Z " in status.read_text():  # gone, nobody has asked for its end
            return
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} is still there")


# --- a browser ------------------------------------------------------------------------------------


def test_a_browser_on_path_is_enough(
    set_up: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = tmp_path / "google-chrome"
    browser.write_text("#!/bin/sh\n")
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(set_up, "try_installer", lambda command: pytest.fail("installs"))
    assert set_up.find_browser(tmp_path) == str(browser)
    set_up.ensure_browser(tmp_path)


def test_without_a_browser_the_notice_is_loud_and_the_set_up_goes_on(
    set_up: ModuleType,
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(set_up, "find_browser", lambda root: None)
    monkeypatch.setattr(set_up, "try_installer", lambda command: "no network")
    assert set_up.main(["--browser"], installed) == 0
    notice = capsys.readouterr().err
    assert "NO BROWSER" in notice
    assert "SKIPPED" in notice
    assert "no network" in notice


def test_installers_run_one_after_the_other_until_there_is_a_browser(
    set_up: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    monkeypatch.setattr(set_up, "browser_installers", lambda root: [["one"], ["two"], ["three"]])
    monkeypatch.setattr(set_up, "try_installer", lambda command: log.append(command[0]) or "done")
    monkeypatch.setattr(set_up, "find_browser", lambda root: log[-1:] == ["two"] or None)
    set_up.ensure_browser(tmp_path)
    assert log == ["one", "two"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no root on Windows")
def test_root_takes_debians_browser_and_others_playwrights(
    set_up: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_up.shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.setattr(set_up.os, "geteuid", lambda: 0)
    assert [c[0] for c in set_up.browser_installers(tmp_path)][:2] == ["apt-get", "apt-get"]
    monkeypatch.setattr(set_up.os, "geteuid", lambda: 1000)
    [command] = set_up.browser_installers(tmp_path)
    assert command[-3:] == ["playwright", "install", "chromium"]


@pytest.mark.parametrize(
    ("command", "end"),
    [
        ([sys.executable, "-c", "pass"], "done"),
        ([sys.executable, "-c", "print('E: no lock'); raise SystemExit(100)"], "E: no lock"),
        ([sys.executable, "-c", "print('Error: 404\\n  at x.js'); exit(1)"], "Error: 404"),
        ([sys.executable, "-c", "exit(1)"], "(no message)"),
        (["/no/such/installer"], "No such file"),
        ([sys.executable, "-c", "import time; time.sleep(30)"], "stopped after 1 s"),
    ],
)
def test_how_an_installer_ended_is_told_in_a_line(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, command: list[str], end: str
) -> None:
    monkeypatch.setattr(set_up, "BROWSER_TIME_LIMIT", 1)
    assert end in set_up.try_installer(command)


# --- make -----------------------------------------------------------------------------------------


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert MAKE is not None
    command = [MAKE, "--no-print-directory", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


needs_make = pytest.mark.skipif(MAKE is None, reason="there is no make on this machine")


@needs_make
def test_make_alone_lists_every_target_with_a_word_on_it() -> None:
    shown = make().stdout
    assert shown == make("help").stdout
    targets = ("lab", "dashboard", "demo", "test", "test-slow", "lint", "format", "bench", "bundle")
    for target in targets:
        [line] = [line for line in shown.splitlines() if line.split()[:2] == ["make", target]]
        assert len(line.split()) > 4


@needs_make
def test_make_says_what_to_do_when_there_is_no_python() -> None:
    done = make("set-up", "PYTHON=no-such-python")
    assert done.returncode != 0
    assert "There is no no-such-python. Python 3.11 or newer is needed." in done.stdout
    assert "PYTHON=python3.12 make lab" in done.stdout


@needs_make
def test_make_test_runs_the_kernels_uncompiled_before_and_pytest_last() -> None:
    lines = make("-n", "test").stdout.splitlines()
    assert any("--browser" in line for line in lines)
    [kernels] = [n for n, line in enumerate(lines) if line.startswith("NUMBA_DISABLE_JIT=1")]
    assert kernels == len(lines) - 2
    assert "-m pytest" in lines[-1]


@needs_make
@pytest.mark.parametrize("target", ["lab", "dashboard"])
def test_make_hands_on_the_port_and_what_else_is_asked_for(target: str) -> None:
    said = make("-n", target, "PORT=9999", "ARGS=--no-browser").stdout.splitlines()[-1]
    assert said.endswith(f"explorer {target} --port 9999 --no-browser")
