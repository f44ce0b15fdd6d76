"""Names from a manifest, a checkpoint or a dataset stay names, wherever they are shown.

Every page is made twice, with names that are words and with names that are code: both must have
the same elements with the same attributes.
"""

from __future__ import annotations

import ast
import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from bokeh.models import HoverTool

import explorer as lx
from explorer.engine.interventions import Intervention, Zeros
from explorer.engine.judging import judge
from explorer.engine.overview import sweep_page
from explorer.stats.overview import distances_page
from explorer.ui import exports, panel_tables
from explorer.ui.across_page import comparison_page
from explorer.ui.across_panel import ACROSS
from explorer.ui.changes import Changes, changes_html
from explorer.ui.controls import Chooser
from explorer.ui.elements import PAGE
from explorer.ui.measured import Measured, measured_frame, measured_html
from explorer.ui.panel import Shown
from explorer.ui.panes import alert, heading, order_html
from explorer.ui.report import report_page
from explorer.ui.selection import Choice
from explorer.ui.settings import Settings
from explorer.ui.table import sweep_html
from explorer.ui.titles import without_formulae
from explorer.ui.verdict_table import verdict_html
from explorer.weights.overview import LayerSummary, stack_page
from tests import fakes

PLAIN = "plain"
HOSTILE = {
    "script": "<script>alert(1)</script>",
    "end of script": "</script><script>alert(2)</script>",
    "image": "\"><img src=x onerror='alert(3)'>",
    "attribute": "' onmouseover='alert(4)' x='\" onfocus=\"alert(5)",
    "comment": "--><svg onload=alert(6)><!--",
    "entity": "&lt;b&gt; &amp;lt;i&amp;gt;",
    "style": "</style><style>*{display:none}</style>",
    "textarea": "</textarea></title></caption></table><iframe src=//x.example>",
    "template": "${title} $facts {{7*7}} {% raw %} @{tip} @tip{safe} %s {0}",
    "code": "`</code><b>`",
    "formula": '=HYPERLINK("http://x.example","a")',
    "sum": "@SUM(A1)",
    "tex": "$$\\href{javascript:alert(7)}{x}$$ \\(y\\) \\[z\\]",
    "python": "'\"\n__import__('os').system('true')\n\"\"\"#\\",
    "separator": "a\u2028b\u2029c\u202ed",
}
HOSTILE["all"] = " ".join(HOSTILE.values())
SLOW = {"report": ("all",), "comparison": ("all",), "panel of other stacks": ("all",)}
"""Pages that take a second each: names of these kinds are enough."""


class Structure(HTMLParser):
    """Elements with the names of their attributes, and attributes that fetch or run something."""

    RUNS = re.compile(r"on\w+|src|srcdoc|href|action|formaction|xlink:href")

    def __init__(self, source):
        super().__init__()
        self.elements, self.running, self.text = [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, tuple(sorted(name for name, _ in attrs))))
        self.running += [(tag, name, value) for name, value in attrs if self.RUNS.fullmatch(name)]

    def handle_comment(self, data):
        self.elements.append(("comment", ()))

    def handle_data(self, data):
        self.text.append(data)


# --- what is shown, made of one name --------------------------------------------------------------


def named_sweep(name):
    sweep = fakes.sweep()
    for prefix, at in (("", (0, 0)), ("rerandomized_", (0, 0)), ("fullmodel_", (0,))):
        sweep[f"{prefix}error"].values[at] = np.nan
        sweep[f"{prefix}reason"].values[at] = f"broken {name}"
    texts = ("stack", "stack_title", "dataset", "dataset_hash", "device", "batchnorm", "execution")
    return sweep.assign_coords(layer=[name, "second"]).assign_attrs(
        dict.fromkeys(texts, name), doubt=f"doubt {name}", final_error=np.nan, other=name
    )


def named_distances(name):
    moved = fakes.distances().assign_coords(layer=[name, "second"])
    moved["reason"].values[0, 1] = f"damaged {name}"
    return moved.assign_attrs(yardstick=name, stack=name)


def named_choice(name):
    return Choice((fakes.GRID.cell(name, 0),)), lx.reinitialise(name, 0)


def changes_of(name, positions=1, inputs=None):
    answers = (np.array([0, 1]), np.array([0, 1]), np.array([1, 0]))
    return Changes(name, *answers, (name, "b"), positions, inputs or {})


