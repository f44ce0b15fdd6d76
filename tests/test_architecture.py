"""Who may import whom. The rules are tables; that each checker can fail is tested at the end."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "explorer"
AT_LEAST_FILES = 45
AT_LEAST_IMPORTS = 450
"""What the scan has to have seen: a scan of nothing finds nothing wrong."""

BELOW_UI = {
    "errors",
    "arguments",
    "colours",
    "tables",
    "inventory",
    "weights",
    "data",
    "training",
    "engine",
    "stats",
    "doctor",
    "moving",
    "api",
}
PARTS = {
    "errors": set(),
    "arguments": {"errors"},
    "colours": set(),
    "tables": {"colours", "errors"},
    "inventory": {"errors"},
    "weights": {"errors", "arguments", "colours", "tables", "inventory"},
    "data": {"errors", "inventory"},
    "training": {"errors", "arguments", "weights", "data"},
    "engine": {"errors", "arguments", "tables", "inventory", "weights", "data"},
    "stats": {"errors", "colours", "tables"},
    "doctor": {"errors", "arguments", "colours", "tables", "inventory", "weights", "stats"},
    "moving": {"errors", "weights", "engine", "stats"},
    "api": BELOW_UI - {"api", "doctor", "moving"},
    "ui": BELOW_UI,
    "course": BELOW_UI - {"tables", "colours"},
    "servers": {"errors"},
    "lab": {"servers"},
    "commands": BELOW_UI | {"ui", "servers"},
    "cli": BELOW_UI | {"ui", "servers", "commands"},
    "__main__": {"cli"},
    "__init__": BELOW_UI | {"ui"},
}
"""Part → the other parts it may import. `__init__` names them for type checkers, loads none."""

USES_THE_PUBLIC_NAMES = {"cli", "commands"}
"""Parts that may also say `import explorer`, as other people's code does."""


@dataclass(frozen=True)
class Fence:
    """A third-party world and where it is allowed."""

    modules: tuple[str, ...]
    """Modules, with everything inside them."""

    not_in: tuple[str, ...] = ("",)
    """Files or folders (ending in /) of explorer/ that may not import them; by default all."""

    but_in: tuple[str, ...] = ()
    """Files or folders among these that may."""

    def allows(self, file: str) -> bool:
        """Say whether this file of explorer/ may import these modules."""
        return file.startswith(self.but_in) or not file.startswith(self.not_in)


TORCH = ("torch", "torchvision", "safetensors.torch")
NETWORK = (
    *("urllib", "http", "ftplib", "requests", "urllib3", "httpx", "aiohttp"),
    *("pooch", "fsspec", "torch.hub"),
)
XARRAY_IN_WEIGHTS = (
    *("weights/stack.py", "weights/lazy.py"),
    *("weights/labelled.py", "weights/saving.py", "weights/backend.py"),
    "weights/joined.py",
)
FENCES = (
    Fence(("numba", "llvmlite"), but_in=("stats/kernels.py",)),
    Fence(("bokeh", "ipywidgets", "jupyter_bokeh"), but_in=("ui/",)),
    Fence(
        TORCH,
        not_in=("errors.py", "inventory/", "stats/", "ui/"),
        but_in=("stats/torch_kernels.py",),
    ),
    Fence(("xarray",), not_in=("errors.py", "weights/"), but_in=XARRAY_IN_WEIGHTS),
    Fence(("huggingface_hub",), but_in=("inventory/hub_client.py",)),
    Fence(NETWORK, but_in=("inventory/store.py",)),
    Fence(("dask", "distributed", "cloudpickle"), but_in=("engine/cluster.py",)),
    Fence(("socket",), but_in=("inventory/store.py", "servers.py")),  # is the port free?
)


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """One imported name."""

    file: str
    """File of explorer/ that imports it, with forward slashes."""

    line: int
    """Line of the statement, from 1."""

    target: str
    """Dotted name; for `from a import b` it is a.b, whether b is a module or not."""

    @property
    def where(self) -> str:
        return f"explorer/{self.file}:{self.line} imports {self.target}"


