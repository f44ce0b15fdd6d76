"""Make the pictures of the notebooks: docs/images/*.png, and those inside the first notebook.

Notebooks are committed without outputs, so a reader who runs nothing sees these. They are drawn
from the bundled numbers by a headless Chromium. Run with ``make pictures`` after a sweep, a table
or the notebook of the reader's own model has changed.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import xarray as xr
from bokeh.embed import components
from bokeh.layouts import gridplot
from bokeh.resources import Resources
from nbclient import NotebookClient
from PIL import Image
from playwright.sync_api import sync_playwright
from set_up import BROWSERS  # beside this script, which is run by its path

import explorer as lx
from explorer.inventory.paper import paper_distances, paper_sweep
from explorer.ui.across_figure import multiples_of
from explorer.ui.effective_figure import effective_figure
from explorer.ui.landscapes import barrier_figure, path_figure, valley_figure
from explorer.ui.motion_figure import error_figure
from explorer.ui.outputs_figure import outputs_figure
from explorer.ui.table import sweep_html
from explorer.ui.verdict_figure import verdict_figure

ROOT = Path(__file__).parents[1]
IMAGES, NOTEBOOKS = ROOT / "docs" / "images", ROOT / "notebooks"

FAMILIES = {
    "fcn": "fcn3x256-digits",
    "vgg": "vgg11-digits",
    "resnet": "resnet18-digits",
    "resnet-bn": "resnet18bn-digits",
    "vit": "vit-digits",
    "mixer": "mixer-digits",
    "transformer": "transformer-text",
}
"""End of a picture's name → bundled stack."""

ATTACHED = {"family-fcn": "first-click.png", "question": "question.png"}
"""Picture that the first notebook carries → its name there."""

COLOURS = 128
"""Colours of a picture; fewer make a smaller file, and these are more than a table has."""

STYLE = """
body { margin: 0; background: #fff; color: #111; font: 13px/1.35 "DejaVu Sans", Arial, sans-serif }
main { display: inline-block; padding: 12px 16px }
table { border-collapse: collapse; margin: 4px 0 10px }
caption { text-align: left; padding: 4px 0 6px; font-weight: bold; max-width: 60em }
th, td { padding: 3px 8px; white-space: nowrap }
thead th { border-bottom: 1px solid #999 }
"""

BOXES = {"trained": "#2166ac", "epoch 0": "#f1f1f1", "fresh": "#f4a582"}
"""What a layer holds → colour of its box; the word stands in the box as well."""


def main() -> int:
    """Draw every picture, or those named; the first notebook carries its own, as it goes alone."""
    chosen = sys.argv[1:]
    executable = find_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(device_scale_factor=1.25, viewport={"width": 1400, "height": 900})
        for name, body in bodies():
            if chosen and name not in chosen:
                continue
            page.set_content(f"<style>{STYLE}</style><main>{body}</main>")
            if "data-root-id" in body:  # a figure of Bokeh, which draws itself
                page.wait_for_function("Bokeh.documents.every(one => one.is_idle)")
            png = reduced(page.locator("main").screenshot())
            (IMAGES / f"{name}.png").write_bytes(png)
            print(f"{name}: {len(png):,} bytes")
            if name in ATTACHED:
                attach(NOTEBOOKS / "01-first-click.ipynb", ATTACHED[name], png)
        browser.close()
    return 0


