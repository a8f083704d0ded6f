"""Configuration of the documentation site: ``sphinx-build -W docs site``."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "lightning_reg"
author = copyright = "The lightning_reg authors"
release = metadata.version("lightning-reg")
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxarg.ext",
    "sphinx_copybutton",
    "sphinx_design",
    "reference_pages",
]
exclude_patterns = ["notebooks", "cluster"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nitpicky = True
nitpick_ignore_regex = [
    ("py:(class|obj|exc|data|attr)", r"(?!lightning_reg\.).*"),
    # variables of types
    ("py:(class|obj)", r"lightning_reg\..*\.(T|Item|Shared|Result|Component)"),
    ("py:.*", r"(torch|lightning|numpy|SimpleITK|torchio|scipy)\..*"),
]

html_theme = "furo"
html_title = "lightning_reg"
html_show_sphinx = False
smartquotes = False  # --option stays what it is
