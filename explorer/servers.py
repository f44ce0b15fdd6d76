"""Start JupyterLab on the first notebook, or the dashboard: the explorer and nothing else."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import webbrowser
from importlib.util import find_spec
from pathlib import Path

from explorer.errors import UsageError

ABANDONED = 60
"""Seconds after which a kernel of the dashboard ends that no page is connected to."""

NOTEBOOK = "01-first-click.ipynb"
DASHBOARD = "dashboard.ipynb"
STACK_VARIABLE = "EXPLORER_STACK"
"""Names the stack that the dashboard opens; `explorer.Explorer()` reads it."""

LOOPBACK = "127.0.0.1"
_PACKAGE = Path(__file__).resolve().parent
VOILA = _PACKAGE / "voila"
"""Where Voila finds the template of the dashboard."""

LAB = _PACKAGE / "lab"
"""Where JupyterLab finds other defaults of its settings: it does not ask about news."""

LAB_EXTENSION = "explorer.lab.extension"
"""Prints JupyterLab's address, and nothing else, once it answers."""

TOKEN_VARIABLE = "JUPYTER_TOKEN"
"""From here a Jupyter server takes its token; without it, it logs the one it makes."""


def open_lab(folder: Path, port: int | None, browser: bool) -> int:
    """Open the first notebook in JupyterLab, on loopback and behind its token.

    Parameters
    ----------
    folder : Path
        Where the notebook is put if this is not a checkout.
    port : int or None
        Port to listen on; None takes 8888 or the next that is free.
    browser : bool
        Whether to open a browser, if there is one; the address is printed in any case.

    Returns
    -------
    int
        Exit status of JupyterLab.

    Raises
    ------
    UsageError
        The port is in use, or the notebook cannot be put into the folder.
    """
    if port is not None:
        check_port(port)
    command = lab_command(place_notebook(folder, NOTEBOOK), port, browser and has_browser())
    print("JupyterLab starts; its address follows. To stop it, press Ctrl-C here and answer y.")
    return _run(command, lab_environment())


def open_dashboard(stack: str | None, port: int | None, browser: bool) -> int:
    """Show the explorer alone in a browser, on loopback and behind a token.

    Parameters
    ----------
    stack : str or None
        Name of a stack, or a folder of checkpoints; None opens the first bundled stack.
    port : int or None
        Port to listen on; None takes one that is free.
    browser : bool
        Whether to open a browser, if there is one; the address is printed in any case.

    Returns
    -------
    int
        Exit status of Voila.

    Raises
    ------
    UsageError
        The port is in use, or Voila is not installed.
    """
    port = free_port() if port is None else port
    check_port(port)
    if find_spec("voila") is None:
        raise UsageError(
            "Voila is not installed.",
            "It shows a notebook as a page of its own.",
            "Run `pip install voila`, or use `explorer lab`.",
        )
    notebook = place_notebook(None, DASHBOARD)
    command = dashboard_command(notebook, port, browser and has_browser())
    print(f"The dashboard starts on {LOOPBACK}; open the address below. Ctrl-C ends it.")
    return _run(command, dashboard_environment(stack))


def dashboard_command(notebook: Path, port: int, browser: bool) -> list[str]:
    """Put the command line together that starts Voila."""
    command = [
        *(sys.executable, "-m", "voila", str(notebook), "--token"),
        f"--Voila.ip={LOOPBACK}",
        f"--port={port}",
        "--Voila.port_retries=0",
        "--template=explorer",
        # the kernel of a page that was closed or reloaded: Voila's own way to end it is refused
        # by its server when there is a token
        f"--MappingKernelManager.cull_idle_timeout={ABANDONED}",
        f"--MappingKernelManager.cull_interval={ABANDONED // 3}",
        *encryption(),
    ]
    return command if browser else [*command, "--no-browser"]


def lab_environment() -> dict[str, str]:
    """Return the environment in which JupyterLab finds our defaults, and a token.

    What a user has set wins, in JupyterLab's settings as well as `JUPYTER_TOKEN`.
    """
    token = os.environ.get(TOKEN_VARIABLE) or secrets.token_hex(24)
    return {**environment_with("JUPYTER_CONFIG_PATH", LAB), TOKEN_VARIABLE: token}


