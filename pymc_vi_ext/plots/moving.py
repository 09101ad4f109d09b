"""Draws that move, as a figure of plotly's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pymc_vi_ext.plots._style import BACKDROP
from pymc_vi_ext.plots.recorder import Recorder
from pymc_vi_ext.zoo.densities import Density

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_BLUE, _ORANGE = "#0072B2", "#D55E00"
# Milliseconds of a frame, and pixels of the figure's height.
_DURATION, _HEIGHT = 50, 500
# Points of a curve, and of a side of the grid that contours are made of.
_CURVE, _SIDE = 201, 121
# Of the highest density, where its contours are.
_LEVELS = (0.01, 0.05, 0.15, 0.35, 0.65)
# Of plotly's buttons the one that saves a picture stays.
_NO_BUTTONS = [
    "zoom", "pan", "select", "lasso", "zoomIn", "zoomOut", "autoScale", "resetScale",
    "sendChartToCloud",
]  # fmt: skip
_CIRCLE = np.stack([f(np.linspace(0, 2 * np.pi, 49)) for f in (np.cos, np.sin)])


def animate(
    frames: Recorder | np.ndarray | Sequence[np.ndarray],
    density: Density | None = None,
    *,
    steps: Sequence[int] | None = None,
    title: str = "",
) -> Figure:
    r"""Show draws, particles or chains move, over the density that they move onto.

    In two dimensions they are points, over contours of the density; a Gaussian that a
    :class:`Recorder` has recorded is its ellipse of two standard deviations besides, which holds
    86 % of it. In one dimension they are marks under the curve of the density, with their own curve
    over it: the Gaussian's, or a kernel density estimate. Below are buttons that start and stop the
    motion, and a slider.

    Parameters
    ----------
    frames : Recorder or array of shape (frames, n, d)
        Points on the unconstrained space, d being 1 or 2; the same point has the same index in each
        frame.
    density : Density, optional
        What is shown behind, of `d` dimensions, on the unconstrained scale.
    steps : sequence of int, optional
        What the slider says of the frames; by default the recorder's steps, or their numbers.
    title : str

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    ImportError
        Without plotly.
    ValueError
        If there is no frame, shapes are others, or there are not as many steps as frames.

    Examples
    --------
    >>> import pymc_vi_ext as vix
    >>> from pymc_vi_ext.plots import Recorder, animate
    >>> from pymc_vi_ext.zoo import DENSITIES
    >>> ring = DENSITIES["ring"]
    >>> recorder = Recorder(every=2)
    >>> with ring.model():
    ...     approx = vix.fit(
    ...         300,
    ...         "svgd",
    ...         inf_kwargs={"n_particles": 50},
    ...         convergence=None,
    ...         callbacks=[recorder],
    ...         progressbar=False,
    ...     )
    >>> figure = animate(recorder, ring)
    >>> len(figure.frames)
    150
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise ImportError(
            "Pictures that move need plotly: pip install 'pymc-vi-ext[plots]'."
        ) from error
    gaussians = None
    if isinstance(frames, Recorder):
        steps = list(frames.steps) if steps is None else steps
        if len(frames.steps) and np.isfinite(frames["mean"]).all():
            gaussians = np.stack(frames["mean"]), np.stack(frames["cov"])
        frames = frames["points"]
    if not len(frames):
        raise ValueError("There is no frame to show.")
    points = np.stack(list(frames))
    if points.ndim != 3 or points.shape[2] not in (1, 2):
        raise ValueError(f"Frames must be of shape (frames, n, 1 or 2), not {points.shape}.")
    d = points.shape[2]
    if density is not None and density.dim != d:
        raise ValueError(f"The points have {d} dimensions, {density.name!r} has {density.dim}.")
    names = [str(step) for step in (range(len(points)) if steps is None else steps)]
    if len(names) != len(points):
        raise ValueError(f"There are {len(points)} frames and {len(names)} steps.")
    drawn = _line if d == 1 else _plane
    still, moving, axes = drawn(go, points.astype(np.float32), density, gaussians)
    first = len(still)
    figure = go.Figure(
        data=[*still, *moving[0]],
        frames=[
            # All but the numbers that change is as in the first.
            go.Frame(
                data=[go.Scatter(x=trace.x, y=trace.y) for trace in traces],
                name=name,
                traces=list(range(first, first + len(traces))),
            )
            for traces, name in zip(moving, names, strict=True)
        ],
    )
    figure.update_layout(
        template="plotly_white",
        title=title or None,
        height=_HEIGHT,
        margin={"l": 50, "r": 15, "t": 75 if title else 35, "b": 20},
        dragmode=False,
        modebar={"remove": _NO_BUTTONS},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        updatemenus=[_buttons()],
        sliders=[_slider(names, "step " if steps is not None else "frame ")],
        **axes,
    )
    return figure