def measured_of(name):
    choice, intervention = named_choice(name)
    counts = (fakes.Counted(100, 42), fakes.Counted(100, 42, failure=f"failed {name}"))
    return [Measured.of(choice, intervention, one) for one in counts]


def order_of(name):
    step = fakes.OrderStep(name, (name,), 0.12, 4)
    return fakes.Order((step,), step, 3, 3, finished=True)


def stack_attributes(name):
    texts = dict.fromkeys(("name", "title", "family", "dataset", "checkpoint_unit"), name)
    return {**texts, "notes": [name], "unreadable": {"3": name}}


def found_of(name, **variables):
    """What a panel shows: variables, each with its dims, over things of this name."""
    names = {"layer": [name, "second"], "epoch": [0, 1], "class": [name], "source": [name]}
    data = {
        one: (dims, np.full([len(names[dim]) for dim in dims], value))
        for one, (dims, value) in variables.items()
    }
    used = {dim for dims, _ in variables.values() for dim in dims}
    coords = {dim: values for dim, values in names.items() if dim in used}
    attrs = {"checkpoint_unit": "epoch", "quantity": name, "limit": 0.5, "parameters": 9}
    return xr.Dataset(data, coords, {**attrs, "final_error": 0.1, "margin": 0.1})


def effective_of(name):
    alone, together = ("source", "layer"), ("source",)
    return found_of(
        name,
        effective_parameters=(together, 4),
        layers_reset=(together, 1),
        joint_error=(together, 0.1),
        one_by_one_error=(together, 0.2),
        alone_error=(alone, 0.1),
        alone_within=(alone, 1),
        reset=(alone, 1),
    )


def criticality_of(name):
    numbers = dict.fromkeys(
        ("criticality", "alpha_best", "sigma_best", "passes"), (("layer",), np.nan)
    )
    return found_of(name, layer_reason=(("layer",), f"none {name}"), **numbers)


def paths_of(name):
    cells = ("layer", "epoch")
    return found_of(name, loss_barrier=(cells, 0.3), whole_loss_barrier=(("epoch",), 0.4))


def outputs_of(name):
    cells, classes = ("layer", "epoch"), ("class",)
    return found_of(
        name,
        js_divergence=(cells, 0.3),
        class_damage=((*cells, "class"), 0.2),
        class_examples=(classes, 10),
        intact_class_error=(classes, 0.1),
    )


def compared(name):
    label = name.replace("/", "∕")  # a stack of a comparison is a node of a tree, too
    sweeps = {label: named_sweep(name), "ours": named_sweep(PLAIN)}
    return lx.compare(sweeps, progress=False)


