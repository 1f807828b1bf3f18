"""The site: `make docs` builds it into docs/_build/html. Building and reading it work offline."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

project = "Gradient Centralization"
author = "The gradient-centralization contributors"
copyright = author
version = release = re.search(r'__version__ = "(.+)"', (ROOT / "gc_core/__init__.py").read_text(encoding="utf-8"))[1]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.linkcode",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "extensions.complete",
    "extensions.docstrings",
    "extensions.mathml",
    "extensions.measured",
    "extensions.notebooks",
    "extensions.properties",
    "extensions.source",
]
exclude_patterns = ["_build", "extensions"]
nitpicky = True
# What is not ours is documented elsewhere, and elsewhere is the network.
nitpick_ignore_regex = [
    ("py:.*", r"(?!gc_(core|torch|jax|cupy|conformance)\b).*"),
    ("py:obj", r".*\(.*"),
    ("py:class", r"gc_\w+\.\w+\.\w+"),  # in signatures: types of modules that are not public
]
suppress_warnings = ["myst.strikethrough"]

# ---- Pages

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"

# ---- Docstrings: plain text with `code`, in the sections Args, Returns, Raises

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
autodoc_default_options = {"members": True}
napoleon_custom_sections = [("Attributes", "params_style"), "Formula", "Source"]
napoleon_use_rtype = False

# ---- Looks

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [(name, {"defer": "defer"}) for name in ("copy.js", "projection.js", "sliders.js")]
html_show_sphinx = False
html_copy_source = False
html_show_search_summary = False  # it would be fetched, which browsers refuse for files
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b62a4", "color-brand-content": "#0b62a4"},
    "dark_css_variables": {"color-brand-primary": "#7cc0ff", "color-brand-content": "#7cc0ff"},
}


def linkcode_resolve(domain, info):
    from extensions.source import link_to_object

    return link_to_object(info["module"], info["fullname"]) if info["module"] else None