def read_imports(source: str, file: str) -> list[Import]:
    """Find every import, also in functions and under TYPE_CHECKING; a relative one starts with '.'.

    Literal names given to `importlib.import_module` and `__import__` count as well.
    """
    found = []
    for node in ast.walk(ast.parse(source, file)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            targets = [f"{start}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
            targets = [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
        else:
            continue
        found += [Import(file, node.lineno, target) for target in targets]
    return found


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", None) or getattr(call.func, "id", "")


def part_of(file: str) -> str:
    """Name the part that a file of explorer/ belongs to: stats/kernels.py → stats."""
    return file.split("/")[0].removesuffix(".py")


def module_of(file: str) -> str:
    """Name the module that a file of explorer/ is: stats/__init__.py → explorer.stats."""
    return "explorer." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def is_inside(target: str, modules: Iterable[str]) -> bool:
    """Say whether a dotted name is one of the modules or inside one."""
    return any(target == module or target.startswith(module + ".") for module in modules)


# --- rules: each gives sentences, none when all is well -------------------------------------------


def broken_directions(imports: Iterable[Import]) -> list[str]:
    """Imports of our own code that the table PARTS does not allow."""
    broken = []
    for one in imports:
        steps = one.target.split(".")
        if one.target.startswith("."):
            broken.append(f"{one.where}: write it absolute")
        elif steps[0] != "explorer" or one.target == "explorer.__version__":
            continue
        elif len(steps) == 1 or steps[1] not in PARTS:
            if part_of(one.file) not in USES_THE_PUBLIC_NAMES:
                broken.append(f"{one.where}: import the module that defines it, not the package")
        else:
            own = part_of(one.file)
            if steps[1] != own and steps[1] not in PARTS.get(own, ()):
                broken.append(f"{one.where}: {own} may not import {steps[1]}")
    return broken


def broken_fences(imports: Iterable[Import]) -> list[str]:
    """Imports of third-party worlds where they do not belong."""
    return [
        f"{one.where}: not allowed here"
        for one in imports
        for fence in FENCES
        if is_inside(one.target, fence.modules) and not fence.allows(one.file)
    ]


def talkative_init(source: str, file: str) -> list[str]:
    """Statements beside the docstring in the __init__.py of a folder."""
    body = ast.parse(source, file).body
    return [
        f"explorer/{file}:{statement.lineno} holds more than a docstring"
        for number, statement in enumerate(body)
        if number > 0 or not _is_docstring(statement)
    ]


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def module_graph(imports: Iterable[Import], modules: Iterable[str]) -> dict[str, set[str]]:
    """Which of our modules imports which; the lazy `explorer/__init__.py` stays out."""
    graph: dict[str, set[str]] = {module: set() for module in modules}
    for one in imports:
        if one.file == "__init__.py":
            continue
        longest = one.target
        while longest and longest not in graph:
            longest = longest.rpartition(".")[0]
        if longest:
            graph[module_of(one.file)].add(longest)
    return graph


def find_cycle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Give the modules of one import cycle, in order; none when there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


# --- explorer as it is ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return {
        path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }


@pytest.fixture(scope="module")
def imports(sources: dict[str, str]) -> list[Import]:
    return [one for file, source in sources.items() for one in read_imports(source, file)]


def test_the_scan_sees_the_files_and_imports_that_are_there(
    sources: dict[str, str], imports: list[Import]
) -> None:
    assert len(sources) >= AT_LEAST_FILES
    assert len(imports) >= AT_LEAST_IMPORTS
    assert sum(one.target.startswith("explorer.") for one in imports) >= AT_LEAST_IMPORTS // 3


def test_every_file_belongs_to_a_part_of_the_table(sources: dict[str, str]) -> None:
    assert {part_of(file) for file in sources} <= set(PARTS)


def test_imports_go_down_only(imports: list[Import]) -> None:
    assert broken_directions(imports) == []


def test_heavy_worlds_stay_behind_their_fences(imports: list[Import]) -> None:
    assert broken_fences(imports) == []


def test_every_fence_is_about_a_place_that_exists(sources: dict[str, str]) -> None:
    places = {place for fence in FENCES for place in (*fence.not_in, *fence.but_in)}
    missing = {p for p in places if not any(file.startswith(p) for file in sources)}
    assert missing == set()


def test_no_two_modules_import_each_other(sources: dict[str, str], imports: list[Import]) -> None:
    graph = module_graph(imports, [module_of(file) for file in sources])
    assert sum(map(len, graph.values())) > len(graph) // 2
    assert find_cycle(graph) == []


def test_the_init_files_of_folders_hold_a_docstring_only(sources: dict[str, str]) -> None:
    inits = [file for file in sources if file.endswith("/__init__.py")]
    assert len(inits) >= 7
    assert [line for file in inits for line in talkative_init(sources[file], file)] == []


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("explorer", ("torch", "bokeh", "numba", "xarray", "distributed")),
        ("explorer.engine.sweep", ("dask", "distributed")),
        ("explorer.stats.distances", ("torch", "bokeh")),
        ("explorer.moving", ("torch", "bokeh", "numba")),
        (
            "explorer.weights.backend",
            ("torch", "bokeh", "numba", "safetensors", "explorer.weights.stack"),
        ),
    ],
)
def test_in_a_fresh_interpreter_a_light_module_loads_no_heavy_world(
    module: str, unwanted: tuple[str, ...]
) -> None:
    assert loaded_by(f"import {module}", (module, *unwanted)) == {module}


