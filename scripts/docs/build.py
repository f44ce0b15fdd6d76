"""Build the documentation site into build/site: python -m scripts.docs.build, or make docs.

A warning of Sphinx is an error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from sphinx.cmd.build import build_main

from scripts.docs.gallery import bundled
from scripts.docs.links import ROOT
from scripts.docs.sources import LIVE, gather

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the site; returns the exit status of Sphinx: 0 if there was no warning."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--gallery", nargs="*", help="stacks of the gallery; default all bundled")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        gather(Path(folder), bundled() if options.gallery is None else options.gallery)
        strict = ["--fail-on-warning", "--keep-going", "--quiet", "--fresh-env"]
        live = ["--define", f"html_extra_path={Path(folder) / LIVE}", "--conf-dir", str(HERE)]
        return build_main([*strict, *live, folder, str(options.out)])


if __name__ == "__main__":
    sys.exit(main())
