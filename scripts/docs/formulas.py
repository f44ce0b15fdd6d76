"""Formulas as MathML, made when the site is built: a page needs no script to show them."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, Any]:
    """Let Sphinx write formulas by `within_text` and `by_itself`; it calls this by its name."""
    app.add_html_math_renderer("mathml", (within_text, None), (by_itself, None))
    return {"parallel_read_safe": True}


def within_text(writer: Any, node: nodes.math) -> None:
    """Write a formula that stands in a line."""
    writer.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def by_itself(writer: Any, node: nodes.math_block) -> None:
    """Write a formula that has lines of its own; a wide one scrolls and does not break the page."""
    writer.body.append(f'<div class="formula">{mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def mathml(node: nodes.Element, *, as_block: bool) -> str:
    """Return a formula as MathML; one that cannot be read is a warning, which ends the build."""
    try:
        return tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        logger.warning("%s In the formula: %s", error, node.astext(), location=node)
        return ""
