"""Formulas as MathML, made when the site is built: a page needs no script to show them."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Let Sphinx write formulas by `within_text` and `by_itself`; it calls this by its name."""
    app.add_html_math_renderer("mathml", (within_text, None), (by_itself, None))
    return {"parallel_read_safe": True}


def within_text(writer: Any, node: nodes.math) -> None:
    """Write a formula that stands in a line."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def by_itself(writer: Any, node: nodes.math_block) -> None:
    """Write a formula that has lines of its own; a wide one scrolls and does not break the page."""
    formula = tex2mathml(node.astext(), as_block=True)
    writer.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode
