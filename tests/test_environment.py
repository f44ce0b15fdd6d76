"""The places that name dependencies agree, and the texts name files that exist."""

from __future__ import annotations

import re
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
CONDA_NAMES = {"pytorch-cpu": "torch", "pytorch": "torch"}
"""Names on conda-forge that differ from those of the Python packages."""

CONDA_ONLY = {"python", "pip"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def conda() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def bounds_of(requirements: list[str]) -> dict[str, SpecifierSet]:
    """Name → bounds of requirements, names in one spelling."""
    parsed = [Requirement(line) for line in requirements]
    return {canonicalize_name(one.name): one.specifier for one in parsed}


def bounds_in_conda(dependencies: list[Any]) -> dict[str, SpecifierSet]:
    """Name → bounds of the conda packages that are also Python packages of the project."""
    found = {}
    for line in dependencies:
        if isinstance(line, str):
            name, bounds = re.fullmatch(r"([\w.-]+) ?(.*)", line).groups()
            if name not in CONDA_ONLY:
                found[canonicalize_name(CONDA_NAMES.get(name, name))] = SpecifierSet(bounds)
    return found


def read_constraints(text: str) -> dict[str, Version]:
    """Name → tested version; a line that is anything else is an error."""
    tested: dict[str, Version] = {}
    for line in filter(None, (line.split("#")[0].strip() for line in text.splitlines())):
        pair = re.fullmatch(r"([\w.-]+)==([\w.]+)", line)
        assert pair, f"not name==version: {line}"
        name = canonicalize_name(pair[1])
        assert name not in tested, f"twice: {name}"
        tested[name] = Version(pair[2])
    return tested


def direct_bounds(project: dict[str, Any]) -> dict[str, SpecifierSet]:
    extras = project["optional-dependencies"]
    return bounds_of(project["dependencies"] + extras["test"] + extras["docs"])


# --- environment.yml ------------------------------------------------------------------------------


def test_environment_yml_names_the_same_packages_and_bounds_as_pyproject(
    project: dict[str, Any], conda: dict[str, Any]
) -> None:
    expected = bounds_of(project["dependencies"])
    assert len(expected) >= 17
    assert bounds_in_conda(conda["dependencies"]) == expected


def test_a_different_bound_in_environment_yml_is_seen() -> None:
    assert bounds_in_conda(["python=3.12", "pytorch-cpu>=2.9", "pip", {"pip": ["-e ."]}]) == {
        "torch": SpecifierSet(">=2.9")
    }
    assert bounds_in_conda(["tqdm>=4"]) != bounds_of(["tqdm>=4.66"])


def test_environment_yml_takes_the_cpu_build_a_supported_python_and_this_checkout(
    project: dict[str, Any], conda: dict[str, Any]
) -> None:
    lines = conda["dependencies"]
    [python] = [line for line in lines if str(line).startswith("python=")]
    assert SpecifierSet(project["requires-python"]).contains(python.removeprefix("python="))
    assert not any(str(line).startswith("pytorch>") for line in lines)
    assert lines[-1] == {"pip": ["-e ."]}
    assert conda["channels"] == ["conda-forge", "nodefaults"]


def test_environment_yml_is_the_only_file_for_binder(conda: dict[str, Any]) -> None:
    """Voila, installed, is an extension of the Jupyter server that Binder starts."""
    assert "voila" in bounds_in_conda(conda["dependencies"])
    assert not (ROOT / "postBuild").exists()
    assert not (ROOT / "binder").exists()
    assert not (ROOT / ".binder").exists()


# --- conda/recipe.yaml ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))


def test_the_conda_recipe_names_the_same_packages_and_bounds_as_pyproject(
    project: dict[str, Any], recipe: dict[str, Any]
) -> None:
    needs = recipe["requirements"]
    oldest = recipe["context"]["python_min"]
    assert project["requires-python"] == f">={oldest}"
    assert needs["run"][0] == "python >=${{ python_min }}"
    assert bounds_in_conda(needs["run"]) == bounds_of(project["dependencies"])
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    built_with = bounds_in_conda([line for line in needs["host"] if "$" not in line])
    assert built_with == bounds_of(pyproject["build-system"]["requires"])


def test_the_conda_recipe_says_what_pyproject_says(
    project: dict[str, Any], recipe: dict[str, Any]
) -> None:
    about = recipe["about"]
    assert recipe["package"]["name"] == project["name"]
    assert about["summary"] == project["description"]
    assert about["license"] == project["license"]
    assert about["license_file"] == project["license-files"]
    commands = [" = ".join(pair) for pair in project["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == commands
    assert re.fullmatch(r"[0-9a-f]{64}", recipe["source"]["sha256"])


# --- constraints.txt ------------------------------------------------------------------------------


def test_constraints_give_a_version_within_bounds_for_each_direct_dependency(
    project: dict[str, Any],
) -> None:
    tested = read_constraints((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    bounds = direct_bounds(project)
    assert len(bounds) >= 29
    assert len(tested) >= 45
    assert {name for name in bounds if name not in tested} == set()
    assert {n: str(tested[n]) for n, b in bounds.items() if not b.contains(tested[n])} == {}


def test_constraints_hold_names_and_versions_only() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for sign in ("://", "@", "+", "--"):
        assert sign not in text


@pytest.mark.parametrize(
    "line", ["torch==2.15.0+cpu", "torch @ file:///x", "--index-url x", "torch>=2", "a==1\na==2"]
)
def test_a_constraint_that_is_no_plain_version_is_refused(line: str) -> None:
    with pytest.raises(AssertionError, match=r"not name==version|twice: a"):
        read_constraints(line)


def test_torch_is_new_enough_for_the_files_of_strangers(project: dict[str, Any]) -> None:
    assert not direct_bounds(project)["torch"].contains("2.9.1")


def test_the_ipykernel_that_loses_updates_from_threads_is_excluded(
    project: dict[str, Any],
) -> None:
    bounds = direct_bounds(project)["ipykernel"]
    assert not bounds.contains("7.0.1")
    assert bounds.contains("7.1.0")


# --- texts ----------------------------------------------------------------------------------------

PATH_IN_TEXT = re.compile(
    r"`((?:explorer|tests|scripts|docs|benchmarks)/[\w./-]*)`|\]\((docs/[^)]+)\)"
)


def test_every_file_that_the_texts_for_contributors_name_exists() -> None:
    found = {a or b for text in contributor_texts() for a, b in PATH_IN_TEXT.findall(text)}
    assert len(found) >= 25
    assert sorted(name for name in found if not (ROOT / name).exists()) == []


def contributor_texts() -> list[str]:
    files = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "decisions").glob("*.md"))]
    assert len(files) >= 4
    return [file.read_text(encoding="utf-8") for file in files]


# --- how the tests run ----------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["explorer", "explorer.stats.kernels"])
def test_a_warning_from_our_own_code_is_an_error(module: str) -> None:
    with pytest.raises(UserWarning, match="careless"):
        warnings.warn_explicit("careless", UserWarning, "somewhere.py", 1, module=module)


def test_a_warning_from_other_code_is_not() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn_explicit("somebody else's", UserWarning, "x.py", 1, module="explorers.x")
    assert len(caught) == 1


def test_a_marker_with_a_typing_error_and_an_unexpected_pass_are_errors(
    pytestconfig: pytest.Config,
) -> None:
    assert pytestconfig.getini("xfail_strict") is True
    assert pytestconfig.getoption("strict_markers")
    assert float(pytestconfig.getini("timeout")) <= 120
