"""The ELBO along the steps of several optimisations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pymc_vi_ext.plots._style import key, line_styles, new_figure, tidy
from pymc_vi_ext.traces import growing_blocks

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def block_means(losses: np.ndarray, points: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Thin a trace of losses to means over blocks of equal length.

    The loss of a single step is noisy, so a mean says more than one loss picked out of many.

    Parameters
    ----------
    losses : numpy.ndarray, shape (steps,)
        Negative ELBO in nats.
    points : int
        Blocks at most; a shorter trace comes back as it is.

    Returns
    -------
    steps : numpy.ndarray of int
        Last step of each block, counted from 1.
    elbo : numpy.ndarray
        Mean ELBO (the negative of the losses) over each block, in nats.

    Examples
    --------
    >>> import numpy as np
    >>> from pymc_vi_ext.plots import block_means
    >>> block_means(np.array([4.0, 2.0, 1.0, 1.0]), points=2)
    (array([2, 4]), array([-3., -1.]))
    """
    losses = np.asarray(losses, dtype=float)
    length = max(1, -(-losses.size // points))
    starts = np.arange(0, losses.size, length)
    if not starts.size:
        return starts, losses
    ends = np.append(starts[1:], losses.size)
    return ends, -np.add.reduceat(losses, starts) / (ends - starts)


def plot_elbo(traces: Mapping[str, np.ndarray], *, labels: tuple[str, ...] | None = None) -> Figure:
    """Draw the ELBO against the steps, smoothed over blocks, on a logarithmic axis of steps.

    Parameters
    ----------
    traces : mapping of str to numpy.ndarray, shape (steps,)
        Losses (negative ELBO in nats) by label. Methods without losses are left out.
    labels : tuple of str, optional
        All labels that get a colour; by default those of `traces`.

    Returns
    -------
    matplotlib.figure.Figure
        The legend has the mean over the last hundredth of the steps.

    Examples
    --------
    >>> import numpy as np
    >>> from pymc_vi_ext.plots import plot_elbo
    >>> figure = plot_elbo({"advi": 1 + 1 / np.arange(1, 100)})
    >>> figure.axes[0].get_ylabel()
    'ELBO (nats)'
    """
    figure = new_figure(7.0, 4.0)
    axes = figure.subplots()
    styles = line_styles(labels or traces)
    lows, highs, lengths = [], [], []
    for label, losses in traces.items():
        losses = np.asarray(losses, dtype=float)
        if not np.isfinite(losses).all():  # a fit that failed is drawn up to there
            losses = losses[: np.argmin(np.isfinite(losses))]
        if not losses.size:
            continue
        colour, line = styles[label]
        steps, raw = block_means(losses, 2000)
        axes.plot(steps, raw, color=colour, alpha=0.15, linewidth=0.7)
        steps, smooth = growing_blocks(losses, shortest=20, part=5)
        final = -float(np.mean(losses[-max(1, losses.size // 100) :]))
        axes.plot(
            steps,
            smooth,
            color=colour,
            linestyle=line,
            linewidth=2,
            label=f"{label}, final {final:.4g}",
        )
        # The first steps may lie orders of magnitude below the rest, which is what one looks at.
        later, noise = smooth[steps > losses.size // 20], np.std(losses[losses.size // 2 :])
        lows.append(min(later.min(), final - 3 * noise))
        highs.append(max(later.max(), final + 3 * noise))
        lengths.append(losses.size)
    axes.set_xscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("ELBO (nats)")
    tidy(axes)
    axes.grid(axis="y", alpha=0.25)
    if lows:
        low, high = min(lows), max(highs)
        margin = 0.05 * (high - low) or 1.0
        axes.set_ylim(low - margin, high + margin)
        axes.set_xlim(max(1, min(lengths) / 1000), 1.1 * max(lengths))
        key(figure, axes)
    else:
        axes.text(0.5, 0.5, "no method has an ELBO", transform=axes.transAxes, ha="center")
    return figure