def loaded_by(statement: str, modules: Iterable[str]) -> set[str]:
    """Run a statement in a fresh interpreter and tell which of the modules are then loaded."""
    code = f"{statement}\nimport sys\nprint(*set({list(modules)!r}) & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


# --- the checkers can fail ------------------------------------------------------------------------


def test_imports_are_found_in_functions_under_type_checking_and_in_calls() -> None:
    source = """
import torch.nn as nn
from explorer.errors import DataError, StackError
if TYPE_CHECKING:
    from bokeh import models
def late():
    import numba
    from . import near
    importlib.import_module("requests")
    __import__("socket")
    importlib.import_module(name)
"""
    found = [(one.line, one.target) for one in read_imports(source, "engine/x.py")]
    assert sorted(found) == [
        (2, "torch.nn"),
        (3, "explorer.errors.DataError"),
        (3, "explorer.errors.StackError"),
        (5, "bokeh.models"),
        (7, "numba"),
        (8, "..near"),
        (9, "requests"),
        (10, "socket"),
    ]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("engine/sweep.py", "from explorer.weights.stack import open_stack"),
        ("engine/sweep.py", "from explorer.engine.evaluate import evaluate"),
        ("engine/sweep.py", "from explorer import errors"),
        ("engine/sweep.py", "from explorer import __version__"),
        ("engine/sweep.py", "import numpy as np"),
        ("api.py", "from explorer.stats.distances import distances"),
        ("ui/widget.py", "from explorer.api import distances"),
        ("cli.py", "from explorer.ui.report import write_report"),
        ("cli.py", "import explorer"),
        ("cli.py", "from explorer.servers import open_lab"),
        ("__main__.py", "from explorer.cli import main"),
        ("__init__.py", "from explorer.api import distances"),
    ],
)
def test_an_import_downwards_is_allowed(file: str, source: str) -> None:
    assert broken_directions(read_imports(source, file)) == []


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("engine/sweep.py", "from explorer.stats.kernels import l2", "engine may not import stats"),
        ("stats/distances.py", "import explorer.engine.sweep", "stats may not import engine"),
        ("weights/stack.py", "from explorer import ui", "weights may not import ui"),
        ("api.py", "from explorer.ui import widget", "api may not import ui"),
        ("errors.py", "from explorer.inventory import store", "errors may not import inventory"),
        ("servers.py", "from explorer.ui import widget", "servers may not import ui"),
        ("__main__.py", "from explorer.ui import widget", "__main__ may not import ui"),
        ("engine/sweep.py", "import explorer", "not the package"),
        ("ui/widget.py", "from explorer import open_stack", "not the package"),
        ("engine/sweep.py", "from . import evaluate", "write it absolute"),
        ("engine/sweep.py", "from ..weights import stack", "write it absolute"),
        ("new.py", "from explorer.errors import DataError", "new may not import errors"),
    ],
)
def test_an_import_upwards_or_sideways_is_refused(file: str, source: str, complaint: str) -> None:
    [sentence] = broken_directions(read_imports(source, file))
    assert complaint in sentence
    assert sentence.startswith(f"explorer/{file}:1 ")


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("stats/kernels.py", "import numba"),
        ("ui/views.py", "from bokeh.plotting import figure"),
        ("ui/widget.py", "import ipywidgets as W\nfrom jupyter_bokeh import BokehModel"),
        ("engine/evaluate.py", "import torch"),
        ("weights/checkpoints.py", "from safetensors import safe_open"),
        ("inventory/store.py", "from urllib import request"),
        ("inventory/hub_client.py", "import importlib\nimportlib.import_module('huggingface_hub')"),
        ("servers.py", "import socket"),
        ("engine/cluster.py", "from distributed import Client"),
        ("stats/distances.py", "import xarray as xr"),
        ("weights/stack.py", "import xarray as xr"),
        ("ui/views.py", "import torchlight"),
    ],
)
def test_a_heavy_import_inside_its_fence_is_allowed(file: str, source: str) -> None:
    assert broken_fences(read_imports(source, file)) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("stats/distances.py", "from numba import njit"),
        ("engine/sweep.py", "def f():\n    import numba"),
        ("engine/sweep.py", "import bokeh.models"),
        ("cli.py", "import ipywidgets"),
        ("stats/distances.py", "import torch"),
        ("inventory/manifest.py", "from torch import nn"),
        ("errors.py", "import torchvision"),
        ("ui/widget.py", "if TYPE_CHECKING:\n    import torch"),
        ("ui/widget.py", "from safetensors.torch import load_file"),
        ("weights/checkpoints.py", "import xarray"),
        ("weights/families/fcn.py", "import xarray"),
        ("data/datasets.py", "from urllib.request import urlopen"),
        ("weights/checkpoints.py", "import importlib\nimportlib.import_module('huggingface_hub')"),
        ("engine/sweep.py", "from torch import hub"),
        ("inventory/hub.py", "from urllib import request"),
        ("inventory/hub.py", "import huggingface_hub"),
        ("inventory/store.py", "from huggingface_hub import HfApi"),
        ("ui/widget.py", "import socket"),
        ("engine/sweep.py", "from distributed import Client"),
        ("api.py", "if TYPE_CHECKING:\n    import dask.array"),
    ],
)
def test_a_heavy_import_outside_its_fence_is_refused(file: str, source: str) -> None:
    [sentence] = broken_fences(read_imports(source, file))
    assert sentence.startswith(f"explorer/{file}:")


