"""Make the folder .venv with everything that Layer Explorer needs; do nothing if it is up to date.

Run by the system's Python before anything is installed: standard library only, and written so that
Python 3.6 can still read it far enough to be told that it is too old.

    python3 scripts/set_up.py             install or update what the explorer needs
    python3 scripts/set_up.py --tests     the same, and what the tests need
    python3 scripts/set_up.py --browser   find or install a browser for the tests as well
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

OLDEST_PYTHON = (3, 11)
NEWER_PYTHONS = ("python3.14", "python3.13", "python3.12", "python3.11")
ENVIRONMENT = ".venv"
STAMP = "set-up-done.json"
STARTED = "set-up-started"
INPUTS = ("pyproject.toml", "constraints.txt")
EXTRAS, TEST_EXTRAS = "[hub]", "[test,docs]"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS_BETWEEN_SIGNS_OF_LIFE = 30
BROWSER_TIME_LIMIT = 900
"""Seconds for one installer of a browser; a mirror that hangs must not hang the tests."""

# What pip writes to stderr, seen with pip 23 to 26 and its urllib3.
NO_INDEX = re.compile(
    r"name resolution|name or service not known|nodename nor servname|getaddrinfo failed"
    r"|failed to establish a new connection|connection (refused|reset|broken|aborted)"
    r"|connection error|max retries exceeded|timed out|network is unreachable|proxyerror"
    r"|cannot connect to proxy|certificate_verify_failed|from versions: none",
    re.IGNORECASE,
)
DISK_FULL = re.compile(
    r"no space left|not enough space|errno 28|disk quota exceeded", re.IGNORECASE
)
NO_PERMISSION = re.compile(
    r"permission denied|access is denied|errno 13|read-only file system", re.IGNORECASE
)


class SetUpError(Exception):
    """A set-up that cannot go on: what came, what would do, what to do."""

    def __init__(self, came, accepted, advice):
        super().__init__("\n".join((came, accepted, advice)))


def main(arguments=None, root=None):
    """Run the set-up; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tests", action="store_true", help="also install what the tests need")
    parser.add_argument("--browser", action="store_true", help="find or install a test browser")
    options = parser.parse_args(arguments)
    root = Path(root or Path(__file__).resolve().parent.parent)
    try:
        check_python(sys.version_info, sys.executable)
        if not is_up_to_date(root, options.tests):
            with only_one(root):
                install(root, options.tests)
        elif made_with(root) not in (None, sys.version_info[:2]):
            note = "{} was made with Python {}.{}; delete it to change to {}.{}."
            say(note.format(ENVIRONMENT, *made_with(root), *sys.version_info[:2]))
        if options.browser:
            ensure_browser(root)
    except SetUpError as error:
        print("\nset-up stopped\n{}".format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up interrupted; the same command starts it again", file=sys.stderr)
        return 130
    return 0


# --- which Python ---------------------------------------------------------------------------------


def check_python(version, executable):
    """Refuse a Python that is too old, and name a newer one if this machine has it."""
    if tuple(version[:2]) >= OLDEST_PYTHON:
        return
    found = ".".join(str(part) for part in version[:3])
    oldest = ".".join(str(part) for part in OLDEST_PYTHON)
    newer = next((name for name in NEWER_PYTHONS if runs(name)), None)
    if newer:
        advice = "{0} is on this machine: PYTHON={0} make lab".format(newer)
    else:
        advice = (
            "Install a newer Python (sudo apt install python3.12 python3.12-venv, brew install "
            "python, or python.org), then for example: PYTHON=python3.12 make lab"
        )
    raise SetUpError(
        "This is Python {} ({}).".format(found, executable),
        "Layer Explorer needs Python {} or newer.".format(oldest),
        advice,
    )


def runs(name):
    """Say whether a Python of this name is on PATH and starts (a pyenv shim may not)."""
    path = shutil.which(name)
    if path is None:
        return False
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.call([path, "-c", ""], **quiet) == 0


# --- what is there already ------------------------------------------------------------------------


def bin_folder(root):
    """Give the folder of the environment's commands."""
    return root / ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")


def environment_python(root):
    """Give the environment's own Python."""
    return bin_folder(root) / ("python.exe" if os.name == "nt" else "python")


def wanted_stamp(root, tests):
    """Describe what the environment has to have been made from, and whether for the tests."""
    digest = hashlib.sha256()
    for name in INPUTS:
        content = (root / name).read_bytes()
        digest.update("{} {}\n".format(name, len(content)).encode())
        digest.update(content)
    return {"inputs": digest.hexdigest(), "folder": str(root), "tests": tests}


def read_stamp(root):
    """Give what the environment was made from, or None."""
    try:
        return json.loads((root / ENVIRONMENT / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def is_up_to_date(root, tests):
    """Say whether there is nothing to do, without starting another process."""
    stamps = [wanted_stamp(root, True), wanted_stamp(root, tests)]
    return environment_python(root).exists() and read_stamp(root) in stamps


def holds_tests(root):
    """Say whether the environment was made for the tests, now or before."""
    return bool((read_stamp(root) or {}).get("tests"))


def made_with(root):
    """Give the (major, minor) version of the environment's Python, or None."""
    try:
        text = (root / ENVIRONMENT / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^version(?:_info)? *= *(\d+)\.(\d+)", text, re.MULTILINE)
    return (int(match.group(1)), int(match.group(2))) if match else None


def reason_to_remake(root):
    """Say why an existing environment cannot be updated but has to be made anew, or None."""
    folder = root / ENVIRONMENT
    if (folder / STARTED).exists():
        return "an earlier installation was interrupted"
    if not environment_python(root).exists():
        return "it is incomplete"
    stamp = read_stamp(root)
    if stamp is not None and stamp.get("folder") != str(root):
        return "it was made in another folder"
    probe = "import pip, sys; sys.exit(sys.version_info[:2] < {!r})".format(OLDEST_PYTHON)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if subprocess.call([str(environment_python(root)), "-c", probe], **quiet) != 0:
        return "its Python is broken, too old or without pip"
    return None


@contextlib.contextmanager
def only_one(root):
    """Let a second set-up in the same folder wait for the first (not on Windows)."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(str(root), os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("Another set-up is at work in this folder: waiting for it.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# --- installing -----------------------------------------------------------------------------------


def install(root, tests):
    """Make the environment, or bring it up to date, and leave the stamp."""
    if is_up_to_date(root, tests):  # made by the set-up that we waited for
        return
    tests = tests or holds_tests(root)  # what is installed is kept up to date
    began = time.monotonic()
    folder = root / ENVIRONMENT
    try:
        if folder.exists():
            why = reason_to_remake(root)
            if why:
                say("Making {} anew: {}.".format(ENVIRONMENT, why))
                shutil.rmtree(str(folder))
        if not folder.exists():
            make_environment(root)
        (folder / STARTED).touch()
        with contextlib.suppress(FileNotFoundError):
            (folder / STAMP).unlink()
    except OSError as error:
        raise unwritable(root, str(error)) from error
    run_pip(root, tests)
    (folder / STAMP).write_text(json.dumps(wanted_stamp(root, tests)) + "\n", encoding="utf-8")
    (folder / STARTED).unlink()
    say("Installed in {:.0f} s.".format(time.monotonic() - began))


def environment_command(folder):
    """Choose what makes a virtual environment here: a command, or None."""
    if all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        return [sys.executable, "-m", "venv", str(folder)]
    if importlib.util.find_spec("virtualenv"):
        return [sys.executable, "-m", "virtualenv", "--quiet", str(folder)]
    if shutil.which("uv"):
        return [
            *("uv", "venv", "--quiet", "--seed", "--allow-existing"),
            *("--python", sys.executable, str(folder)),
        ]
    return None


def make_environment(root):
    """Make an empty virtual environment with pip."""
    folder = root / ENVIRONMENT
    command = environment_command(folder)
    if command is None:
        raise no_venv_module()
    if not os.access(str(root), os.W_OK):
        raise unwritable(root, "no write permission")
    say("Making {} with Python {}.{}.".format(ENVIRONMENT, *sys.version_info[:2]))
    folder.mkdir()
    (folder / STARTED).touch()  # a half-made environment is known by this file
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    if done.returncode == 0:
        return
    if "ensurepip" in done.stdout:  # Debian's venv looks for it only now
        raise no_venv_module()
    raise explain(root, "The virtual environment could not be made.", done.stdout)


def run_pip(root, tests):
    """Install the package and its dependencies into the environment."""
    say(
        "Installing the packages. The first time this downloads about {} and takes some minutes; "
        "after that it is not needed again.".format(download_size(sys.platform))
    )
    command = [str(environment_python(root)), "-m", "pip", "install", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input"]
    command += ["--constraint", "constraints.txt"]
    command += ["--editable", "." + (TEST_EXTRAS if tests else EXTRAS)]
    errors = root / ENVIRONMENT / "set-up-errors.txt"
    try:
        with errors.open("w", encoding="utf-8") as stream:
            status = wait_for(command, root, stream)
        text = errors.read_text(encoding="utf-8", errors="replace")
        errors.unlink()
    except OSError as error:
        raise unwritable(root, str(error)) from error
    if status != 0:
        raise explain(root, "pip could not install the packages.", text)


def download_size(platform):
    """Tell how much the first installation downloads, in words."""
    return "3.5 GB (PyTorch and its GPU libraries)" if platform == "linux" else "0.5 to 1 GB"


def wait_for(command, folder, errors):
    """Run a long command, with a sign of life now and then; return its exit status."""
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=str(folder),
        stdin=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,  # pip has children of its own; they are stopped with it
    )
    try:
        while True:
            try:
                return process.wait(timeout=SECONDS_BETWEEN_SIGNS_OF_LIFE)
            except subprocess.TimeoutExpired:
                say("  still at work after {:.0f} s".format(time.monotonic() - began))
    except BaseException:
        stop(process)
        raise


def stop(process):
    """End a process, and where the system has process groups its children too."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.terminate()
    process.wait()


# --- what went wrong ------------------------------------------------------------------------------


def explain(root, what, text):
    """Turn the output of a failed installer into an error in three parts."""
    if DISK_FULL.search(text):
        free = shutil.disk_usage(str(root)).free / 1e9
        return SetUpError(
            "{} The disk is full: {:.1f} GB are free in {}.".format(what, free, root),
            "The environment takes about 7 GB on Linux, under 3 GB elsewhere, and half as much for "
            "a while in the folder for temporary files.",
            "Free some space, or set TMPDIR to a larger disk, and run the same command again.",
        )
    if NO_PERMISSION.search(text):
        return unwritable(root, last_error(text))
    if NO_INDEX.search(text):
        forget_interruption(root)
        return SetUpError(
            "{} The package index cannot be reached: {}".format(what, last_error(text)),
            "The first installation needs the internet (or pip set to an index that is near).",
            "Check the connection, and behind a proxy HTTPS_PROXY and PIP_CERT; then run the same "
            "command again. What has been downloaded is kept.",
        )
    return SetUpError(
        "{} Its last words:\n{}".format(what, "\n".join(text.strip().splitlines()[-12:])),
        "A plain installation of pyproject.toml with constraints.txt was expected to succeed.",
        "Delete {} and run the same command again; if it fails again, report the lines "
        "above.".format(ENVIRONMENT),
    )


def forget_interruption(root):
    """Keep the environment: pip downloads everything first, so nothing is half installed."""
    started = root / ENVIRONMENT / STARTED
    if started.exists():
        started.unlink()


def no_venv_module():
    """Build the error for a Python without venv and ensurepip, as on a bare Debian."""
    return SetUpError(
        "This Python ({}) cannot make virtual environments: venv or ensurepip is missing.".format(
            sys.executable
        ),
        "A Python with both modules is needed; Debian and Ubuntu keep them in a separate package.",
        "sudo apt install python3-venv, then run the same command again.",
    )


def unwritable(root, reason):
    """Build the error for a folder in which nothing can be made."""
    return SetUpError(
        "Nothing can be written in {}: {}.".format(root, reason.rstrip(".")),
        "The folder of the project must belong to you, since {} is made in it.".format(ENVIRONMENT),
        "Copy the project to a folder of your own, or change the owner of this one.",
    )


def last_error(text):
    """Give the last line that speaks of an error, or else the last that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|\bE:", line, re.IGNORECASE)]
    return (errors or lines or ["(no message)"])[-1]


# --- a browser for the tests ----------------------------------------------------------------------


def ensure_browser(root):
    """Find or install a browser; say it loudly when there is none, but go on."""
    if find_browser(root):
        return
    tried = []
    for command in browser_installers(root):
        say("No Chromium or Chrome found: trying {}".format(" ".join(command)))
        tried.append("{}: {}".format(" ".join(command), try_installer(command)))
        if find_browser(root):
            return
    print(notice_without_browser(tried), file=sys.stderr)


def find_browser(root):
    """Give the path of a Chromium or Chrome, on PATH or Playwright's own, or None."""
    for name in BROWSERS:
        path = shutil.which(name)
        if path:
            return path
    question = (
        "from playwright.sync_api import sync_playwright\n"
        "with sync_playwright() as playwright: print(playwright.chromium.executable_path)"
    )
    done = subprocess.run(
        [str(environment_python(root)), "-c", question],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        universal_newlines=True,
    )
    path = done.stdout.strip()
    return path if path and Path(path).exists() else None


def browser_installers(root):
    """List the commands to try one after the other, never two at once."""
    playwright = [str(environment_python(root)), "-m", "playwright", "install"]
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        return [
            ["apt-get", "-qq", "update"],
            ["apt-get", "-qq", "install", "-y", "--no-install-recommends", "chromium"],
            [*playwright, "--with-deps", "chromium"],
        ]
    return [[*playwright, "chromium"]]


def try_installer(command):
    """Run one installer; tell in a line how it ended."""
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
            timeout=BROWSER_TIME_LIMIT,
        )
    except subprocess.TimeoutExpired:
        return "stopped after {} s".format(BROWSER_TIME_LIMIT)
    except OSError as error:
        return str(error)
    return "done" if done.returncode == 0 else last_error(done.stdout)


def notice_without_browser(tried):
    """Word the notice that the browser tests will be skipped."""
    bar = "!" * 100
    lines = [bar, "NO BROWSER: the tests marked 'browser' will be SKIPPED.", "What was tried:"]
    lines += ["  nothing called {} on PATH, none of Playwright's".format(", ".join(BROWSERS))]
    lines += ["  {}".format(line) for line in tried]
    lines += ["Install Chromium or Chrome and run the same command again to have them run.", bar]
    return "\n".join(lines)


def say(text):
    """Print at once, also into a pipe."""
    print(text, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that pip is stopped as well
    sys.exit(main())
