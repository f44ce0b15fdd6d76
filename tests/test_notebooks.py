"""The notebooks, run as a reader would run them, and what they must show."""

from __future__ import annotations

import os
import re
from html import escape
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from explorer.inventory.manifest import load_manifest

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function that runs a notebook by its name, once."""
    done = {}
    home = tmp_path_factory.mktemp("home")
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    own = {"IPYTHONDIR": str(home / "ipython"), "JUPYTER_CONFIG_DIR": str(home / "config")}

    def run_once(name):
        if name not in done:
            content = nbformat.read(REPOSITORY / "notebooks" / name, as_version=4)
            client = NotebookClient(content, timeout=300, resources={"metadata": {"path": home}})
            client.execute(env={**os.environ, **own, "PYTHONPATH": path})
            done[name] = content
        return done[name]

    return run_once


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def shown(notebook, kind):
    return [output.data[kind] for output in outputs(notebook) if kind in output.get("data", {})]


def test_there_are_notebooks():
    assert "01-first-click.ipynb" in [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_and_finds_its_kernel(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_and_has_no_logic(path):
    notebook = nbformat.read(path, as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert not re.findall(r"^\s*(?:def|class|for|while|if|try|with)\b", code, re.MULTILINE)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_without_errors_and_warnings(run, path):
    for output in outputs(run(path.name)):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.get("text")


def test_the_first_notebook_shows_an_explorer_and_brings_bokehjs_along(run):
    notebook = run("01-first-click.ipynb")
    (view,) = shown(notebook, "application/vnd.jupyter.widget-view+json")
    (script,) = shown(notebook, "application/javascript")
    assert "window.Bokeh" in script
    state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    assert state[view["model_id"]]["state"]["_model_name"] == "VBoxModel"
    names = [model["model_name"] for model in state.values()]
    assert names.count("BokehModel") == 5


def test_the_first_notebook_measures_the_final_error_that_the_manifest_states(run):
    text = "\n".join(shown(run("01-first-click.ipynb"), "text/plain"))
    measured = float(re.search(r"final_error:\s+([0-9.]+)", text)[1])
    expected = load_manifest().stacks["fcn3x256-digits"].test_error
    assert measured == pytest.approx(expected, abs=5e-4)


def test_the_first_notebook_finds_the_first_layer_critical(run):
    tables = shown(run("01-first-click.ipynb"), "text/html")
    (sweep,) = (table for table in tables if "<th>verdict</th>" in table)
    words = r"<th>(layer\d)</th>.*?<td>(robust|critical)</td>"
    verdicts = dict(re.findall(words, sweep, re.DOTALL))
    assert verdicts["layer1"] == "critical"
    assert verdicts["layer4"] == "robust"


def test_the_families_notebook_shows_every_bundled_stack_as_a_coloured_table(run):
    pages = shown(run("03-families.ipynb"), "text/html")
    tables = [page for page in pages if "test error in %" in page]
    titles = {escape(entry.title) for entry in load_manifest().stacks.values()}
    assert len(tables) == len(titles) == 7
    assert all(any(title in table for table in tables) for title in titles)


def verdict_of(layer, title, notebook):
    """The last cell of a layer's row in the table of a network."""
    (table,) = [t for t in shown(notebook, "text/html") if f"<caption>{title}" in t]
    row = re.search(rf'<th scope="row"[^>]*>{re.escape(layer)}</th>(.*?)</tr>', table)[1]
    return re.findall(r"<td[^>]*>([^<]*)</td>", row)[-1]


@pytest.mark.parametrize(
    ("title", "critical", "robust"),
    [
        ("VGG-11", ["stage1.block1", "stage2.block1", "stage3.block2"], ["fc1", "fc2"]),
        (
            "ResNet-18, a tenth as wide, no",
            ["stage2.resblk1", "stage3.resblk1", "final_linear"],
            ["stage4.resblk2", "stage0"],
        ),
        ("Vision transformer", ["embedding", "layer1.mlp", "head"], ["layer6.mlp"]),
        ("MLP-Mixer", ["head"], ["embedding", "layer6.mlp"]),
        ("Transformer", ["embedding", "layer1.attention"], []),
    ],
)
def test_what_the_families_notebook_says_of_a_layer_is_what_it_shows(run, title, critical, robust):
    notebook = run("03-families.ipynb")
    for layer in critical:
        assert verdict_of(layer, title, notebook) == "critical"
    for layer in robust:
        assert verdict_of(layer, title, notebook) == "robust"