def environment_with(variable: str, folder: Path) -> dict[str, str]:
    """Return our environment, with a folder before those that one of Jupyter's paths has."""
    folders = filter(None, (str(folder), os.environ.get(variable)))
    return {**os.environ, variable: os.pathsep.join(folders)}


def dashboard_environment(stack: str | None) -> dict[str, str]:
    """Return the environment in which Voila finds its template and the notebook its stack."""
    found = environment_with("JUPYTER_PATH", VOILA)
    if stack is not None:
        found[STACK_VARIABLE] = str(Path(stack).resolve()) if Path(stack).exists() else stack
    return found


def encryption() -> list[str]:
    """Have the server and its kernels encrypt what they say to each other, where they can.

    They speak TCP, on loopback, and are asked to sign what they say but not to hide it; of that
    ipykernel warns at the start of each kernel. jupyter_client before 8.9 has no such setting, and
    a pyzmq without libsodium would refuse it.
    """
    import zmq
    from jupyter_client.manager import KernelManager  # 0.2 s, which only a server has to wait for

    can = zmq.has("curve") and "transport_encryption" in KernelManager.class_trait_names()
    return ["--KernelManager.transport_encryption=auto"] if can else []


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Become the server, so that Ctrl-C and other signals reach it; on Windows, wait for it."""
    sys.stdout.flush()
    if os.name == "posix":
        os.execve(command[0], command, environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's
    return subprocess.call(command, env=environment)


def lab_command(notebook: Path, port: int | None, browser: bool) -> list[str]:
    """Put the command line together that starts JupyterLab.

    In a checkout its root is the whole of it: a server shows nothing outside its root, and the
    notebooks' pictures lie in docs/images. Of its log only errors are shown, since
    our extension prints the address.
    """
    notebook = notebook.resolve()
    checkout = _PACKAGE.parent
    root = checkout if notebook.parent == checkout / "notebooks" else notebook.parent
    command = [
        *(sys.executable, "-m", "jupyterlab", "--ServerApp.log_level=ERROR"),
        "--LabApp.log_level=ERROR",
        f"--ServerApp.jpserver_extensions={LAB_EXTENSION}=True",
        f"--ServerApp.ip={LOOPBACK}",
        f"--ServerApp.root_dir={root}",
        # in the printed address too
        f"--LabApp.default_url=/lab/tree/{notebook.relative_to(root).as_posix()}",
        *encryption(),
    ]
    if port is not None:
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if not browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # a container; loopback and token still guard it
    return command


def place_notebook(folder: Path | None, name: str) -> Path:
    """Find a notebook in a checkout, or the packaged one, which is copied into a folder.

    A copy is not overwritten; without a folder the packaged notebook is used where it is.
    """
    checkout = _PACKAGE.parent / "notebooks" / name
    if checkout.exists():
        return checkout
    if folder is None:
        return _PACKAGE / "notebooks" / name
    target = folder / name
    try:
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_PACKAGE / "notebooks" / name, target)
    except OSError as error:
        raise UsageError(
            f"{target} could not be written: {error.strerror}.",
            "The notebook needs a folder that you may write to.",
            "Change into another folder, or name one: explorer lab FOLDER.",
        ) from error
    return target


def check_port(port: int) -> None:
    """Refuse a port that is not one, or that another program listens on."""
    if not 1 <= port <= 65535:
        raise UsageError(
            f"The port is {port}.",
            "Ports are numbers from 1 to 65535.",
            "Leave --port out to take one that is free.",
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(os.name == "posix"))
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise UsageError(
                f"Port {port} on {LOOPBACK} cannot be used: {error.strerror}.",
                "A port that no other program listens on is needed.",
                "Leave --port out to take one that is free, or name another.",
            ) from error


def has_browser() -> bool:
    """Tell whether a graphical browser can be opened from here."""
    if sys.platform.startswith("linux"):
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True
