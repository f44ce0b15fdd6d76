"""The notebooks, run as a reader would run them, and what they must show."""

from __future__ import annotations

import os
import re
from base64 import b64decode
from html import escape
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from explorer.inventory.manifest import load_manifest

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))

LOGIC = re.compile(r"^\s*(?:def|class|for|while|if|try|with)\b.*", re.MULTILINE)
OWN_LOGIC = {
    "04-your-own-model": [
        "class Net(nn.Module):",
        "def __init__(self):",
        "def forward(self, x):",
        "for _ in range(20):",
        "for rows in torch.randperm(len(x_train)).split(64):",
        "for epoch, state in enumerate(states):",
        "for step in (0, 21, 210, 420):",
    ]
}
"""What a reader brings along is the subject of this notebook: a network, its training loop, the
files that other libraries write. Exactly these lines, so that nothing else slips in."""

MOST_PICTURE_BYTES = 120_000


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
    found = [line.strip() for line in LOGIC.findall(code)]
    assert found == OWN_LOGIC.get(path.stem, [])


def pictures_of(path):
    """Alt text and target of every picture in the words of a notebook."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", cell.source):
                yield alt, target, cell.get("attachments", {})


@pytest.mark.parametrize("number", ["01", "02", "03", "04", "05"])
def test_a_reader_who_runs_nothing_sees_pictures_with_words_for_those_who_cannot_see(number):
    (path,) = [path for path in NOTEBOOKS if path.name.startswith(number)]
    found = list(pictures_of(path))
    assert found
    for alt, target, attachments in found:
        assert len(alt.split()) >= 10, target
        if target.startswith("attachment:"):
            image = b64decode(attachments[target.removeprefix("attachment:")]["image/png"])
        else:
            image = (REPOSITORY / "notebooks" / target).read_bytes()
        assert image.startswith(b"\x89PNG")
        assert len(image) < MOST_PICTURE_BYTES or target.endswith("/explorer.png")


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
    assert "BokehModel" in names  # the errors; the others are made when a page has drawn them


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
    pages = "".join(shown(notebook, "text/html"))
    (table,) = [t for t in re.findall("<table>.*?</table>", pages) if f"<caption>{title}" in t]
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
        ("ResNet-18, a tenth as wide, with", ["stage0", "stage1.resblk2"], ["stage4.resblk2"]),
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


def test_the_families_notebook_calls_a_block_mixed_that_is_shown_so(run):
    layer, title = "stage1.resblk1", "ResNet-18, a tenth as wide, no"
    assert verdict_of(layer, title, run("03-families.ipynb")) == "mixed"


@pytest.mark.parametrize(
    ("title", "critical", "robust", "mixed"),
    [
        ("FCN 3×256 on MNIST, the paper", ["layer1"], ["layer2", "layer3", "layer4"], []),
        ("FCN 3×256 on framed", ["layer1", "layer2"], ["layer3", "layer4"], []),
        (
            "VGG-11 on CIFAR-10, the paper",
            [
                *(f"stage{stage}.block1" for stage in (1, 2, 3, 4)),
                *("stage3.block2", "stage4.block2"),
            ],
            ["stage5.block1", "stage5.block2", "fc1", "fc2", "final_linear"],
            [],
        ),
        (
            "VGG-11, a tenth",
            [
                *(f"stage{stage}.block1" for stage in (1, 2, 3)),
                *("stage3.block2", "stage4.block2", "final_linear"),
            ],
            ["stage4.block1", "stage5.block1", "stage5.block2", "fc1", "fc2"],
            [],
        ),
        (
            "ResNet-50 with 1,000 classes, the paper",
            [
                *(f"stage{stage}.resblk1" for stage in (1, 2, 3, 4)),
                *("stage0", "final_linear", "stage4.resblk2", "stage4.resblk3"),
            ],
            ["stage1.resblk2", "stage2.resblk4", "stage3.resblk6"],
            [],
        ),
        (
            "ResNet-18, a tenth as wide, no",
            [*(f"stage{stage}.resblk1" for stage in (2, 3, 4)), "final_linear"],
            ["stage0", "stage4.resblk2"],
            ["stage1.resblk1"],
        ),
    ],
)
def test_what_the_papers_notebook_says_of_a_layer_is_what_it_shows(
    run, title, critical, robust, mixed
):
    notebook = run("02-the-paper.ipynb")
    expected = {"critical": critical, "robust": robust, "mixed": mixed}
    for word, layers in expected.items():
        for layer in layers:
            assert verdict_of(layer, title, notebook) == word, layer


def numbers_of(column, notebook):
    """One column of a table that pandas shows, by the names of the rows."""
    (table,) = [t for t in shown(notebook, "text/html") if f"<th>{column}</th>" in t]
    heads = re.findall(r"<th>([^<]*)</th>", table.split("</thead>")[0])
    heads = heads[1 : heads.index("layer")] if "layer" in heads else heads[1:]
    rows = re.findall(r"<th>(layer\d)</th>(.*?)</tr>", table, re.DOTALL)
    at = heads.index(column)
    return {name: float(re.findall(r"<td>([^<]*)</td>", row)[at]) for name, row in rows}


def test_the_papers_notebook_shows_that_norms_are_too_coarse(run):
    notebook = run("02-the-paper.ipynb")
    for whose in ("paper", "ours"):
        moved = numbers_of(f"{whose}: moved", notebook)
        errors = numbers_of(f"{whose}: error at 0", notebook)
        assert max(moved, key=moved.get) == "layer4"
        assert max(errors, key=errors.get) == "layer1"
        assert moved["layer1"] < moved["layer4"] / 3


def test_the_papers_notebook_shows_that_fresh_values_destroy_what_first_values_do_not(run):
    notebook = run("02-the-paper.ipynb")
    for first, fresh in (
        ("paper: epoch 0", "paper: fresh"),
        ("ours: epoch 0", "ours: fresh, best of 3"),
    ):
        assert all(error > 0.8 for error in numbers_of(fresh, notebook).values())
        assert all(numbers_of(first, notebook)[layer] < 0.11 for layer in ("layer3", "layer4"))


def test_the_papers_notebook_says_where_its_numbers_are_from(run):
    (table,) = [t for t in shown(run("02-the-paper.ipynb"), "text/html") if "precision" in t]
    assert table.count("±0.02") == 4
    assert "Fig. 1a" in table


def test_a_model_of_the_readers_own_is_swept_and_explored(run):
    notebook = run("04-your-own-model.ipynb")
    assert verdict_of("first", "states", notebook) == "critical"
    for layer in ("second", "third", "head"):
        assert verdict_of(layer, "states", notebook) == "robust"
    assert len(shown(notebook, "application/vnd.jupyter.widget-view+json")) == 1


def test_checkpoints_of_two_other_libraries_are_the_same_stack(run):
    notebook = run("04-your-own-model.ipynb")
    stacks = [page for page in shown(notebook, "text/html") if "Layers in forward order" in page]
    units = [re.search(r"(epoch|step)s <b>([^<]*)<", page).groups() for page in stacks]
    assert [unit for unit, _ in units] == ["epoch", "step", "step", "step"]
    assert "Taken off the beginning of the names: &#x27;model.&#x27;." in stacks[1]
    assert units[0][1].startswith("0, 1, 2")
    assert units[1][1] == units[2][1]
    assert units[1][1].startswith("0, 21, 42")
    assert units[3][1] == "0, 21, 210, 420"
    assert "[True, True, True, True]" in shown(notebook, "text/plain")


def test_the_readers_checkpoints_are_examined_and_compared(run):
    pages = shown(run("04-your-own-model.ipynb"), "text/html")
    (examined,) = [page for page in pages if "What was examined" in page]
    assert "0 errors, 0 warnings, 1 note" in examined
    (compared,) = [page for page in pages if "How far B is from A" in page]
    assert "step 420" in compared


BEYOND = "05-beyond.ipynb"


def table_with(column, notebook):
    """The rows of the table that has this column: the first head of each, and its cells."""
    (table,) = [t for t in shown(notebook, "text/html") if f"<th>{column}</th>" in t]
    rows = re.findall(r"<tr>\s*<th>(.*?)</th>(.*?)</tr>", table.split("<tbody>")[1], re.DOTALL)
    return {name: re.findall(r"<td>([^<]*)</td>", cells) for name, cells in rows}


def test_the_notebook_beyond_the_paper_judges_as_it_says(run):
    notebook = run(BEYOND)
    judged = table_with("because", notebook)
    assert judged["stage1.resblk1"][0] == "mixed"
    assert judged["stage2.resblk1"][0] == "critical"
    assert judged["stage4.resblk2"][0] == "robust"
    assert judged["stage3.resblk2"][0] == "undecided"
    both = table_with("ε = a tenth of the way", notebook)
    assert both["layer3"] == ["robust", "robust"]
    assert both["layer4"] == ["undecided", "robust"]
    assert all(wide != "undecided" for _, wide in both.values())


def test_the_notebook_beyond_the_paper_shows_that_robust_alone_is_not_robust_together(run):
    found = table_with("effective_parameters", run(BEYOND))
    left, _error, reset, together, total = found["epoch 0"]
    assert (int(left), int(reset), int(total)) == (269_322, 1, 335_114)
    assert float(together) > 0.3
    assert int(found["fresh draw 0"][0]) == 335_114


def test_the_notebook_beyond_the_paper_shows_what_becomes_of_the_outputs(run):
    rows = table_with("js_divergence", run(BEYOND))
    error, ece = (float(number) for number in rows["layer3"][:2])
    assert error < 0.08
    assert ece > 0.2


def test_the_notebook_beyond_the_paper_shows_correlations_of_opposite_sign(run):
    rotation = table_with("vit_low", run(BEYOND))["rotation"]
    vgg, vit = float(rotation[0]), float(rotation[3])
    assert vgg > 0.5 > 0 > -0.4 > vit


def test_networks_beside_each_other_are_what_the_notebook_says(run):
    rows = table_with("mean_rerandomized_damage", run(BEYOND))
    layers, error, _robust, _mixed, critical = (float(n) for n in rows["resnet18-digits"][:5])
    with_bn = [float(number) for number in rows["resnet18bn-digits"]]
    assert (layers, critical, with_bn[4]) == (10, 4, 8)
    assert abs(error - with_bn[1]) < 0.002
    assert abs(with_bn[-1]) < 0.2  # rank agreement of the two
    for name in ("vit-digits", "mixer-digits"):
        assert float(rows[name][7]) < 0.4  # fresh draws


def test_valleys_and_paths_show_what_the_notebook_says(run):
    notebook = run(BEYOND)
    strict, loose = (
        numbers_of_columns(table) for table in shown(notebook, "text/html") if "alpha_best" in table
    )
    order = sorted(strict["criticality"], key=strict["criticality"].get, reverse=True)
    assert order == ["layer1", "layer2", "layer3", "layer4"]
    assert set(strict["alpha_best"].values()) == {1.0}
    assert all(passes < 1210 / 9 for passes in strict["passes"].values())
    assert loose["alpha_best"]["layer1"] > max(
        loose["alpha_best"][layer] for layer in ("layer2", "layer3", "layer4")
    )
    corner = next(text for text in shown(notebook, "text/plain") if text.startswith("(0."))
    assert len(set(re.findall(r"[0-9.]{6,}", corner))) == 1


def test_single_layers_of_two_runs_have_low_barriers_and_all_together_a_high_one(run):
    notebook = run(BEYOND)
    pages = shown(notebook, "text/html")
    back, upto = (rows_of(p) for p in pages if "<th>epoch</th>" in p and "cka" not in p)
    assert all(height < 0.5 for row in back.values() for height in row)
    assert upto["layer4"][-1] > 15
    assert upto["layer1"][-1] < upto["layer4"][-1] / 3
    figures = [
        o for o in outputs(notebook) if "application/vnd.bokehjs_exec.v0+json" in o.get("data", {})
    ]
    assert len(figures) == 10


def rows_of(table):
    """The numbers of a table that pandas shows, by the names of its rows."""
    rows = re.findall(r"<th>(layer\d)</th>(.*?)</tr>", table, re.DOTALL)
    return {name: [float(n) for n in re.findall(r"<td>([^<]*)</td>", row)] for name, row in rows}


def numbers_of_columns(table):
    """The columns of a table that pandas shows, by their heads, each by the names of the rows."""
    heads = [h for h in re.findall(r"<th>([^<]*)</th>", table.split("</thead>")[0]) if h]
    heads = [head for head in heads if head != "layer"]
    rows = rows_of(table)
    return {h: {name: row[k] for name, row in rows.items()} for k, h in enumerate(heads)}
