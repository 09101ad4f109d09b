"""Sphinx configuration. The tutorials run while the documentation builds; nothing is fetched."""

import os
import sys

from pathlib import Path

import pymc_vi_ext

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "pymc-vi-ext"
author = "The pymc-vi-ext developers"
project_copyright = "2026, The pymc-vi-ext developers"
release = pymc_vi_ext.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "mathml",
    "plotlyjs",
    "rows",
]
exclude_patterns = ["_build", "jupyter_execute", "benchmarks", "generated"]
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
html_title = "pymc-vi-ext"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_theme_options = {
    "header_links_before_dropdown": 7,
    "navbar_persistent": [],
    "navbar_end": ["search-button", "theme-switcher"],
    "show_prev_next": False,
}
# Pages without pages below them need no list of these.
html_sidebars: dict[str, list[str]] = {"index": [], "benchmarks": [], "architecture": []}

# Docstrings give types, and quote names as they are to be typed.
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
autosummary_generate = True
numpydoc_show_class_members = False
smartquotes = False
toc_object_entries_show_parents = "hide"
myst_enable_extensions = ["dollarmath", "colon_fence"]

nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
# Pages show what a first process takes.
os.environ["PYMC_VI_EXT_CACHE"] = "off"
# The notebooks run without ipywidgets, which tqdm would rather have.
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
