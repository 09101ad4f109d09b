"""What all figures share. They are made without pyplot, which would keep them in global state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too, without the pale yellow.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# Differing dashes keep lines apart that lie on each other.
_STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
LineStyle = tuple[str, Any]
# Inches of a letter in a legend, about, and of what stands around a label.
_OF_LETTER, _OF_HANDLE = 0.075, 0.7
# What the reference is where it stands behind everything else.
BACKDROP = "#9A9A9A"


def line_styles(labels: Iterable[str]) -> dict[str, LineStyle]:
    """Return colour and line style by label; the same labels in the same order look the same."""
    return {
        label: (_COLOURS[i % len(_COLOURS)], _STYLES[i % len(_STYLES)])
        for i, label in enumerate(labels)
    }


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches."""
    try:
        from pymc_vi_ext.plots._figure import ShownFigure
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install 'pymc-vi-ext[plots]'.") from error
    return ShownFigure(figsize=(width, height), layout="constrained", dpi=110)


def tidy(axes: Axes) -> None:
    """Leave the two axes that carry numbers."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def key(figure: Figure, axes: Axes) -> None:
    """Put the labels of `axes` below the figure, as many side by side as there is room for."""
    handles, texts = axes.get_legend_handles_labels()
    width = _OF_HANDLE + _OF_LETTER * max(map(len, texts), default=0)
    columns = max(1, min(len(texts), int(figure.get_figwidth() / width)))
    figure.legend(handles, texts, loc="outside lower center", ncols=columns, frameon=False)


def to_image(figure: Figure) -> np.ndarray:
    """Render a figure.

    Returns
    -------
    numpy.ndarray, shape (height, width, 3), dtype uint8
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # whose methods have no types
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
