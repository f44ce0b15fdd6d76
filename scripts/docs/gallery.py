"""The gallery: the report of each bundled stack, as a live page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import explorer as lx
from explorer.engine.verdicts import verdicts
from explorer.ui.report import report_page

CARDS = "<!-- the cards of the gallery -->"
"""Stands in docs/gallery.md where the site shows the reports."""


def bundled() -> list[str]:
    """List the stacks that come along."""
    return list(lx.catalog().query("kind == 'stack'").index)


def reports(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Give (name, page) of each report: the same page that `explorer report` writes.

    The sweeps are those that come along, so that a build of the site measures no network.
    """
    for name in names:
        yield name, report_page(lx.open_sweep(name), lx.distances(lx.open_stack(name)))


def cards(names: Sequence[str]) -> str:
    """Return a card for each report, as HTML."""
    return '<div class="cards">\n' + "\n".join(map(card, names)) + "\n</div>"


def card(name: str) -> str:
    """Return the link to one report, with its network's error and critical layers."""
    sweep = lx.open_sweep(name)
    critical = int((verdicts(sweep) == "critical").sum())
    title = escape(sweep.attrs["stack_title"])
    return (
        f'<a class="card" href="gallery/{name}.html"><strong>{title}</strong>'
        f"<span>test error {sweep.attrs['final_error']:.1%} · {critical} of "
        f"{sweep.sizes['layer']} layers critical</span></a>"
    )