def find_browser() -> str | None:
    """Return the path of the system's Chromium or Chrome; None stands for Playwright's own."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def bodies() -> Iterator[tuple[str, str]]:
    """Name of each picture and what it shows, as HTML."""
    for name, stack in FAMILIES.items():
        yield f"family-{name}", sweep_html(lx.open_sweep(stack))
    for name, figure in (
        ("fcn", "fcn3x256-mnist"),
        ("vgg", "vgg11-cifar10"),
        ("resnet", "resnet50-imagenet"),
    ):
        both = (paper_sweep(figure), lx.open_sweep(FAMILIES[name]))
        yield f"paper-{name}", "".join(sweep_html(sweep) for sweep in both)
    yield "experiment", experiment(lx.open_sweep("fcn3x256-digits"))
    yield "question", question(lx.open_sweep("fcn3x256-digits"))
    yield "threshold", threshold()
    yield "paper-distances", norms()
    yield "own-model", own_model()
    yield from beyond()
    yield from further()


def beyond() -> Iterator[tuple[str, str]]:
    """Give the pictures of the fifth notebook."""
    stack = lx.open_stack("fcn3x256-digits")
    yield "verdicts", figure_html(verdict_figure(lx.verdicts("resnet18-digits")))
    found = lx.effective_parameters(stack, draws=1, device="cpu", progress=False)
    yield "together", figure_html(effective_figure(found))
    compared = lx.outputs(stack, epochs=[0, 8, 100], draws=1, device="cpu", progress=False)
    yield "outputs", figure_html(outputs_figure(compared))
    names = ["resnet18-digits", "resnet18bn-digits", "vit-digits", "mixer-digits"]
    yield "across", beside(multiples_of(lx.compare(names, progress=False)))


def further() -> Iterator[tuple[str, str]]:
    """Give the pictures of its second part."""
    rotated = []
    for title, name in (("VGG-11", "vgg11-digits"), ("Vision transformer", "vit-digits")):
        moved = lx.motion(lx.open_stack(name), sweep=lx.open_sweep(name), progress=False)
        rotated.append(error_figure(moved, "rotation"))
        rotated[-1].title.text = f"{title}\n{rotated[-1].title.text}"
    yield "motion", beside(rotated)
    stack = lx.open_stack("fcn3x256-digits")
    valley = lx.criticality(stack, layers=["layer4"], every_cell=True, draws=3, progress=False)
    yield "valley", figure_html(valley_figure(valley, "layer4"))
    back = lx.paths(stack, epochs=[0], layers=["layer1"], progress=False)
    yield "way-back", figure_html(path_figure(back, 0, "layer1"))
    with TemporaryDirectory() as folder:
        run = lx.train("fcn3x256-digits", out=folder, seed=1, epochs=8, progress=False)
        settings = {"start": "same", "shares": 5, "progress": False}
        between = lx.paths(stack, other=lx.open_stack(run), **settings)
    yield "barriers", figure_html(barrier_figure(between))


def beside(plots: Sequence[Any]) -> str:
    """Return figures of Bokeh, two in a row, as HTML."""
    for plot in plots:
        plot.update(sizing_mode="fixed", width=430)
    return embedded(gridplot(list(plots), ncols=2, toolbar_location=None))


def figure_html(plot: Any) -> str:
    """Return a figure of Bokeh, with the library, as HTML."""
    plot.update(sizing_mode="fixed", width=700)
    return embedded(plot)


def embedded(layout: Any) -> str:
    """Return something of Bokeh that has its size, with the library, as HTML."""
    return "".join((Resources("inline").render(), *components(layout)))


def experiment(sweep: xr.Dataset) -> str:
    """Draw the trained network and four changed ones, each with its test error."""
    layers = [str(layer) for layer in sweep["layer"].values]
    at_start = sweep["error"].sel(epoch=0)
    fresh = sweep["rerandomized_error"].sel(layer="layer4").mean("draw")
    networks = (
        ("as trained", {}, sweep.attrs["final_error"]),
        ("layer1 re-initialised", {"layer1": "epoch 0"}, at_start.sel(layer="layer1")),
        ("layer4 re-initialised", {"layer4": "epoch 0"}, at_start.sel(layer="layer4")),
        ("layer4 re-randomised", {"layer4": "fresh"}, fresh),
        ("fullmodel", dict.fromkeys(layers, "epoch 0"), sweep["fullmodel_error"].sel(epoch=0)),
    )
    return drawn(networks, layers)


def question(sweep: xr.Dataset) -> str:
    """Draw the trained network and two changed ones whose errors the reader is to guess."""
    networks = (
        ("as trained", {}, sweep.attrs["final_error"]),
        ("layer1 put back", {"layer1": "epoch 0"}, None),
        ("layer4 put back", {"layer4": "epoch 0"}, None),
    )
    return drawn(networks, [str(layer) for layer in sweep["layer"].values])


def drawn(networks: Sequence[tuple[str, dict[str, str], Any]], layers: list[str]) -> str:
    """Draw networks side by side: title, what the changed layers hold, test error."""
    columns = "".join(
        network(200 * at, title, {layer: holds.get(layer, "trained") for layer in layers}, error)
        for at, (title, holds, error) in enumerate(networks)
    )
    return f'<svg width="{200 * len(networks)}" height="270" font-size="14">{columns}</svg>'


def threshold() -> str:
    """Draw the way from the trained error to guessing, and where critical begins."""
    left, right = 60, 660
    at = left + (right - left) / 10
    return (
        '<svg width="720" height="150" font-size="14">'
        f'<rect x="{left}" y="60" width="{at - left}" height="22" fill="#2166ac"/>'
        f'<rect x="{at}" y="60" width="{right - at}" height="22" fill="#be161c"/>'
        f'<path d="M{at} 44V98" stroke="#111" stroke-width="2"/>'
        f'<text x="{at}" y="36" text-anchor="middle" font-weight="bold">'
        "a tenth of the way</text>"
        f'<text x="{left + 30}" y="116" text-anchor="middle" font-weight="bold">robust</text>'
        f'<text x="{(at + right) / 2}" y="116" text-anchor="middle" font-weight="bold">'
        "critical</text>"
        f'<text x="{left - 50}" y="140">error of the trained network</text>'
        f'<text x="{right + 50}" y="140" text-anchor="end">error of guessing</text>'
        "</svg>"
    )


def network(left: float, title: str, holds: dict[str, str], error: Any) -> str:
    """Draw one network as a column of boxes, input at the bottom; None: an error to be guessed."""
    said = "?" if error is None else f"{100 * float(error):.1f} %"
    parts = [
        f'<text x="{left + 90}" y="20" text-anchor="middle" font-weight="bold">{title}</text>',
        f'<text x="{left + 90}" y="250" text-anchor="middle">test error '
        f'<tspan font-weight="bold">{said}</tspan></text>',
    ]
    for at, (layer, value) in enumerate(holds.items()):
        top = 180 - 48 * at
        ink = "#fff" if value == "trained" else "#111"
        dashes = "" if value == "trained" else ' stroke-dasharray="5 3"'
        parts.append(
            f'<rect x="{left + 15}" y="{top}" width="150" height="38" rx="5" '
            f'fill="{BOXES[value]}" stroke="#333"{dashes}/>'
            f'<text x="{left + 90}" y="{top + 24}" text-anchor="middle" fill="{ink}">'
            f"{layer}: {value}</text>"
        )
    return "".join(parts)


def norms() -> str:
    """Draw how far each layer had moved and the error at epoch 0: the paper's network, and ours."""
    theirs, ours = paper_sweep("fcn3x256-mnist"), lx.open_sweep("fcn3x256-digits")
    moved = paper_distances("fcn3x256-mnist")["l2_normalised"].isel(epoch=-1)
    own = lx.distances(lx.open_stack("fcn3x256-digits"))["l2_per_sqrt_m"].isel(epoch=-1)
    left = scatter(0, "The paper's, on MNIST", "2-norm, normalised", moved, theirs)
    return (
        f'<svg width="920" height="350" font-size="14">{left}'
        f"{scatter(460, 'Ours, on digits', '‖Δ‖₂ / √m', own, ours)}</svg>"
    )


