"""How far off the methods are, against the seconds that they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pymc_vi_ext.plots._style import BACKDROP, key, line_styles, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^vPX"


def plot_accuracy(
    runs: Mapping[str, Sequence[tuple[float, float]]],
    *,
    noise_floor: float = float("nan"),
    labels: Sequence[str] | None = None,
) -> Figure:
    """Draw the error of each run against its seconds, both on logarithmic axes.

    Parameters
    ----------
    runs : mapping of str to sequence of (float, float)
        By method, the seconds and the largest error of a mean (in standard deviations of the
        reference) of each of its runs. Runs without a number, and errors of 0, are left out.
    noise_floor : float
        Error that draws of the reference itself have, a dashed line; NaN draws none.
    labels : sequence of str, optional
        All labels that get a colour; by default those of `runs`.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> from pymc_vi_ext.plots import plot_accuracy
    >>> runs = {"advi": [(1.2, 0.3), (1.1, 0.28)], "nuts": [(14.0, 0.02)]}
    >>> figure = plot_accuracy(runs, noise_floor=0.03)
    >>> figure.axes[0].get_xscale()
    'log'
    """
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    names = list(labels or runs)
    styles = line_styles(names)
    for label, points in runs.items():
        known = np.array([point for point in points if np.isfinite(point).all() and min(point) > 0])
        if not known.size:
            continue
        axes.plot(
            *known.T,
            linestyle="none",
            marker=_MARKERS[names.index(label) % len(_MARKERS)],
            color=styles[label][0],
            markersize=8,
            markeredgecolor="white",
            label=label if len(known) == len(points) else f"{label}, {len(known)} of {len(points)}",
        )
    if not axes.lines:
        axes.text(0.5, 0.5, "no run has an error", transform=axes.transAxes, ha="center")
        return figure
    if np.isfinite(noise_floor) and noise_floor > 0:
        axes.axhline(noise_floor, color=BACKDROP, linestyle="--", linewidth=1.2, zorder=0)
        axes.annotate(
            "noise floor",
            (1, noise_floor),
            xycoords=axes.get_yaxis_transform(),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color="#6A6A6A",
        )
    axes.set(xscale="log", yscale="log")
    axes.margins(0.12)
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        # A decade at least, so that there are numbers on it and small differences look small.
        wider = max(1.0, np.sqrt(10 * low / high))
        axis.set_view_interval(low / wider, high * wider, ignore=True)
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(_few_minor_ticks)
    axes.set_xlabel("seconds, compilation included")
    axes.set_ylabel("largest error of a mean (sds)")
    tidy(axes)
    axes.tick_params(which="minor", labelsize=8)
    axes.grid(alpha=0.25)
    key(figure, axes)
    return figure


def _few_minor_ticks(value: float, _: float) -> str:
    """Name 2, 3 and 5 of each decade: axes may hold no power of ten."""
    return f"{value:g}" if f"{value:e}"[0] in "235" else ""
