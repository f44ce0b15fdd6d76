"""A short storm; `make storm` has the long one."""

from __future__ import annotations

import random

import pytest

from tests.browser.pages import Notebook
from tests.browser.storm import Storm, notebook_file

pytestmark = pytest.mark.browser


@pytest.fixture
def storm(lab, chromium):
    """Two explorers in one notebook, both shown."""
    path = notebook_file(lab.folder)
    context = chromium.new_context(viewport={"width": 1280, "height": 1500})
    page = context.new_page()
    page.on("dialog", lambda dialog: dialog.accept())  # leave a page that is not saved
    address = f"{lab.url}lab/tree/{path.name}?token={lab.token}&reset"
    storm = Storm(Notebook(page), address, random.Random(7))
    page.set_default_timeout(200_000)  # with other work on the machine JupyterLab takes minutes
    page.goto(address)
    storm.notebook.run_all()
    storm.wait_until_shown()
    yield storm
    context.close()


@pytest.mark.timeout(600)
def test_a_short_storm_leaves_everything_as_it_should_be(storm):
    storm.calm()
    for _ in range(8):
        storm.act()
    storm.do("settings", 0)
    storm.do("reload", 0)  # after other settings: a page asks for all widgets at once
    storm.calm()
    assert sum(storm.done.values()) > 5
    assert storm.done["reload"] >= 1
