"""Draws of two elements, a panel per method, over those of the reference."""

from __future__ import annotations

import math

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from pymc_vi_ext.plots._elements import Element, elements, limits
from pymc_vi_ext.plots._style import BACKDROP, line_styles, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 4
# More points would be one blot.
_POINTS = 1_000


def plot_pair(
    posteriors: Mapping[str, xr.DataTree],
    x: str,
    y: str,
    *,
    reference: str = "",
    labels: Sequence[str] | None = None,
    max_panels: int = 12,
) -> Figure:
    """Draw up to 1,000 draws of two elements, a panel per method, the reference's in grey behind.

    Parameters
    ----------
    posteriors : mapping of str to xarray.DataTree
        By label, each with a ``/posterior`` of dims (chain, draw, ...).
    x, y : str
        A variable without dims, such as ``"tau"``, or an element, such as ``"theta[Oslo]"`` or
        ``"b[0, 2]"``: by coords, or by position where there are none.
    reference : str
        Label of the reference; empty if there is none.
    labels : sequence of str, optional
        All labels that get a colour; by default those of `posteriors`.
    max_panels : int
        Methods drawn at most.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no posterior, or no such element.

    Examples
    --------
    >>> import arviz as az, numpy as np
    >>> from pymc_vi_ext.plots import plot_pair
    >>> draws = np.random.default_rng(0).normal(size=(1, 500, 2))
    >>> figure = plot_pair({"normal": az.from_dict({"posterior": {"b": draws}})}, "b[0]", "b[1]")
    >>> figure.axes[0].get_title()
    'normal'
    """
    by_title = {element.title: element for element in elements(posteriors)}
    across, up = _element(by_title, x), _element(by_title, y)
    methods = [label for label in posteriors if label != reference] or [reference]
    shown = methods[:max_panels]
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    side = 2.4 if len(shown) > 1 else 4.0
    figure = new_figure(side * columns + 0.5, side * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    styles = line_styles(labels or posteriors)
    for number, (axes, label) in enumerate(zip(grid.flat, shown, strict=False)):
        for name in dict.fromkeys(filter(posteriors.get, [reference, label])):
            points = [_thinned(element.draws(posteriors[name])) for element in (across, up)]
            colour = BACKDROP if name == reference else styles[name][0]
            axes.scatter(*points, s=7, color=colour, alpha=0.45, linewidths=0, label=name)
        axes.set_title(label, fontsize=10, color=styles[label][0])
        tidy(axes)
        axes.locator_params(nbins=5)
        axes.tick_params(labelbottom=number + columns >= len(shown))  # nothing below it
    for set_limits, element in ((grid[0, 0].set_xlim, across), (grid[0, 0].set_ylim, up)):
        if ends := limits([element.draws(posterior) for posterior in posteriors.values()]):
            set_limits(ends)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    figure.supxlabel(across.title, fontsize=10)
    figure.supylabel(up.title, fontsize=10)
    if reference in posteriors:
        figure.suptitle(f"grey: {reference}", fontsize=10, color=BACKDROP)
    return figure


def _element(by_title: Mapping[str, Element], title: str) -> Element:
    if title not in by_title:
        known = list(by_title)
        more = f" and {len(known) - 12} more" if len(known) > 12 else ""
        raise ValueError(f"No element {title!r} to plot: there are {', '.join(known[:12])}{more}.")
    return by_title[title]


def _thinned(draws: np.ndarray) -> np.ndarray:
    """Return some of the draws at equal distances, of all chains."""
    kept: np.ndarray = draws[np.linspace(0, draws.size - 1, min(_POINTS, draws.size)).astype(int)]
    return kept
