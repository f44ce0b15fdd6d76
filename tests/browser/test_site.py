"""The documentation site: built without a warning, and asking nobody for anything."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import explorer as lx
from scripts.docs.links import for_site
from scripts.docs.notebooks import notebook_page
from scripts.docs.reference import GROUPS, commands, help_of
from scripts.docs.sources import BELOW, CHAPTERS, matching, toctree
from tests.browser.pages import REPOSITORY, Watched

GALLERY = "fcn3x256-digits"
"""The one report of the site that is tested; the others take as long again each."""

LOADS = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object|input)\b[^>]*?\b(?:src|data)=[\"']?"
    r"(?:https?:)?//[^\"'> ]+"
    r"|<link\b[^>]*?\bhref=[\"']?(?:https?:)?//[^\"'> ]+"
    r"|(?:url\(|@import )[\"']?(?:https?:)?//[^\"') ]+",
    re.IGNORECASE,
)
"""What makes a browser fetch something from another machine; links to be clicked do not."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, with one report in its gallery."""
    if importlib.util.find_spec("sphinx") is None and not os.environ.get("CI"):
        pytest.skip("needs the extra [docs]; where CI is set this would be an error")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "scripts.docs.build", "--out", str(folder), "--gallery", GALLERY],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Serve the site on this machine."""
    handler = functools.partial(Quiet, directory=str(site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def log_message(self, *_: object) -> None:
        pass


# --- as files -------------------------------------------------------------------------------------


@pytest.mark.timeout(600)
def test_the_site_has_every_page_with_nothing_from_elsewhere(site: Path) -> None:
    pages = {path.relative_to(site).as_posix(): path for path in site.rglob("*.html")}
    for name in ("index", "tutorial", "how-to/own-model", "explanation/the-science", "trust"):
        assert f"{name}.html" in pages
    sources = [path for path in (REPOSITORY / "docs").rglob("*.md")]
    missing = {p.relative_to(REPOSITORY / "docs").with_suffix(".html").as_posix() for p in sources}
    assert missing - set(pages) == set()
    course = {path.stem for path in (REPOSITORY / "notebooks").glob("[0-9]*.ipynb")}
    assert len(course) >= 7
    assert {f"notebooks/{name}.html" for name in course} - set(pages) == set()
    assert len(pages) >= 60
    styles = [*site.rglob("*.css")]
    assert len(styles) >= 2
    texts = {path: path.read_text(encoding="utf-8") for path in (*pages.values(), *styles)}
    assert {str(p): LOADS.findall(text) for p, text in texts.items() if LOADS.search(text)} == {}


@pytest.mark.parametrize(
    "text",
    [
        '<script defer src="https://cdn.example/x.js"></script>',
        "<link rel=stylesheet href=//fonts.example/css>",
        "<style>@import 'https://fonts.example/css'</style>",
        "body { background: url(https://x.example/a.png) }",
        '<img alt="a" src="http://x.example/a.png">',
    ],
)
def test_what_would_be_fetched_from_elsewhere_is_seen(text: str) -> None:
    assert LOADS.search(text)
    assert not LOADS.search('<a href="https://arxiv.org/abs/1902.01996">the paper</a>')


def test_formulas_are_mathml(site: Path) -> None:
    page = (site / "explanation" / "the-science.html").read_text(encoding="utf-8")
    assert page.count("<math") >= 20
    assert "\\theta" not in re.sub(r"<title>.*?</title>", "", page)


UNDER_AN_ACCENT = re.compile(
    r"<munderover>(?:(?!</munderover>).)*[~^¯→˙]\s*</mo>\s*</munderover>", re.S
)
"""What docutils makes of an index on an accented letter: it stands below the letter."""


def test_an_index_of_an_accented_letter_stands_beside_it(site: Path) -> None:
    tex2mathml = pytest.importorskip("docutils.utils.math.latex2mathml").tex2mathml
    assert UNDER_AN_ACCENT.search(tex2mathml(r"\tilde\theta_d"))
    assert not UNDER_AN_ACCENT.search(tex2mathml(r"\tilde\theta{}_d + \sum_{i=1}^n x_i"))
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert [str(path) for path, text in pages.items() if UNDER_AN_ACCENT.search(text)] == []


def test_every_public_name_error_and_command_is_in_the_reference(site: Path) -> None:
    python = (site / "reference" / "python.html").read_text(encoding="utf-8")
    names = [name for names in GROUPS.values() for name in names]
    assert sorted([*names, "__version__"]) == sorted(lx.__all__)
    assert [name for name in names if f'id="explorer.{name}"' not in python] == []
    errors = (site / "reference" / "errors.html").read_text(encoding="utf-8")
    assert errors.count('id="explorer.errors.') >= 10
    line = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    known = commands(help_of())
    assert len(known) >= 16
    assert [name for name in known if f'id="explorer-{name}"' not in line] == []
    assert line.count("usage: explorer") == len(known) + 1


def test_the_notebooks_are_pages_with_their_pictures(site: Path) -> None:
    page = (site / "notebooks" / "01-first-click.html").read_text(encoding="utf-8")
    assert "<h1>First click: which layers of a trained network matter?" in page
    [picture, *_] = re.findall(r'<img[^>]* src="\.\./([^"]+)"', page)
    assert (site / picture).stat().st_size > 5_000
    text, pictures = notebook_page(REPOSITORY / "notebooks" / "01-first-click.ipynb")
    assert "attachment:" in text
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())


def test_links_lead_from_page_to_page_and_a_file_that_is_no_page_keeps_its_name() -> None:
    text = "[a](../../CONTRIBUTING.md#layout) [b](../stacks.md) [c](../../pyproject.toml) [d](#e)"
    found = for_site(f"{text} `[f](../stacks.md)`", "docs/how-to/own-model.md")
    links = "[a](../contributing.md#layout) [b](../stacks.md) c [d](#e)"
    assert found == f"{links} `[f](../stacks.md)`"
    assert for_site("![a](../benchmarks/x.png)", "docs/check.md") == "![a](../benchmarks/x.png)"
    notebook = for_site("![a](../docs/images/x.png) [b](02-x.ipynb)", "notebooks/01-y.ipynb")
    assert notebook == "![a](../images/x.png) [b](02-x.md)"


def test_a_page_stands_once_in_the_side_bar_and_a_pattern_may_match_nothing() -> None:
    names = ["how-to/a", "how-to/b", "stacks"]
    assert matching(names, ["how-to/b", "how-to/*", "across*"]) == ["how-to/b", "how-to/a"]
    assert toctree("Course", []) == ""
    assert all(patterns for patterns in (*CHAPTERS.values(), *BELOW.values()))


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture
def visit(chromium: Any, address: str) -> Iterator[Any]:
    """Return a function that opens a page of the site; in the end nobody else was asked."""
    contexts, opened = [], []

    def open_page(name: str, **settings: Any) -> Watched:
        contexts.append(chromium.new_context(**settings))
        contexts[-1].route(lambda url: not url.startswith(address), lambda route: route.abort())
        opened.append(Watched(contexts[-1].new_page()))
        opened[-1].page.goto(f"{address}{name}")
        return opened[-1]

    yield open_page
    for page in opened:
        assert page.hosts() == {"127.0.0.1"}
        assert page.complaints == []
    for context in contexts:
        context.close()


PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2}


@pytest.mark.browser
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", ["index", "tutorial", "explanation/the-science", "families", "reference/python"]
)
def test_a_page_fits_a_phone(visit: Any, name: str) -> None:
    page = visit(f"{name}.html", **PHONE)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
    page.screenshot(f"site-phone-{name.replace('/', '-')}")


@pytest.mark.browser
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_dark_where_the_reader_wants_it_dark(visit: Any, scheme: str) -> None:
    page = visit("explanation/the-science.html", color_scheme=scheme)
    colour = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
    assert brightness > 200 if scheme == "light" else brightness < 60
    page.screenshot(f"site-{scheme}")


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_the_search_finds_a_page_without_a_network(visit: Any) -> None:
    page = visit("search.html?q=criticality")
    page.page.locator("#search-results li a").first.wait_for()
    links = page.page.locator("#search-results li a").evaluate_all("all => all.map(a => a.href)")
    assert any("criticality.html" in link for link in links)


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_the_gallery_leads_to_live_reports(visit: Any) -> None:
    page = visit("gallery.html")
    page.screenshot("site-gallery")
    page.page.locator(".card").first.click()
    page.page.wait_for_url(f"**/gallery/{GALLERY}.html")
    page.wait_for("() => window.Bokeh?.documents?.length > 0")
    assert page.page.locator("canvas, .bk-Figure").count() > 0
