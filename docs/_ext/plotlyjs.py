"""Pages with figures of plotly load one copy of plotly.js, which lies beside them.

A figure's own HTML either holds plotly.js, 4.8 MB each time, or asks a server for it. Here cells
leave the latter, and what asks the server is taken out again.
"""

from __future__ import annotations

import os
import re
import shutil

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

# What plotly marks figures with, and what asks for a script elsewhere, of plotly or of MathJax.
_FIGURE = 'class="plotly-graph-div"'
_ELSEWHERE = re.compile(
    r'<script[^>]*\bsrc="https?://[^"]*(?:plotly|mathjax)[^"]*"[^>]*></script>', re.I
)
_NAME = "plotly.min.js"
# Figures are drawn before the columns of the page have their widths, and columns can be folded.
_FIT = """<script>
addEventListener("load", () => {
  const fit = new ResizeObserver(found => found.forEach(one => Plotly.Plots.resize(one.target)));
  document.querySelectorAll(".plotly-graph-div").forEach(figure => fit.observe(figure));
});
</script>
"""


def _serve(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Let a page with figures load the copy, and no other."""
    body = context.get("body", "")
    if _FIGURE not in body:
        return
    import plotly

    copy = Path(app.outdir, "_static", _NAME)
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(Path(plotly.__file__).parent / "package_data" / _NAME, copy)
    here = context["pathto"](f"_static/{_NAME}", resource=True)
    context["body"] = (
        # Of its buttons one would send the figure to a server.
        f'<script src="{here}"></script>\n'
        "<script>Plotly.setPlotConfig({displayModeBar: false})</script>\n"
        + _FIT
        + "<noscript><p>Some pictures of this page move, and need JavaScript.</p></noscript>\n"
        + _ELSEWHERE.sub("", body)
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Choose the short HTML for the kernels, and mend the pages."""
    os.environ["PLOTLY_RENDERER"] = "sphinx_gallery"
    app.connect("html-page-context", _serve)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
