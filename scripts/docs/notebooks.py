"""Notebooks as pages: their text and code, nothing is run."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

ATTACHED = re.compile(r"\(attachment:([\w.-]+)\)")


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and the pictures that lie in it.

    Parameters
    ----------
    path : Path
        The notebook; its outputs are left out, since it is committed without.

    Returns
    -------
    str
        Text and code in their order; links as they are written in the notebook, those of its own
        pictures with the word `attachment`.
    dict of str to bytes
        Name → content of each picture, to be placed beside the page.
    """
    pieces, pictures = [], {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for name, forms in cell.get("attachments", {}).items():
                pictures[name] = base64.b64decode(next(iter(forms.values())))
            pieces.append(source)
        elif cell["cell_type"] == "code":
            pieces.append(f"```python\n{source}\n```")
    return "\n\n".join(pieces) + "\n", pictures


def beside_pictures(text: str) -> str:
    """Let a notebook's own pictures be looked for beside its page."""
    return ATTACHED.sub(r"(\1)", text)
