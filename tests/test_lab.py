"""Starting JupyterLab: on loopback, on a free port, with the notebook in place."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from explorer import cli, lab
from explorer.errors import UsageError

NOTEBOOK = Path("notebooks") / lab.NOTEBOOK


def test_the_server_listens_on_loopback_only_and_keeps_its_token():
    command = lab.lab_command(NOTEBOOK, None, browser=True)
    assert "--ServerApp.ip=127.0.0.1" in command
    assert not any("token" in part.lower() or "password" in part.lower() for part in command)
    assert "--no-browser" not in command


def test_the_address_that_is_printed_leads_to_the_notebook():
    command = lab.lab_command(Path("somewhere") / "a.ipynb", None, browser=False)
    assert "--LabApp.default_url=/lab/tree/a.ipynb" in command
    assert f"--ServerApp.root_dir={Path('somewhere').resolve()}" in command


def test_a_chosen_port_is_taken_or_nothing():
    command = lab.lab_command(NOTEBOOK, 8890, browser=False)
    assert command[-1 if "--allow-root" not in command else -2] == "--no-browser"
    assert {"--ServerApp.port=8890", "--ServerApp.port_retries=0"} <= set(command)


def test_a_port_in_use_is_refused_with_what_to_do():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            UsageError, match=rf"Port {port} on 127.0.0.1 cannot be used(.|\n)*free"
        ):
            lab.check_port(port)


def test_a_free_port_is_accepted():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lab.check_port(port)


@pytest.mark.parametrize("port", [0, -1, 70000])
def test_what_is_no_port_is_refused(port, capsys):
    assert cli.main(["lab", "--port", str(port)]) == 2
    assert f"The port is {port}" in capsys.readouterr().err


def test_a_checkout_opens_its_own_notebook(tmp_path):
    assert lab.place_notebook(tmp_path).parts[-2:] == NOTEBOOK.parts
    assert os.listdir(tmp_path) == []


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Pretend to be an installed package whose notebook is beside the code."""
    package = tmp_path / "site" / "explorer"
    (package / "notebooks").mkdir(parents=True)
    (package / "notebooks" / lab.NOTEBOOK).write_text("{}")
    monkeypatch.setattr(lab, "_PACKAGE", package)
    return package


def test_an_installed_package_copies_its_notebook_once(installed, tmp_path):
    target = lab.place_notebook(tmp_path / "mine")
    assert target == tmp_path / "mine" / lab.NOTEBOOK
    target.write_text("changed by its reader")
    assert lab.place_notebook(tmp_path / "mine").read_text() == "changed by its reader"


def test_a_folder_that_cannot_be_made_is_refused(installed, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"could not be written(.|\n)*explorer lab FOLDER"):
        lab.place_notebook(tmp_path / "file" / "x")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="displays are named so on Linux")
def test_without_a_display_no_browser_is_opened(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not lab.has_browser()