PAGES = {
    "report": lambda name: report_page(named_sweep(name), named_distances(name)),
    "sweep in a notebook": lambda name: sweep_page(named_sweep(name)),
    "table of a sweep": lambda name: sweep_html(named_sweep(name)),
    "distances": lambda name: distances_page(named_distances(name), "l2"),
    "stack": lambda name: stack_page(
        stack_attributes(name), [0, 1], [LayerSummary(name, 5, {name: (2, 2)}, (name,))]
    ),
    "comparison": lambda name: comparison_page(compared(name)),
    "panel of other stacks": lambda name: ACROSS.table(Shown(compared(name), None, "", 0)),
    "verdicts": lambda name: verdict_html(judge(named_sweep(name))),
    "panel of parameters": lambda name: panel_tables.effective_table(effective_of(name)),
    "panel of criticality": lambda name: panel_tables.criticality_table(criticality_of(name)),
    "panel of paths": lambda name: panel_tables.barrier_table(paths_of(name), "loss"),
    "panel of motion": lambda name: panel_tables.motion_table(
        found_of(name, rotation=(("layer", "epoch"), 0.3)), "rotation"
    ),
    "panel of outputs": lambda name: panel_tables.outputs_table(
        outputs_of(name), "js_divergence", name, 0
    ),
    "heading": lambda name: heading(name, 0.1, 0.9, "epoch", name),
    "error": lambda name: alert(name),
    "order": lambda name: order_html(order_of(name), 0.1, name),
    "measured": lambda name: measured_html(measured_of(name)),
    "changes of images": lambda name: changes_html(
        changes_of(name, inputs={0: np.eye(4), 1: np.eye(4)})
    ),
    "changes of texts": lambda name: changes_html(
        changes_of(name, positions=2, inputs={0: np.array([0, 1])})
    ),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_the_same_elements_whatever_the_names(page):
    harmless = Structure(PAGES[page](PLAIN))
    assert len(harmless.elements) >= 1
    for kind in SLOW.get(page, HOSTILE):
        found = Structure(PAGES[page](HOSTILE[kind]))
        assert found.elements == harmless.elements, kind
        expected = [(tag, at) for tag, at, _ in harmless.running]
        assert [(tag, at) for tag, at, _ in found.running] == expected, kind
        assert all(value.startswith("data:image/png;base64,") for *_, value in found.running), kind


def test_the_comparison_sees_what_is_not_escaped():
    for kind in ("script", "image", "attribute", "comment", "style", "textarea"):
        raw = [Structure(f"<p title='{name}'>{name}</p>") for name in (PLAIN, HOSTILE[kind])]
        assert raw[0].elements != raw[1].elements, kind


def test_a_report_says_the_names_and_its_scripts_have_them_only_in_their_data():
    """There they are strings of the JSON that BokehJS reads, and end no script."""
    name = HOSTILE["all"]
    harmless, page = (report_page(named_sweep(n), named_distances(n)) for n in (PLAIN, name))
    assert page.count("</script>") == harmless.count("</script>") > 0
    assert "".join(Structure(page).text).count(name) >= 5
    assert "alert(1)" not in re.sub(r"const docs_json = '.*';\n", "", page.rpartition("</main>")[2])


# --- widgets --------------------------------------------------------------------------------------

WITHOUT_SLASH = {kind: name.replace("/", "∕") for kind, name in HOSTILE.items()}
"""A layer of a stack is a node of a tree, whose name has no slash."""


def html_of(widget):
    """All HTML that a widget and its parts hand to the page."""
    found = [widget.value] if type(widget).__name__ == "HTML" else []
    for part in getattr(widget, "children", ()):
        found += html_of(part)
    return found


def explored(on_bench, name):
    stack = fakes.stack(name=name, content_hash="", layers=(name, "second"))
    stack.attrs.update(title=name, dataset=name, recorded_error=0.4)
    bench = on_bench(lambda _i: iter([fakes.Counted(100, 42)]), stack=stack)
    bench.tap(0, 0)
    bench.wait()
    bench.shown._find_order()
    bench.wait()
    bench.shown.status.complain(f"it broke: {name}")
    bench.shown.status.say(name)
    return bench


def test_the_explorer_has_the_same_elements_whatever_the_names(on_bench):
    harmless = [Structure(html).elements for html in html_of(explored(on_bench, PLAIN).explorer)]
    assert sum(map(len, harmless)) > 30
    bench = explored(on_bench, WITHOUT_SLASH["all"])
    pages = [Structure(html) for html in html_of(bench.explorer)]
    assert [page.elements for page in pages] == harmless
    for page in pages:
        assert all(value.startswith("data:image/png;base64,") for *_, value in page.running)


def test_names_reach_the_page_as_texts_of_menus_and_scripts_that_set_only_text(on_bench):
    name = WITHOUT_SLASH["all"]
    bench = on_bench(stack=fakes.stack(layers=(name, "second")))
    assert bench.controls.layer.options[0] == (name, 0)  # a text of an <option>
    assert not bench.controls.layer.description_allow_html
    assert bench.pictures.strip.layers[0]["name"] == name
    for script in ("cells.js", "strip.js", "export.js"):
        code = (PAGE / script).read_text(encoding="utf-8")
        assert len(code) > 1000
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", code)
    assert Chooser([name], name, lambda _name: True).stack.options[0] == (name, 0)


def test_hover_texts_are_one_template_without_names_whose_values_bokeh_escapes(on_bench):
    pictures = on_bench(stack=fakes.stack(layers=(WITHOUT_SLASH["all"], "second"))).pictures
    views = (pictures.errors, pictures.moved, pictures.relation, pictures.curve, pictures.profile)
    (template,) = {view.figure.select_one(HoverTool).tooltips for view in views}
    assert set(re.findall(r"[@$]\S*?(?=<)", template)) == {"@where", "@tip"}  # neither is {safe}


def test_titles_and_labels_have_no_formula_for_bokeh_to_set(on_bench):
    """BokehJS would look for MathJax, which it does not have here."""
    name = "$$a$$ \\(b\\) \\[c\\]"
    bench = on_bench(stack=fakes.stack(layers=(name, "second")))
    bench.tap(0, 0)
    bench.wait()
    shown = [
        *bench.pictures.errors.figure.yaxis[0].major_label_overrides.values(),
        *bench.pictures.moved.figure.yaxis[0].major_label_overrides.values(),
        bench.curve,
        bench.pictures.profile.figure.title.text,
    ]
    assert sum("c" in text.partition("b")[2] for text in shown) == 4
    for text in shown:
        assert not re.search(r"\$\$|\\\[|\\\(", text), text
    assert without_formulae(name).replace("\u2060", "") == name
    assert without_formulae("a $ b") == "a $ b"


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_of_a_csv_file_is_a_formula(start):
    name = f'{start}HYPERLINK("http://x.example","a")'
    sweep = named_sweep(name)
    sweep["reason"].values[0, 0] = f"{start}1+1"
    sweep["error"].values[1, 1] = -0.25  # a number, however wrong, stays one
    tables = exports._table(sweep), exports.csv_of(measured_frame(measured_of(name)))
    for table in tables:
        rows = list(csv.reader(io.StringIO(table, newline="")))
        assert len(rows) > 2
        for cell in (cell for row in rows for cell in row):
            assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
            assert not cell.startswith("-") or float(cell) == -0.25
    assert f"'{name}".replace("\r", " ") in [row[0] for row in csv.reader(io.StringIO(tables[0]))]


def test_other_texts_and_numbers_of_a_csv_file_are_as_they_are():
    table = list(csv.DictReader(io.StringIO(exports._table(fakes.sweep()))))
    assert table[0]["layer"] == "first"
    assert float(table[0]["error"]) == 0.7
    assert table[0]["reason"] == ""


def test_the_csv_file_has_every_number_of_the_picture():
    table = pd.read_csv(io.StringIO(exports._table(fakes.sweep())), dtype={"epoch": "Int64"})
    assert list(table.columns[:4]) == ["layer", "epoch", "draw", "error"]
    assert len(table) == 2 * 3 + 2 * 2 + 3
    fresh = table[table["draw"].notna()]
    assert fresh["epoch"].isna().all()
    assert fresh["error"].tolist() == [0.8, 0.9, 0.6, 0.8]
    whole = table[table["layer"] == "fullmodel"]
    assert dict(zip(whole["epoch"], whole["error"], strict=True)) == {0: 0.9, 1: 0.5, 5: 0.1}
    assert whole["draw"].isna().all()
    assert (table["examples"] == 100).all()
    assert table["error_low"].notna().all()
    assert len(exports._table(fakes.sweep().isel(draw=[])).splitlines()) == 1 + 2 * 3 + 3


class Handed:
    """Takes what is handed to the browser."""

    def hand_over(self, name, kind, content):
        self.name = name


@pytest.mark.parametrize(
    ("stack", "name"),
    [
        ("../../etc/passwd", "etc-passwd.csv"),
        ("..\\..\\a.bat", "a.bat.csv"),
        ("<b>", "b.csv"),
        ("\n\r", "explorer.csv"),
        ("", "explorer.csv"),
        ("resnet18bn-cifar10", "resnet18bn-cifar10.csv"),
    ],
)
def test_the_name_of_a_file_is_no_path(on_bench, stack, name):
    session, handed = on_bench(stack=fakes.stack()).session, Handed()
    session.results.attrs["stack"] = stack
    exports.hand_over("csv", session, handed)
    assert handed.name == name


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("joint", [False, True])
def test_code_to_be_copied_has_names_only_as_strings(kind, joint):
    name = HOSTILE[kind]
    layers = [name, f"other {name}"] if joint else name
    settings = Settings(data=name, device=name, batchnorm=name)
    for intervention in (lx.reinitialise(layers, 0), lx.rerandomise(layers, 1, 2)):
        code = exports.code_of(intervention, repr(name), settings)
        plain = exports.code_of(
            lx.reinitialise(["a", "b"] if joint else "a", 0), repr("a"), Settings(data="a")
        )
        tree = ast.parse(code)
        calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        assert calls <= {
            "lx.open_stack",
            "lx.evaluate",
            "lx.reinitialise",
            "lx.rerandomise",
            "print",
        }
        assert len(code.splitlines()) == len(plain.splitlines())
        strings = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        assert strings.count(name) == 5


def test_code_of_an_unusual_source_has_names_only_as_strings():
    name = HOSTILE["python"]
    code = exports.code_of(Intervention(((name, Zeros()),)), repr(name), Settings())
    calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call)}
    assert calls == {"lx.open_stack", "lx.evaluate", "Intervention", "Zeros", "print"}
