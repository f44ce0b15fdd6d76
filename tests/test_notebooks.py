"""The notebooks, run as a reader would run them, and what they must show."""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode
from html import escape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

import explorer as lx
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
    ],
    "06-exercises": ["for _ in practice_epochs(network):"],
}
"""What a reader brings along is the subject of these notebooks: a network, its training loop, the
files that other libraries write. Exactly these lines, so that nothing else slips in."""

FURTHER = "05b-further.ipynb"
"""Half a minute of searches and training: it is run by `make test-slow`."""

RUNNING = [
    pytest.param(path, marks=pytest.mark.slow) if path.name == FURTHER else path
    for path in NOTEBOOKS
]

COURSE = [path for path in NOTEBOOKS if re.match(r"\d\d[a-z]?-", path.name)]

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


class Images(HTMLParser):
    """The attributes of every <img> and <svg> in HTML, and the ids that things refer to."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag in ("img", "svg"):
            named = dict(attrs)
            self.found.append((named.get("alt", named.get("aria-label")), named.get("src", "")))


def pictures_in(source):
    """Alt text and target of every picture in Markdown, whichever way it is written."""
    yield from re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", source)
    yield from Images(source).found


def pictures_of(notebook):
    """Alt text and target of every picture in the words of a notebook, and its attachments."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for alt, target in pictures_in(cell.source):
                yield alt, target, cell.get("attachments", {})


def complaint(alt):
    """Say why an alt text does not tell anything; empty if it may."""
    if not alt or not alt.strip():
        return "none"
    if re.search(r"\.(png|svg|jpe?g|gif|webp)\b|^(image|picture|figure)?[\s\d_-]*$", alt, re.I):
        return "the name of a file, or of nothing"
    return "" if len(alt.split()) >= 10 else "too short to stand for a picture"


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_a_reader_who_runs_nothing_sees_pictures_with_words_for_those_who_cannot_see(path):
    found = list(pictures_of(nbformat.read(path, as_version=4)))
    assert found
    for alt, target, attachments in found:
        assert complaint(alt) == "", target
        if target.startswith("attachment:"):
            image = b64decode(attachments[target.removeprefix("attachment:")]["image/png"])
        else:
            image = (REPOSITORY / "notebooks" / target).read_bytes()
        assert image.startswith(b"\x89PNG")
        assert len(image) < MOST_PICTURE_BYTES


def test_every_attached_picture_is_shown():
    for path in COURSE:
        for cell in nbformat.read(path, as_version=4).cells:
            for name in cell.get("attachments", {}):
                assert f"](attachment:{name})" in cell.source


def test_the_test_of_alt_texts_sees_pictures_however_they_are_written():
    source = "![a](b.png) <img src='c.png'>\n<img alt='' src=d.png><svg aria-label='five'></svg>"
    assert list(pictures_in(source)) == [
        ("a", "b.png"),
        (None, "c.png"),
        ("", "d.png"),
        ("five", ""),
    ]
    assert complaint("family-fcn.png") == complaint("Figure 1") == complaint("image_2")
    assert complaint("A table of errors") == "too short to stand for a picture"
    assert complaint(None) == complaint(" ") == "none"


@pytest.mark.parametrize("path", RUNNING, ids=lambda path: path.stem)
def test_every_picture_that_a_notebook_draws_has_words_too(run, path):
    for output in outputs(run(path.name)):
        data = output.get("data", {})
        assert not {kind for kind in data if kind.startswith("image/")}, "no place for an alt text"
        for alt, _ in Images(data.get("text/html", "")).found:
            assert alt
        figures = list(figures_in(data))
        for figure in figures:
            named = dict(figure["attributes"]["html_attributes"]["entries"])
            assert len(named["aria-label"].split()) >= 3
        if "application/vnd.bokehjs_exec.v0+json" in data:
            assert figures, "figures of Bokeh that this test does not see"


def figures_in(data):
    """The figures of Bokeh in one output, as they are written down."""
    script = data.get("application/javascript", "")
    for text in re.findall(r"docs_json = (\{.*?\});\n", script):
        for document in json.loads(text).values():
            for model in models_in(document["roots"]):
                if model.get("name") == "Figure":
                    yield model


def models_in(value):
    """Every object in a document of Bokeh."""
    if isinstance(value, dict):
        if "attributes" in value:
            yield value
        for inner in value.values():
            yield from models_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from models_in(inner)


