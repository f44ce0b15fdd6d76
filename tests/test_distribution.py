"""What is published: the wheel, the sdist, their version, and the forge's workflow."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import tomllib
import urllib.request
import venv
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

from explorer import __version__
from explorer.servers import free_port

ROOT = Path(__file__).resolve().parent.parent

KINDS = {
    ".py": ("explorer/",),
    ".typed": ("explorer/",),
    ".safetensors": ("explorer/inventory/bundled/",),
    ".csv": ("explorer/inventory/bundled/",),
    ".json": (
        "explorer/inventory/",
        "explorer/lab/labconfig/",
        "explorer/voila/voila/templates/explorer/",
    ),
    ".ipynb": ("explorer/notebooks/",),
    ".html": ("explorer/ui/",),
    ".css": ("explorer/ui/",),
    ".js": ("explorer/ui/page/",),
    ".j2": ("explorer/voila/voila/templates/explorer/",),
    ".txt": ("explorer/data/texts/",),
}
"""Ending → folders in the wheel that have files of this kind; no others are in it."""

RELEASE_TEXTS = {
    *("CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md"),
    *("PKG-INFO", "pyproject.toml", ".gitignore"),
}
"""Files of the sdist beside what the wheel is made from; hatchling adds the last line."""

BROUGHT = {
    "pretrained_manifest.json": "explorer/inventory/pretrained_manifest.json",
    "notebooks/01-first-click.ipynb": "explorer/notebooks/01-first-click.ipynb",
    "notebooks/dashboard.ipynb": "explorer/notebooks/dashboard.ipynb",
}
"""File of the repository → where it is in the wheel."""

LARGEST = 60_000_000
"""Bytes of one file; public indexes take 100 MB, and bundled stacks only grow."""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


def build(tree: Path, folder: Path) -> Path:
    """Build both files of a release, as `make dist` does, without the network."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> zipfile.ZipFile:
    [path] = dist.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def sdist(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder that the sdist unpacks to."""
    [path] = dist.glob("*.tar.gz")
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    [tree] = folder.iterdir()
    return tree


def package_files() -> set[str]:
    """Return what is in the folder of the package, without what Python left there."""
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "explorer").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(found) >= 200
    return found


def inside(wheel: zipfile.ZipFile) -> set[str]:
    """Return what a wheel puts into site-packages, without its own description."""
    outside = (".dist-info/", ".data/")
    return {name for name in wheel.namelist() if not any(part in name for part in outside)}


# --- the wheel ------------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_the_manifest_two_notebooks_and_nothing_else(
    wheel: zipfile.ZipFile,
) -> None:
    assert inside(wheel) == package_files() | set(BROUGHT.values())


def test_the_wheel_holds_these_kinds_of_files_in_these_folders_only(
    wheel: zipfile.ZipFile,
) -> None:
    seen = defaultdict(list)
    for name in inside(wheel):
        path = Path(name)
        seen[path.suffix or path.name].append(name)
    assert set(seen) == set(KINDS)
    strays = [n for kind, names in seen.items() for n in names if not n.startswith(KINDS[kind])]
    assert strays == []


def test_the_wheel_carries_the_bundled_stacks_the_schema_and_the_mark_of_types(
    wheel: zipfile.ZipFile,
) -> None:
    names = wheel.namelist()
    manifest = json.loads(wheel.read(BROUGHT["pretrained_manifest.json"]))
    assert len(manifest["stacks"]) >= 7
    assert sum(name.endswith(".safetensors") for name in names) >= 8 * 7
    assert "explorer/inventory/pretrained_manifest.schema.json" in names
    assert "explorer/py.typed" in names


def test_the_wheel_brings_the_dashboards_template_to_where_other_servers_look(
    wheel: zipfile.ZipFile,
) -> None:
    """A Jupyter server on Binder was not started by `explorer dashboard`."""
    found = {name for name in wheel.namelist() if ".data/" in name}
    folder = ROOT / "explorer" / "voila" / "voila" / "templates" / "explorer"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "index.html.j2" in files
    assert {name.partition(".data/")[2] for name in found} == {
        f"data/share/jupyter/voila/templates/explorer/{name}" for name in files
    }
    assert all(wheel.read(name) == files[name.rpartition("/")[2]] for name in found)


def test_the_dashboard_names_the_template_that_comes_with_it() -> None:
    notebook = json.loads((ROOT / "notebooks" / "dashboard.ipynb").read_text(encoding="utf-8"))
    assert notebook["metadata"]["voila"] == {"template": "explorer"}


def test_what_the_wheel_brings_is_what_the_repository_has(wheel: zipfile.ZipFile) -> None:
    for here, there in BROUGHT.items():
        assert wheel.read(there) == (ROOT / here).read_bytes()


def test_the_wheel_brings_the_command_under_both_its_names(wheel: zipfile.ZipFile) -> None:
    """`uvx layer-explorer` and `pipx run layer-explorer` look for the package's own name."""
    [name] = [name for name in wheel.namelist() if name.endswith("/entry_points.txt")]
    said = wheel.read(name).decode()
    for command in ("explorer", "layer-explorer"):
        assert f"\n{command} = explorer.cli:main\n" in said


# --- the sdist ------------------------------------------------------------------------------------


def test_the_sdist_holds_what_the_wheel_is_built_from_and_the_texts_of_a_release(
    sdist: Path,
) -> None:
    names = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    assert names == package_files() | set(BROUGHT) | RELEASE_TEXTS


def test_the_sdist_builds_the_same_wheel_to_the_byte(
    sdist: Path, wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    [again] = build(sdist, tmp_path).glob("*.whl")
    assert again.name == Path(str(wheel.filename)).name
    with zipfile.ZipFile(again) as other:
        assert contents(other) == contents(wheel)


def contents(wheel: zipfile.ZipFile) -> dict[str, str]:
    """Return name → hash of every file, of the description too."""
    found = {name: hashlib.sha256(wheel.read(name)).hexdigest() for name in wheel.namelist()}
    assert len(found) >= 250
    return found


def test_both_files_are_small_enough_for_a_public_index(dist: Path) -> None:
    sizes = {path.suffix: path.stat().st_size for path in dist.iterdir()}
    assert set(sizes) == {".whl", ".gz"}
    assert max(sizes.values()) < LARGEST


# --- the version ----------------------------------------------------------------------------------


def test_the_version_is_written_once_and_the_wheel_has_it(wheel: zipfile.ZipFile) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["dynamic"] == ["version"]
    assert "version" not in project
    [name] = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    assert f"\nVersion: {__version__}\n" in wheel.read(name).decode()


def test_texts_that_must_repeat_the_version_have_the_same() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    assert citation["version"] == recipe["context"]["version"] == __version__


def test_the_version_is_semantic_and_the_changelog_has_it_at_its_head() -> None:
    version = Version(__version__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", version.base_version)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    head = re.search(r"^## (\S+) \((.+)\)$", changelog, re.MULTILINE)
    assert head, "the CHANGELOG has no heading ## VERSION (date or unreleased)"
    assert head[1] == version.base_version
    assert (head[2] == "unreleased") == version.is_prerelease


# --- the citation ---------------------------------------------------------------------------------


def test_the_citation_names_the_project_and_the_paper() -> None:
    """The whole file was checked against the format's schema 1.2.0 with cffconvert."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    holder = re.search(r"Copyright \(c\) \d+, (.+)", (ROOT / "LICENSE").read_text("utf-8"))
    assert holder
    assert [author["name"].casefold() for author in citation["authors"]] == [holder[1].casefold()]
    [paper] = citation["references"]
    assert paper["url"] == "https://arxiv.org/abs/1902.01996"
    assert [author["family-names"] for author in paper["authors"]] == ["Zhang", "Bengio", "Singer"]


# --- the address of the repository ----------------------------------------------------------------

NOT_PLACES = ("docs/releasing.md", "docs/decisions/", "tests/")
"""Where OWNER is spoken of."""


def places_of_owner(files: dict[str, str]) -> dict[str, int]:
    """File → its lines that wait for the repository's owner; `hub:OWNER/NAME` is another's."""
    waiting = re.compile(r"\bOWNER\b(?!/NAME)")
    found = {name: sum(map(bool, map(waiting.search, s.splitlines()))) for name, s in files.items()}
    return {name: lines for name, lines in found.items() if lines}


def tracked() -> dict[str, str]:
    """File in the repository → its text, for those that have one."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = [name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()]
    found = {}
    for name in names:
        with contextlib.suppress(UnicodeDecodeError):
            found[name] = (ROOT / name).read_text(encoding="utf-8")
    assert len(found) >= 300
    return found


def test_what_waits_for_the_repositorys_owner_is_in_the_list_of_a_release() -> None:
    page = (ROOT / "docs" / "releasing.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^ *\| `([^`]+)` \| (\d+) \|", page, re.MULTILINE))
    files = {n: text for n, text in tracked().items() if not n.startswith(NOT_PLACES)}
    assert places_of_owner(files) == {name: int(lines) for name, lines in listed.items()}


def test_a_place_that_waits_for_the_owner_is_seen_and_a_repository_of_the_hub_is_none() -> None:
    found = places_of_owner({"a": "x\ngh/OWNER/layer-explorer\n- OWNER\n", "b": "hub:OWNER/NAME"})
    assert found == {"a": 2}


# --- the workflow ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    path = ROOT / ".github" / "workflows" / "tests.yml"
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert True in workflow  # the key `on`, as YAML 1.1 reads it
    return workflow["jobs"]


def test_the_workflow_runs_commands_of_the_makefile_and_nothing_else(jobs: dict[str, Any]) -> None:
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE))
    assert {"make test", "make test-slow", "make docs", "make dist"} == set(runs)
    assert [run for run in runs if run.removeprefix("make ") not in targets] == []


