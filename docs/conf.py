"""Sphinx's settings for the manual."""

import sys
from pathlib import Path

import reattend

sys.path.insert(0, str(Path(__file__).parent))

project = "reattend"
release = reattend.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "registry_pages",
]
html_theme = "furo"
html_title = f"reattend {release}"
html_show_copyright = False  # LICENSE and NOTICE say it
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 4
default_role = "py:obj"  # `Session.attend` in a docstring is a link where it can be one

# The types in docstrings are words with shapes ("bool array [B, M]"), not names to link.
napoleon_use_param = False
napoleon_use_rtype = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
nitpicky = True
nitpick_ignore_regex = [("py:(obj|exc|class|meth|func)", ".*")]