def headings(notebook):
    """Every heading of a notebook, from top to bottom: level and text."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            words = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
            yield from ((len(m), text) for m, text in re.findall(r"^(#+) (.+)$", words, re.M))


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_a_notebook_of_the_course_says_what_is_learnt_how_long_it_takes_and_what_comes_next(path):
    notebook = nbformat.read(path, as_version=4)
    opening, *_, closing = (cell.source for cell in notebook.cells)
    assert re.match(r"# .+\n\n- \*\*You will learn:\*\* .+\n- \*\*Time:\*\* ", opening)
    (minutes,) = re.findall(r"\*\*Time:\*\* about (\d+) minutes", opening)
    assert 10 <= int(minutes) <= 20
    assert "\n- **You need:** " in opening
    assert closing.startswith("## What you now know\n\n- ")
    assert "\n**Next:** " in closing
    cells = [cell.source for cell in notebook.cells]
    (asked,) = (k for k, text in enumerate(cells) if "**Predict before you run.**" in text)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert "code" in kinds[asked:]


@pytest.mark.parametrize("name", ["05-beyond.ipynb", "05b-further.ipynb"])
def test_before_each_experiment_beyond_the_paper_the_reader_predicts(name):
    """A section is what stands below a heading of the second level."""
    cells = nbformat.read(REPOSITORY / "notebooks" / name, as_version=4).cells
    begins = [k for k, cell in enumerate(cells) if cell.source.startswith("## ")]
    sections = [cells[k:end] for k, end in pairwise([*begins, len(cells)])]
    asked = [part for part in sections if any(cell.cell_type == "code" for cell in part)]
    assert len(asked) >= 5
    for part in asked:
        first = [cell.cell_type for cell in part].index("code")
        said = "".join(cell.source for cell in part[:first])
        assert re.search(r"\*\*Predict(:| before you run\.)\*\*", said), part[0].source


WORDS_A_MINUTE = 100
"""Slow reading, of a text with pictures, by somebody for whom its words are new."""


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_a_notebook_can_be_read_in_its_time(path):
    cells = nbformat.read(path, as_version=4).cells
    (minutes,) = re.findall(r"\*\*Time:\*\* about (\d+) minutes", cells[0].source)
    said = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    read = re.sub(r"<details>.*?</details>|!\[[^\]]*\]", "", said, flags=re.DOTALL)
    assert len(read.split()) <= WORDS_A_MINUTE * int(minutes)


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_headings_go_down_one_level_at_a_time(path):
    levels = [level for level, _ in headings(nbformat.read(path, as_version=4))]
    assert levels[0] == 1
    assert len(levels) >= 5
    assert all(below <= above + 1 for above, below in pairwise(levels))


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_what_a_notebook_links_to_is_there(path):
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    targets = re.findall(r"(?<!!)\[[^\]]*\]\(([^)]+)\)", text)
    local = [one for one in targets if "://" not in one]
    assert all((REPOSITORY / "notebooks" / one).exists() for one in local), local


@pytest.mark.parametrize("path", RUNNING, ids=lambda path: path.stem)
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
    notebook = run("01-first-click.ipynb")
    verdicts = {n: verdict_of(f"layer{n}", "FCN 3×256 on framed", notebook) for n in (1, 2, 3, 4)}
    assert verdicts == {1: "critical", 2: "critical", 3: "robust", 4: "robust"}


def test_the_first_notebook_measures_one_cell_as_its_words_say(run):
    one = next(t for t in shown(run("01-first-click.ipynb"), "text/plain") if t.startswith("0."))
    assert round(100 * float(one)) == 71
    said = "".join(cell.source for cell in run("01-first-click.ipynb").cells)
    assert "**71 %**" in said


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
    assert {name for name, row in judged.items() if row[0] == "undecided"} == {
        "stage1.resblk2",
        "stage3.resblk2",
    }
    at_start = 100 * lx.open_sweep("resnet18-digits")["error"].sel(epoch=0)
    for layer, error in re.findall(
        r"`(stage\d\S*)` (?:leaves an error|one) of ([\d.]+) %", said_in(BEYOND)
    ):
        assert float(at_start.sel(layer=layer)) == pytest.approx(float(error), abs=0.05)
    both = table_with("ε = a tenth of the way", notebook)
    assert both["layer3"] == ["robust", "robust"]
    assert both["layer4"] == ["undecided", "robust"]
    assert both["layer2"] == ["undecided", "robust"]
    assert both["layer1"] == ["critical", "critical"]


def test_the_notebook_beyond_the_paper_shows_that_robust_alone_is_not_robust_together(run):
    found = table_with("effective_parameters", run(BEYOND))
    left, error, reset, together, total = found["epoch 0"]
    assert (int(left), int(reset), int(total)) == (269_322, 1, 335_114)
    assert round(100 * float(together)) == 34
    assert round(100 * float(error)) == 7
    assert 0.78 < 269_322 / 335_114 < 0.82  # four fifths
    assert int(found["fresh draw 0"][0]) == 335_114


def test_the_notebook_beyond_the_paper_shows_what_becomes_of_the_outputs(run):
    rows = table_with("js_divergence", run(BEYOND))
    numbers = {name: [float(number) for number in row] for name, row in rows.items()}
    error, ece, _ = numbers["layer3"]
    assert (round(100 * error, 1), round(100 * ece)) == (7.0, 26)
    assert round(100 * numbers["layer4"][1]) == 33
    assert max(numbers, key=lambda name: numbers[name][2]) == "layer1"


@pytest.mark.slow
def test_the_second_notebook_beyond_the_paper_shows_correlations_of_opposite_sign(run):
    correlations = {
        name: [float(number) for number in row]
        for name, row in table_with("vit_low", run(FURTHER)).items()
    }
    vgg, _, _, vit, _, high = correlations["rotation"]
    assert (vgg, vit) == (0.85, -0.53)
    assert 0 < high < 0.1  # "just reaches 0"
    assert all(row[0] > 0 > row[3] for row in correlations.values())


def test_networks_beside_each_other_are_what_the_notebook_says(run):
    rows = table_with("mean_rerandomized_damage", run(BEYOND))
    layers, error, _robust, _mixed, critical = (float(n) for n in rows["resnet18-digits"][:5])
    with_bn = [float(number) for number in rows["resnet18bn-digits"]]
    assert (layers, critical, with_bn[4]) == (10, 4, 8)
    assert abs(error - with_bn[1]) < 0.002
    assert abs(with_bn[-1]) < 0.2  # rank agreement of the two
    fresh = {name: float(row[7]) for name, row in rows.items()}
    assert sorted(fresh, key=fresh.get)[:2] == ["vit-digits", "mixer-digits"]
    assert (round(fresh["vit-digits"], 2), round(fresh["mixer-digits"], 2)) == (0.26, 0.34)


@pytest.mark.slow
def test_valleys_and_paths_show_what_the_notebook_says(run):
    notebook = run(FURTHER)
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
    (both,) = set(re.findall(r"[0-9.]{6,}", corner))
    assert round(100 * float(both), 1) == 10.4


@pytest.mark.slow
def test_single_layers_of_two_runs_have_low_barriers_and_all_together_a_high_one(run):
    notebook = run(FURTHER)
    pages = shown(notebook, "text/html")
    back, upto = (rows_of(p) for p in pages if "<th>epoch</th>" in p)
    assert all(height < 0.5 for row in back.values() for height in row)
    assert upto["layer4"][-1] > 15
    assert upto["layer1"][-1] < upto["layer4"][-1] / 3


@pytest.mark.parametrize(
    ("name", "count"), [(BEYOND, 4), pytest.param(FURTHER, 5, marks=pytest.mark.slow)]
)
def test_every_figure_beyond_the_paper_is_drawn(run, name, count):
    kind = "application/vnd.bokehjs_exec.v0+json"
    assert sum(kind in output.get("data", {}) for output in outputs(run(name))) == count


def test_the_way_back_rises_late_as_the_notebook_says():
    stack = lx.open_stack("fcn3x256-digits")
    back = lx.paths(stack, epochs=[0], layers=["layer1"], progress=False)
    error = (100 * back["error"].sel(layer="layer1", epoch=0)).to_series()
    said = [
        float(number)
        for number in re.findall(
            r"Half way back the error is ([\d.]+) %, .* climbs from (\d+) to (\d+) %",
            said_in(FURTHER),
        )[0]
    ]
    assert [round(error[0.5], 1), round(error[0.8]), round(error[1.0])] == said


def said_in(name):
    """The words of a notebook."""
    return "\n".join(
        cell.source
        for cell in nbformat.read(REPOSITORY / "notebooks" / name, as_version=4).cells
        if cell.cell_type == "markdown"
    )


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


EXERCISES = "06-exercises.ipynb"


def said_of(notebook):
    """What the check of each exercise says."""
    found = [
        re.search(r"<b>(Right|Not yet)\.</b> (.*)</p>", t) for t in shown(notebook, "text/html")
    ]
    return [match.groups() for match in found if match]


def test_the_exercises_as_they_come_are_not_yet_right_and_run_without_error(run):
    said = said_of(run(EXERCISES))
    assert [word for word, _ in said] == ["Not yet"] * 10
    assert all("in the place of the dots" in text for _, text in (*said[:5], *said[6:7]))
    assert "no answer under" in said[5][1]
    assert "goes on changing them" in said[7][1]


def test_each_exercise_has_a_hint_and_a_solution_folded_away():
    cells = nbformat.read(REPOSITORY / "notebooks" / EXERCISES, as_version=4).cells
    asked = [k for k, cell in enumerate(cells) if re.match(r"## \d+ · ", cell.source)]
    assert len(asked) == 10
    for number, at in enumerate(asked, 1):
        question, code, solution = (cell.source for cell in cells[at : at + 3])
        assert question.startswith(f"## {number} · ")
        assert question.count("<details>\n<summary>Hint</summary>\n\n") == 1
        assert question.endswith("\n\n</details>")
        assert f"check({number}, " in code
        assert solution.startswith("<details>\n<summary>Solution</summary>\n\n```python\n")
        assert solution.endswith("\n\n</details>")
        assert f"check({number}, " in solution


def test_what_is_folded_stays_folded_on_a_page(run):
    page, _ = HTMLExporter().from_notebook_node(run(EXERCISES))
    body = page[page.index("<body") :]
    assert body.count("<details>") == body.count("</details>") == 20
    assert "<details open" not in body
    folded = re.findall(r"<details>.*?</details>", body, re.DOTALL)
    solutions = [one for one in folded if "<summary>Solution" in one]
    assert all('class="highlight' in one for one in solutions)  # Markdown inside is read as such
    unfolded = re.sub(r"<details>.*?</details>", "", body, flags=re.DOTALL)
    assert "final + 0.1" not in unfolded
