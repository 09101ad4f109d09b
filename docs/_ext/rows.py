"""The directive ``rows``: a table of the package's, described with the rows that it has."""

from __future__ import annotations

import inspect

from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import pymc_vi_ext


class Rows(SphinxDirective):
    """``.. rows:: pymc_vi_ext.inference.METHODS``, with a sentence or two on the table below it.

    Each row shows its name, and its value's class or function with the first line of its docstring.
    """

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Write the description and parse it in place."""
        module, _, name = self.arguments[0].rpartition(".")
        table = getattr(import_module(module), name)
        lines = [f".. py:data:: {name}", f"   :module: {module}", ""]
        lines += [f"   {line}" for line in self.content]
        lines += ["", "   .. list-table::", "      :widths: 25 75", ""]
        for key, row in table.items():
            value = row if inspect.isclass(row) or inspect.isroutine(row) else type(row)
            summary = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")
            role = "class" if inspect.isclass(value) else "func"
            lines.append(f'      * - ``"{key}"``')
            lines.append(f"        - :{role}:`~{_address(value, module)}`: {summary}")
        return self.parse_text_to_nodes("\n".join(lines))


def _address(value: Any, module: str) -> str:
    """Return the shortest name that the pages know `value` by."""
    name = value.__name__
    for home in ("pymc_vi_ext", module):
        public = home != "pymc_vi_ext" or name in pymc_vi_ext.__all__
        if public and getattr(import_module(home), name, None) is value:
            return f"{home}.{name}"
    return f"{value.__module__}.{name}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("rows", Rows)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