def test_the_workflow_tests_every_python_that_the_package_names(jobs: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if ":: 3." in line]
    assert jobs["test"]["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]}"
    assert len(named) >= 4


def test_every_job_checks_out_and_names_its_python_and_a_limit(jobs: dict[str, Any]) -> None:
    for job in jobs.values():
        uses = [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]
        assert uses[:2] == ["actions/checkout", "actions/setup-python"]
        assert job["timeout-minutes"] <= 180


# --- installed ------------------------------------------------------------------------------------

TYPED = """
import xarray as xr

import explorer as lx

stack: xr.DataTree = lx.open_stack("fcn3x256-digits")
sweep: int = lx.open_sweep("fcn3x256-digits")
"""


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of commands of an environment that has the wheel, and borrows the rest."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=True)
    commands = folder / ("Scripts" if os.name == "nt" else "bin")
    python = commands / "python"
    [wheel] = dist.glob("*.whl")
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True)
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return commands


def outside(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder that has nothing of the checkout."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=folder, env=clean, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_installed_wheel_is_what_runs_and_knows_its_version(
    installed: Path, tmp_path: Path
) -> None:
    where = outside(tmp_path, installed / "python", "-c", "import explorer; print(explorer)")
    assert str(installed.parent) in where.stdout, where.stderr
    assert outside(tmp_path, installed / "explorer", "--version").stdout.strip() == __version__


