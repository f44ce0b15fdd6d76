"""Starting JupyterLab and the dashboard: on loopback, on a free port, the notebook in place."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from explorer import cli, servers
from explorer.errors import UsageError
from explorer.lab import extension
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


def test_a_newcomer_reads_one_address_and_nothing_else(tmp_path):
    """JupyterLab itself, with a home of its own: what it prints, and what it asks about."""
    port = servers.free_port()
    home = {"HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    own = {key: text for key, text in os.environ.items() if key != servers.TOKEN_VARIABLE}
    command = [sys.executable, "-m", "explorer", "lab", str(tmp_path), "--no-browser"]
    with subprocess.Popen(
        [*command, "--port", str(port)],
        env={**own, **home},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            said = "".join(iter(server.stdout.readline, "\n"))  # up to the first empty line
            said += server.stdout.readline()
            (address,) = re.findall(r"^ +(http://\S+)$", said, re.MULTILINE)
            plugin = "lab/api/settings/@jupyterlab/apputils-extension:notification"
            token = address.partition("?token=")[2]
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/{plugin}?token={token}", timeout=60
            ) as answer:
                asks = json.load(answer)["schema"]["properties"]
        finally:
            server.terminate()
    assert "press Ctrl-C here" in said
    assert len(said.splitlines()) == 3
    assert address.startswith(f"http://127.0.0.1:{port}/lab/tree/")
    assert (asks["fetchNews"]["default"], asks["checkForUpdates"]["default"]) == ("false", False)


def test_a_token_of_the_users_own_is_kept_and_another_is_made_each_time(monkeypatch):
    monkeypatch.setenv("JUPYTER_TOKEN", "mine")
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "own")
    assert servers.lab_environment()["JUPYTER_TOKEN"] == "mine"
    found = servers.lab_environment()["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    assert found == [str(servers.LAB), "own"]
    monkeypatch.delenv("JUPYTER_TOKEN")
    one, other = (servers.lab_environment()["JUPYTER_TOKEN"] for _ in range(2))
    assert len(one) == 48
    assert one != other


def test_the_extension_says_the_address_and_keeps_the_token_from_kernels(monkeypatch, capsys):
    monkeypatch.setenv("JUPYTER_TOKEN", "abc")

    server = SimpleNamespace(
        local_url="http://127.0.0.1:8888/lab/tree/a.ipynb?token=...",  # if it is free
        identity_provider=SimpleNamespace(token="abc"),
    )

    async def turns():
        extension._load_jupyter_server_extension(server)
        await asyncio.sleep(0.01)
        assert capsys.readouterr().out == ""  # it does not listen yet
        server.http_server = object()
        server.local_url = server.local_url.replace("8888", "8889")
        await asyncio.sleep(0.2)

    # in a thread of its own: Playwright's loop runs in this one, once a browser has been started
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, turns()).result()
    assert "    http://127.0.0.1:8889/lab/tree/a.ipynb?token=abc\n" in capsys.readouterr().out
    assert "JUPYTER_TOKEN" not in os.environ


def test_the_extension_is_the_one_that_the_command_names():
    assert extension.__name__ == servers.LAB_EXTENSION
    assert extension._jupyter_server_extension_points() == [{"module": servers.LAB_EXTENSION}]


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


def test_what_server_and_kernel_say_is_encrypted_where_the_packages_can(monkeypatch):
    wanted = "--KernelManager.transport_encryption=auto"
    assert servers.encryption() == [wanted]
    assert wanted in servers.lab_command(NOTEBOOK, None, browser=True)
    assert wanted in servers.dashboard_command(Path("a.ipynb"), 8891, browser=True)
    with monkeypatch.context() as without_libsodium:
        without_libsodium.setattr("zmq.has", lambda what: what != "curve")
        assert servers.encryption() == []
    monkeypatch.setattr("jupyter_client.manager.KernelManager.class_trait_names", lambda: ["ip"])
    assert servers.encryption() == []


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
