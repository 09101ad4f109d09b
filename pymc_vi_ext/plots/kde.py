"""Marginal densities of several posteriors, one over the other."""

from __future__ import annotations

import math

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from pymc_vi_ext.plots._elements import elements, limits
from pymc_vi_ext.plots._style import LineStyle, key, line_styles, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4


def plot_kde(
    posteriors: Mapping[str, xr.DataTree],
    var_names: Sequence[str] | None = None,
    *,
    labels: Sequence[str] | None = None,
    max_panels: int = 12,
) -> Figure:
    """Overlay the kernel density estimates of posteriors, a panel per element.

    Parameters
    ----------
    posteriors : mapping of str to xarray.DataTree
        By label, each with a ``/posterior`` of dims (chain, draw, ...).
    var_names : sequence of str, optional
        By default all variables of the first posterior.
    labels : sequence of str, optional
        All labels that get a colour, for figures that show only some of them but should agree
        with those that show all. By default those of `posteriors`.
    max_panels : int
        Elements drawn at most; the title says how many there are.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no posterior or a variable is in none of them.

    Examples
    --------
    >>> import arviz as az, numpy as np
    >>> from pymc_vi_ext.plots import plot_kde
    >>> draws = np.random.default_rng(0).normal(size=(1, 500))
    >>> figure = plot_kde({"normal": az.from_dict({"posterior": {"x": draws}})})
    >>> len(figure.axes)
    1
    """
    found = elements(posteriors, var_names)
    shown = found[:max_panels]
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    width, height = (3.1 * columns, 2.4 * rows) if len(shown) > 1 else (6.0, 3.6)
    figure = new_figure(width, height + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False)
    styles = line_styles(labels or posteriors)
    for axes, element in zip(grid.flat, shown, strict=False):
        drawn = {label: element.draws(posterior) for label, posterior in posteriors.items()}
        for label, draws in drawn.items():
            finite = draws[np.isfinite(draws)]
            if finite.size:
                _draw(axes, finite, label, styles[label])
        if ends := limits(list(drawn.values())):
            axes.set_xlim(ends)
        axes.set_title(element.title, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
        tidy(axes)
        axes.spines["left"].set_visible(False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    grid[0, 0].set_ylabel("density", fontsize=9)
    key(figure, grid[0, 0])
    if len(found) > len(shown):
        figure.suptitle(f"first {len(shown)} of {len(found)} elements", fontsize=10)
    return figure


def _draw(axes: Axes, draws: np.ndarray, label: str, style: LineStyle) -> None:
    from pymc_vi_ext.upstream import array_stats

    colour, line = style
    if np.ptp(draws) > 0:
        grid, density, _ = array_stats.kde(draws)
        axes.plot(grid, density, color=colour, linestyle=line, linewidth=1.8, label=label)
        axes.fill_between(grid, density, color=colour, alpha=0.08, linewidth=0)
    else:  # a point mass has no density
        axes.axvline(draws[0], color=colour, linestyle=line, linewidth=1.8, label=label)
