"""Intervals of several posteriors, element by element, over those of the reference."""

from __future__ import annotations

import itertools

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from pymc_vi_ext.plots._elements import elements
from pymc_vi_ext.plots._style import BACKDROP, key, line_styles, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Ends of the thin interval and of the thick one, and what lies in the middle.
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Share of an element's row that its intervals take, and inches of each.
_SHARE, _INCHES = 0.7, 0.14


def plot_forest(
    posteriors: Mapping[str, xr.DataTree],
    var_names: Sequence[str] | None = None,
    *,
    reference: str = "",
    labels: Sequence[str] | None = None,
    max_elements: int = 40,
) -> Figure:
    """Draw medians, 50 % and 90 % intervals, a panel per variable and a row per element.

    Those of the reference are bands behind the others, so that what sticks out is wrong.

    Parameters
    ----------
    posteriors : mapping of str to xarray.DataTree
        By label, each with a ``/posterior`` of dims (chain, draw, ...).
    var_names : sequence of str, optional
        By default all variables of the first posterior.
    reference : str
        Label of the reference; empty if there is none.
    labels : sequence of str, optional
        All labels that get a colour; by default those of `posteriors`.
    max_elements : int
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
    >>> from pymc_vi_ext.plots import plot_forest
    >>> draws = np.random.default_rng(0).normal(size=(1, 500, 3))
    >>> figure = plot_forest({"normal": az.from_dict({"posterior": {"x": draws}})})
    >>> [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    ['x[0]', 'x[1]', 'x[2]']
    """
    found = elements(posteriors, var_names)
    shown = found[:max_elements]
    panels = [list(group) for _, group in itertools.groupby(shown, lambda e: e.variable)]
    others = [label for label in posteriors if label != reference]
    rows = [len(panel) for panel in panels]
    inches = max(0.36, _INCHES * (len(others) + 1))
    figure = new_figure(6.4, inches * sum(rows) + 0.5 * len(rows) + 0.6)
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=rows)[:, 0]
    styles = line_styles(labels or posteriors)
    for axes, panel in zip(grid, panels, strict=True):
        for row, element in enumerate(panel):
            for label, posterior in posteriors.items():
                draws = element.draws(posterior)
                finite = draws[np.isfinite(draws)]
                if not finite.size:
                    continue
                low, lower, median, upper, high = np.quantile(finite, _QUANTILES)
                if label == reference:
                    ends = (row - 0.46, row + 0.46)
                    axes.fill_betweenx(ends, low, high, color=BACKDROP, alpha=0.25, linewidth=0)
                    axes.fill_betweenx(ends, lower, upper, color=BACKDROP, alpha=0.4, linewidth=0)
                    axes.vlines(median, *ends, color="white", linewidth=1.5)
                    continue
                # In the middle of the row where there is one method alone.
                place = row + _SHARE * ((others.index(label) + 0.5) / len(others) - 0.5)
                colour, _ = styles[label]
                axes.hlines(place, low, high, color=colour, linewidth=1.2)
                axes.hlines(place, lower, upper, color=colour, linewidth=3)
                axes.plot(median, place, "o", color=colour, markersize=4.5)
                axes.plot(median, place, "o", color="white", markersize=2)
        axes.set_yticks(range(len(panel)), [element.title for element in panel])
        axes.set_ylim(len(panel) - 0.5, -0.5)
        tidy(axes)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    first = grid[0]
    if reference in posteriors:
        first.fill_betweenx([], [], color=BACKDROP, alpha=0.5, linewidth=0, label=reference)
    for label in others:
        first.plot([], [], "-o", color=styles[label][0], linewidth=2, markersize=4.5, label=label)
    key(figure, first)
    if len(found) > len(shown):
        figure.suptitle(f"first {len(shown)} of {len(found)} elements", fontsize=10)
    return figure