def scatter(left: float, title: str, measure: str, moved: xr.DataArray, sweep: xr.Dataset) -> str:
    """Draw one plot with a named point per layer; both axes begin at 0."""
    farthest = 1.25 * float(moved.max())
    parts = [
        f'<text x="{left + 70}" y="20" font-weight="bold">{escape(title)}</text>',
        f'<path d="M{left + 70} 40V290H{left + 440}" fill="none" stroke="#333"/>',
        f'<text x="{left + 255}" y="335" text-anchor="middle">moved at the end: {measure}</text>',
        f'<text transform="translate({left + 18} 165) rotate(-90)" text-anchor="middle">'
        "test error at epoch 0</text>",
    ]
    for share in (0, 0.2, 0.4, 0.6, 0.8):
        height = 290 - 290 * share
        parts.append(f'<text x="{left + 64}" y="{height + 5}" text-anchor="end">{share:.0%}</text>')
    for share in (0.0, 0.4, 0.8):
        across = left + 70 + 370 * share
        number = f"{farthest * share:.2g}"
        parts.append(f'<text x="{across}" y="310" text-anchor="middle">{number}</text>')
    for layer in sweep["layer"].values:
        error = float(sweep["error"].sel(layer=layer, epoch=0))
        x = left + 70 + 370 * float(moved.sel(layer=layer)) / farthest
        y = 290 - 290 * error
        parts.append(f'<circle cx="{x}" cy="{y}" r="6" fill="#be161c"/>')
        parts.append(f'<text x="{x + 10}" y="{y + 4}" font-size="12">{layer}</text>')
    return "".join(parts)


def own_model() -> str:
    """Run the notebook of the reader's own model and return the table that it shows."""
    content = nbformat.read(NOTEBOOKS / "04-your-own-model.ipynb", as_version=4)
    with TemporaryDirectory() as folder:
        NotebookClient(content, timeout=300, resources={"metadata": {"path": folder}}).execute()
    outputs = (output for cell in content.cells for output in cell.get("outputs", ()))
    pages = [output.get("data", {}).get("text/html", "") for output in outputs]
    (table,) = [page for page in pages if "Sweep of" in page]
    return f"<table>{table.partition('<table>')[2].partition('</table>')[0]}</table>"


def reduced(png: bytes) -> bytes:
    """Write a picture with few colours, as near as they come, which makes its file small."""
    out = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(COLOURS, kmeans=1, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def attach(path: Path, name: str, png: bytes) -> None:
    """Put a picture into the cell of a notebook that refers to it as an attachment."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    (cell,) = [c for c in notebook["cells"] if f"(attachment:{name})" in "".join(c["source"])]
    cell["attachments"] = {name: {"image/png": base64.b64encode(png).decode("ascii")}}
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
