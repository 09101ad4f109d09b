"""Densities of one dimension over each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pymc_vi_ext.plots._style import BACKDROP, key, line_styles, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_density(
    x: np.ndarray,
    target: np.ndarray,
    approximations: Mapping[str, np.ndarray],
    *,
    xlabel: str = "x",
    axes: Axes | None = None,
) -> Figure:
    """Draw approximations of a density as lines over it.

    Parameters
    ----------
    x : numpy.ndarray, shape (points,)
        Where the densities are known, in order.
    target : numpy.ndarray, shape (points,)
        Density that is approximated, per unit of `x`; grey behind the others.
    approximations : mapping of str to numpy.ndarray, shape (points,)
        Densities by label. The same labels in the same order look the same in every picture.
    xlabel : str
    axes : matplotlib.axes.Axes, optional
        Where to draw, without a legend; by default in a figure of its own, with one.

    Returns
    -------
    matplotlib.figure.Figure
        The figure of `axes`.

    Raises
    ------
    ValueError
        If a density has another shape than `x`.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.stats import norm, t
    >>> from pymc_vi_ext.plots import plot_density
    >>> x = np.linspace(-5, 5, 201)
    >>> figure = plot_density(x, t.pdf(x, 3), {"q": norm.pdf(x)})
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['q']
    """
    for label, density in {"target": target, **approximations}.items():
        if np.shape(density) != np.shape(x):
            raise ValueError(
                f"The density {label!r} has the shape {np.shape(density)}, and x {np.shape(x)}: "
                f"one value is needed for each x."
            )
    if alone := axes is None:
        axes = new_figure(7.0, 3.6).subplots()
    axes.fill_between(x, target, color=BACKDROP, alpha=0.4, linewidth=0, label="p")
    for label, (colour, line) in line_styles(approximations).items():
        axes.plot(x, approximations[label], color=colour, linestyle=line, linewidth=2, label=label)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(f"density (per unit of {xlabel})")
    axes.set_xlim(x[0], x[-1])
    tidy(axes)
    figure: Figure = axes.figure  # type: ignore[assignment]
    if alone:
        key(figure, axes)
    return figure
