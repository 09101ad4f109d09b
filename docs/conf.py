"""Sphinx configuration. The tutorials run while the documentation builds."""

import pymc_vi_ext

project = "pymc-vi-ext"
author = "The pymc-vi-ext developers"
project_copyright = "2026, The pymc-vi-ext developers"
release = pymc_vi_ext.__version__

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["_build", "jupyter_execute", "benchmarks"]
html_theme = "pydata_sphinx_theme"
html_title = "pymc-vi-ext"

autosummary_generate = True
numpydoc_show_class_members = False
myst_enable_extensions = ["dollarmath", "colon_fence"]
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