Gaussians = tuple[np.ndarray, np.ndarray]
"""Means, (frames, d), and covariances, (frames, d, d)."""
Drawn = tuple[list[Any], list[list[Any]], dict[str, Any]]
"""Traces that stand still, those of each frame, and the layout of the axes."""


def _line(
    go: Any, points: np.ndarray, density: Density | None, gaussians: Gaussians | None
) -> Drawn:
    """Draw points of one dimension."""
    low, high = _window(points, density)[0]
    x = np.linspace(low, high, _CURVE, dtype=np.float32)
    still, top = [], 0.0
    if density is not None:
        p = np.exp(density.unconstrained_logp(x)).astype(np.float32)
        top = float(p.max())
        still.append(
            go.Scatter(
                x=x, y=p, name="density", line_color=BACKDROP, fill="tozeroy", hoverinfo="skip"
            )
        )
    curves = [
        _normal(x, gaussians[0][i, 0], gaussians[1][i, 0, 0])
        if gaussians is not None
        else _estimate(x, points[i, :, 0])
        for i in range(len(points))
    ]
    # A curve that begins as a spike would leave no room for the rest.
    highest = np.array([curve.max() for curve in curves])
    top = max(1.2 * top, min(highest.max(), 2 * (top or np.median(highest))))
    marks = np.full(points.shape[1], -0.04 * top, dtype=np.float32)
    moving = [
        [
            go.Scatter(
                x=frame[:, 0],
                y=marks,
                name="draws",
                mode="markers",
                marker={"color": _ORANGE, "symbol": "line-ns-open", "size": 9},
            ),
            go.Scatter(x=x, y=curve, name="their density", line_color=_BLUE, hoverinfo="skip"),
        ]
        for frame, curve in zip(points, curves, strict=True)
    ]
    bounded = density is not None and density.support == (0.0, 1.0)
    axes = {
        "xaxis": {"range": [low, high], "title": "logit x" if bounded else "x"},
        "yaxis": {"range": [-0.08 * top, 1.05 * top], "title": "density"},
    }
    return still, moving, axes


def _normal(x: np.ndarray, mean: float, variance: float) -> np.ndarray:
    p = np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    return np.asarray(p, dtype=np.float32)


def _estimate(x: np.ndarray, draws: np.ndarray) -> np.ndarray:
    from pymc_vi_ext.upstream import array_stats

    if not np.ptp(draws) > 0:
        return np.zeros_like(x)  # a point mass has no density
    grid, p, _ = array_stats.kde(draws.astype(float))
    return np.asarray(np.interp(x, grid, p, left=0, right=0), dtype=np.float32)


