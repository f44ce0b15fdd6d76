"""Starting JupyterLab and the dashboard: on loopback, on a free port, the notebook in place."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from explorer import cli, servers
from explorer.errors import UsageError
from explorer.ui.widget import STACK_VARIABLE

NOTEBOOK = Path("notebooks") / servers.NOTEBOOK


def test_the_server_listens_on_loopback_only_and_keeps_its_token():
    command = servers.lab_command(NOTEBOOK, None, browser=True)
    assert "--ServerApp.ip=127.0.0.1" in command
    assert not any("token" in part.lower() or "password" in part.lower() for part in command)
    assert "--no-browser" not in command


def test_the_address_that_is_printed_leads_to_the_notebook():
    command = servers.lab_command(Path("somewhere") / "a.ipynb", None, browser=False)
    assert "--LabApp.default_url=/lab/tree/a.ipynb" in command
    assert f"--ServerApp.root_dir={Path('somewhere').resolve()}" in command


def test_in_a_checkout_the_server_reaches_the_pictures_of_the_notebooks():
    command = servers.lab_command(servers.place_notebook(None, servers.NOTEBOOK), None, False)
    checkout = Path(__file__).resolve().parents[1]
    assert f"--ServerApp.root_dir={checkout}" in command
    assert f"--LabApp.default_url=/lab/tree/notebooks/{servers.NOTEBOOK}" in command
    assert (checkout / "docs" / "images").is_dir()


def test_a_chosen_port_is_taken_or_nothing():
    command = servers.lab_command(NOTEBOOK, 8890, browser=False)
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
            servers.check_port(port)


def test_a_free_port_is_accepted():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    servers.check_port(port)


@pytest.mark.parametrize("port", [0, -1, 70000])
def test_what_is_no_port_is_refused(port, capsys):
    assert cli.main(["lab", "--port", str(port)]) == 2
    assert f"The port is {port}" in capsys.readouterr().err


def test_a_checkout_opens_its_own_notebook(tmp_path):
    assert servers.place_notebook(tmp_path, servers.NOTEBOOK).parts[-2:] == NOTEBOOK.parts
    assert os.listdir(tmp_path) == []


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Pretend to be an installed package whose notebook is beside the code."""
    package = tmp_path / "site" / "explorer"
    (package / "notebooks").mkdir(parents=True)
    (package / "notebooks" / servers.NOTEBOOK).write_text("{}")
    monkeypatch.setattr(servers, "_PACKAGE", package)
    return package


def test_an_installed_package_copies_its_notebook_once(installed, tmp_path):
    target = servers.place_notebook(tmp_path / "mine", servers.NOTEBOOK)
    assert target == tmp_path / "mine" / servers.NOTEBOOK
    target.write_text("changed by its reader")
    assert (
        servers.place_notebook(tmp_path / "mine", servers.NOTEBOOK).read_text()
        == "changed by its reader"
    )


def test_a_folder_that_cannot_be_made_is_refused(installed, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"could not be written(.|\n)*explorer lab FOLDER"):
        servers.place_notebook(tmp_path / "file" / "x", servers.NOTEBOOK)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="displays are named so on Linux")
def test_without_a_display_no_browser_is_opened(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not servers.has_browser()


# The dashboard


def test_the_dashboard_listens_on_loopback_behind_a_token_and_asks_no_other_machine():
    command = servers.dashboard_command(Path("a.ipynb"), 8891, browser=False)
    assert {"--Voila.ip=127.0.0.1", "--port=8891", "--token", "--no-browser"} <= set(command)
    assert "--template=explorer" in command
    template = servers.VOILA / "voila" / "templates" / "explorer" / "index.html.j2"
    assert "://" not in template.read_text(encoding="utf-8")


def test_the_dashboard_gets_its_stack_and_its_template_through_the_environment(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("JUPYTER_PATH", "mine")
    found = servers.dashboard_environment("vit-digits")
    assert found["EXPLORER_STACK"] == "vit-digits"
    assert found["JUPYTER_PATH"].split(os.pathsep) == [str(servers.VOILA), "mine"]
    monkeypatch.chdir(tmp_path.parent)
    assert servers.dashboard_environment(tmp_path.name)["EXPLORER_STACK"] == str(tmp_path)
    monkeypatch.delenv("EXPLORER_STACK", raising=False)
    assert "EXPLORER_STACK" not in servers.dashboard_environment(None)


def test_the_command_and_the_explorer_mean_the_same_variable():
    assert servers.STACK_VARIABLE == STACK_VARIABLE


def test_a_dashboard_without_voila_says_what_to_do(monkeypatch):
    monkeypatch.setattr(servers, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"Voila is not installed(.|\n)*pip install voila"):
        servers.open_dashboard(None, None, browser=False)


def test_the_packaged_dashboard_is_used_where_it_is(installed):
    found = servers.place_notebook(None, servers.DASHBOARD)
    assert found == installed / "notebooks" / servers.DASHBOARD
    assert servers.place_notebook(None, servers.NOTEBOOK).parent == found.parent


def test_a_free_port_is_one_that_can_be_used():
    servers.check_port(servers.free_port())


@pytest.mark.parametrize("port", [0, 70000])
def test_the_dashboard_refuses_what_is_no_port(port, capsys):
    assert cli.main(["dashboard", "--port", str(port)]) == 2
    assert f"The port is {port}" in capsys.readouterr().err
