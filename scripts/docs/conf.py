"""Settings of Sphinx for the documentation site; scripts/docs/build.py calls it.

Nothing here makes a page ask another machine for anything: no fonts, no scripts, no pictures.
"""

from __future__ import annotations

import explorer

project = "Layer Explorer"
copyright = "the authors of Layer Explorer, BSD-3-Clause"
version = release = explorer.__version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
extensions += ["scripts.docs.formulas"]
html_math_renderer = "mathml"
highlight_language = "none"
default_role = "py:obj"  # `explorer.sweep` of a docstring becomes a link where there is a target

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # #what-is-tested, as forges make them

autodoc_typehints = "none"  # shapes, units and meanings stand in the docstrings
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
add_module_names = False

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_favicon = "static/favicon.svg"
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#8c1515", "color-brand-content": "#a11d1d"},
    "dark_css_variables": {"color-brand-primary": "#ff9d8a", "color-brand-content": "#ff9d8a"},
}