def _plane(
    go: Any, points: np.ndarray, density: Density | None, gaussians: Gaussians | None
) -> Drawn:
    """Draw points of two dimensions."""
    window = _window(points, density)
    still = [] if density is None else _contours(go, density)
    moving = [
        [
            go.Scatter(
                x=frame[:, 0],
                y=frame[:, 1],
                name="draws",
                showlegend=gaussians is not None,
                mode="markers",
                marker={"color": _ORANGE, "size": 6, "line": {"width": 0.5, "color": "white"}},
            )
        ]
        for frame in points
    ]
    if gaussians is not None:
        means, covs = gaussians
        for traces, mean, cov in zip(moving, means, covs, strict=True):
            ellipse = (mean[:, None] + 2 * np.linalg.cholesky(cov) @ _CIRCLE).astype(np.float32)
            traces.append(
                go.Scatter(
                    x=ellipse[0],
                    y=ellipse[1],
                    name="two standard deviations",
                    mode="lines",
                    line={"color": _BLUE, "width": 2},
                    hoverinfo="skip",
                )
            )
    (left, right), (bottom, top) = window
    axes = {
        "xaxis": {"range": [left, right], "title": "x<sub>0</sub>", "constrain": "domain"},
        "yaxis": {
            "range": [bottom, top],
            "title": "x<sub>1</sub>",
            "scaleanchor": "x",
            "constrain": "domain",
        },
    }
    return still, moving, axes


def _contours(go: Any, density: Density) -> list[Any]:
    """Return where the density is above some levels, as polygons.

    plotly's own contours vanish when frames move without all being drawn anew, which takes five
    times as long.
    """
    from contourpy import contour_generator  # comes with matplotlib

    x, y = (np.linspace(low, high, _SIDE) for low, high in density.unconstrained_window)
    p = np.exp(density.unconstrained_logp(np.stack(np.meshgrid(x, y), axis=-1)))
    generator = contour_generator(x, y, p)
    found = []
    for level in _LEVELS:
        # Its type depends on what the generator was asked for.
        filled: Any = generator.filled(level * p.max(), np.inf)
        polygons, offsets = filled
        rings = [
            np.vstack([polygon[a:b], [[np.nan, np.nan]]])
            for polygon, ends in zip(polygons, offsets, strict=True)
            for a, b in pairwise(ends)
        ]
        around = np.concatenate(rings).astype(np.float32)
        found.append(
            go.Scatter(
                x=around[:, 0],
                y=around[:, 1],
                mode="lines",
                line={"width": 0.5, "color": BACKDROP},
                fill="toself",
                fillcolor="rgba(110, 110, 110, 0.2)",
                hoverinfo="skip",
                showlegend=False,
            )
        )
    return found


def _window(points: np.ndarray, density: Density | None) -> list[tuple[float, float]]:
    """Return what to show of each coordinate."""
    if density is not None:
        return list(density.unconstrained_window)
    flat = points.reshape(-1, points.shape[2])
    ends = np.quantile(flat[np.isfinite(flat).all(axis=1)], (0.001, 0.999), axis=0)
    margin = 0.05 * np.ptp(ends, axis=0) + 1e-6
    return [(float(a - m), float(b + m)) for a, b, m in zip(*ends, margin, strict=True)]


def _buttons() -> dict[str, Any]:
    still = {"mode": "immediate", "frame": {"duration": 0, "redraw": False}}
    moving = {
        "mode": "immediate",
        "fromcurrent": True,
        "frame": {"duration": _DURATION, "redraw": False},
        "transition": {"duration": 0},
    }
    return {
        "type": "buttons",
        "direction": "left",
        "showactive": False,
        "x": 0,
        "xanchor": "left",
        "y": 0,
        "yanchor": "top",
        "pad": {"t": 50},
        "buttons": [
            {"label": "Play", "method": "animate", "args": [None, moving]},
            {"label": "Pause", "method": "animate", "args": [[None], still]},
        ],
    }


def _slider(names: list[str], prefix: str) -> dict[str, Any]:
    at_once = {
        "mode": "immediate",
        "frame": {"duration": 0, "redraw": False},
        "transition": {"duration": 0},
    }
    return {
        "x": 0,
        "len": 1,
        "y": 0,
        "yanchor": "top",
        "pad": {"t": 65},
        "ticklen": 0,
        "minorticklen": 0,
        "font": {"color": "rgba(0, 0, 0, 0)", "size": 1},
        "currentvalue": {
            "prefix": prefix,
            "xanchor": "right",
            "font": {"color": "#333333", "size": 13},
        },
        "steps": [
            {"label": name, "method": "animate", "args": [[name], at_once]} for name in names
        ],
    }
