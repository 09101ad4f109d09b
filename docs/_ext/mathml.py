"""Formulas as MathML, which browsers lay out by themselves: neither a script nor a network.

A formula that cannot be converted is a warning, and its page shows the TeX. Few machines have a
font with the shapes that formulas need: STIX Two Math (SIL Open Font License) goes with the pages.
"""

from __future__ import annotations

import shutil

from html import escape
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger
from sphinx.writers.html5 import HTML5Translator

_LOGGER = getLogger(__name__)
_CONVERTER = LatexToMathML(fancy_error=False)


def _mathml(node: nodes.Element, display: bool) -> str:
    tex = node.astext()
    try:
        return _CONVERTER.convert_with_local_state(tex, displaystyle=display)
    except LatexError as error:
        _LOGGER.warning("no MathML for %r: %s", tex, error, location=node, type="mathml")
        return f"<code>{escape(tex)}</code>"


def _inline(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append(_mathml(node, display=False))
    raise nodes.SkipNode


def _block(self: HTML5Translator, node: nodes.Element) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(_mathml(node, display=True))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def _bring_font(app: Sphinx, error: Exception | None) -> None:
    """Copy the font that ``_static/pages.css`` names."""
    if error is None and app.builder.format == "html":
        with as_file(files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf") as font:
            shutil.copy(font, Path(app.outdir, "_static"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Offer ``html_math_renderer = "mathml"``, and bring its font."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("build-finished", _bring_font)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
