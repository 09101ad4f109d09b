"""Marginal densities of several posteriors, one over the other."""

from __future__ import annotations

import math

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from pymc_vi_ext.plots._style import LineStyle, line_styles, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4
# Draws beyond these quantiles of each method stay out of the picture: one heavy tail would
# squeeze everything else into a spike.
_LIMITS = (0.001, 0.999)


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
    if not posteriors:
        raise ValueError("There is no posterior to plot: every method failed.")
    first = next(iter(posteriors.values()))
    names = [str(name) for name in first["posterior"].data_vars]
    for name in var_names or ():
        if name not in names:
            raise ValueError(f"No variable {name!r} to plot: there are {', '.join(names)}.")
    elements = [
        (name, index, title)
        for name in (var_names or names)
        for index, title in _elements(name, first["posterior"].data_vars[name])
    ]
    shown = elements[:max_panels]
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    width, height = (3.1 * columns, 2.4 * rows) if len(shown) > 1 else (6.0, 3.6)
    figure = new_figure(width, height + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False)
    styles = line_styles(labels or posteriors)
    for axes, (name, index, title) in zip(grid.flat, shown, strict=False):
        ranges = []
        for label, datatree in posteriors.items():
            array = datatree["posterior"].data_vars.get(name)
            if array is None:
                continue
            draws = array.transpose(..., "chain", "draw").values[index].ravel().astype(float)
            draws = draws[np.isfinite(draws)]
            if draws.size:
                ranges.append(np.quantile(draws, _LIMITS))
                _draw(axes, draws, label, styles[label])
        low, high = (min(r[0] for r in ranges), max(r[1] for r in ranges)) if ranges else (0, 0)
        if high > low:
            axes.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
        tidy(axes)
        axes.spines["left"].set_visible(False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    grid[0, 0].set_ylabel("density", fontsize=9)
    handles, texts = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, texts, loc="outside lower center", ncols=max(1, min(len(texts), 6)), frameon=False
    )
    if len(elements) > len(shown):
        figure.suptitle(f"first {len(shown)} of {len(elements)} elements", fontsize=10)
    return figure


def _elements(name: str, array: xr.DataArray) -> list[tuple[tuple[int, ...], str]]:
    """Return index and title of each element of a variable."""
    dims = [dim for dim in array.dims if dim not in ("chain", "draw")]
    found = []
    for index in np.ndindex(*(array.sizes[dim] for dim in dims)):
        places = [
            str(array[dim].values[i]) if dim in array.coords else str(i)
            for dim, i in zip(dims, index, strict=True)
        ]
        found.append((index, f"{name}[{', '.join(places)}]" if places else name))
    return found


def _draw(axes: Axes, draws: np.ndarray, label: str, style: LineStyle) -> None:
    from pymc_vi_ext.upstream import array_stats

    colour, line = style
    if np.ptp(draws) > 0:
        grid, density, _ = array_stats.kde(draws)
        axes.plot(grid, density, color=colour, linestyle=line, linewidth=1.8, label=label)
        axes.fill_between(grid, density, color=colour, alpha=0.08, linewidth=0)
    else:  # a point mass has no density
        axes.axvline(draws[0], color=colour, linestyle=line, linewidth=1.8, label=label)