@pytest.mark.parametrize("source", ["", '"""Only words."""\n'])
def test_a_docstring_is_all_an_init_may_hold(source: str) -> None:
    assert talkative_init(source, "stats/__init__.py") == []


@pytest.mark.parametrize("source", ["import torch", '"""Words."""\nX = 1', "1"])
def test_anything_else_in_an_init_is_refused(source: str) -> None:
    assert len(talkative_init(source, "stats/__init__.py")) == 1


def test_a_cycle_is_found_through_three_modules_and_a_function() -> None:
    sources = {
        "engine/a.py": "from explorer.engine.b import f",
        "engine/b.py": "def f():\n    from explorer.engine import c",
        "engine/c.py": "import explorer.engine.a",
        "engine/d.py": "from explorer.engine.a import g",
    }
    imports = [one for file, text in sources.items() for one in read_imports(text, file)]
    graph = module_graph(imports, [module_of(file) for file in sources])
    cycle = find_cycle(graph)
    assert set(cycle) == {"explorer.engine.a", "explorer.engine.b", "explorer.engine.c"}
    del graph["explorer.engine.c"]
    assert find_cycle(graph) == []


def test_a_module_that_imports_itself_is_a_cycle() -> None:
    imports = read_imports("from explorer.engine.a import f", "engine/a.py")
    assert find_cycle(module_graph(imports, ["explorer.engine.a"])) != []


def test_the_fresh_interpreter_reports_what_is_loaded() -> None:
    assert loaded_by("import json.decoder", ("json", "json.decoder", "sqlite3")) == {
        "json",
        "json.decoder",
    }
