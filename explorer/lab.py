"""Start JupyterLab on the first notebook."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import webbrowser
from pathlib import Path

from explorer.errors import UsageError

NOTEBOOK = "01-first-click.ipynb"
LOOPBACK = "127.0.0.1"
_PACKAGE = Path(__file__).parent


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
    command = lab_command(place_notebook(folder), port, browser and has_browser())
    print(f"JupyterLab starts on {LOOPBACK}; open the address it prints below. Ctrl-C ends it.")
    sys.stdout.flush()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is JupyterLab's, which asks back
    return subprocess.call(
        command, preexec_fn=_listen_to_interrupts if os.name == "posix" else None
    )


def lab_command(notebook: Path, port: int | None, browser: bool) -> list[str]:
    """Put the command line together that starts JupyterLab."""
    command = [
        *(sys.executable, "-m", "jupyterlab"),
        f"--ServerApp.ip={LOOPBACK}",
        f"--ServerApp.root_dir={notebook.parent.resolve()}",
        f"--LabApp.default_url=/lab/tree/{notebook.name}",  # in the printed address too
    ]
    if port is not None:
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if not browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # a container; loopback and token still guard it
    return command


def place_notebook(folder: Path) -> Path:
    """Find the notebook in a checkout, or copy the packaged one; a copy is not overwritten."""
    checkout = _PACKAGE.parent / "notebooks" / NOTEBOOK
    if checkout.exists():
        return checkout
    target = folder / NOTEBOOK
    try:
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_PACKAGE / "notebooks" / NOTEBOOK, target)
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


def _listen_to_interrupts() -> None:
    """Undo the parent's deafness to Ctrl-C in the child."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