@pytest.mark.slow
def test_the_installed_wheel_lists_its_stacks_and_writes_a_report(
    installed: Path, tmp_path: Path
) -> None:
    listed = outside(tmp_path, installed / "explorer", "catalog")
    assert "fcn3x256-digits" in listed.stdout, listed.stderr
    command = ("report", "fcn3x256-digits", "--out", "demo")
    done = outside(tmp_path, installed / "explorer", *command)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "demo").iterdir()} >= {"report.html", "sweep.nc"}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["lab", "dashboard"])
def test_the_installed_wheel_opens_its_notebooks(
    command: str, installed: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    arguments = [installed / "explorer", command, "--no-browser", "--port", str(free_port())]
    with log.open("w") as said:
        server = subprocess.Popen(arguments, cwd=tmp_path, env=clean, stdout=said, stderr=said)
    try:
        deadline = time.monotonic() + 90
        address = None
        while address is None and server.poll() is None and time.monotonic() < deadline:
            address = re.search(r"http://127\.0\.0\.1:\d+/\S*token=\w+", log.read_text())
            time.sleep(0.2)
        assert address, log.read_text()
        with urllib.request.urlopen(address[0], timeout=90) as answer:
            assert answer.status == 200
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(600)  # mypy reads the types of torch and xarray anew
def test_the_installed_wheel_is_typed_for_those_who_use_it(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(TYPED, encoding="utf-8")
    mypy = shutil.which("mypy", path=sysconfig.get_path("scripts"))
    assert mypy
    python = f"--python-executable={installed / 'python'}"
    said = outside(tmp_path, mypy, "--strict", python, "typed.py").stdout
    assert "typed.py:7: error: Incompatible types in assignment" in said
    assert "Found 1 error in 1 file" in said
