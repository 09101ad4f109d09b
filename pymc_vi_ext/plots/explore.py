"""A Gaussian that the reader moves over a target, and its KL divergence."""

from __future__ import annotations

import json
import math

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scipy.optimize import minimize

from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.zoo.densities import DENSITIES, Density

_LOG_2PI = math.log(2 * math.pi)
# Standard deviations of q, in widths of the window.
_NARROWEST, _WIDEST = 1 / 200, 1 / 3
# Of q's standard deviations: what lies beyond has 2e-19 of its mass.
_FAR = 9.0
_NODES = np.linspace(-_FAR, _FAR, 1001)
_WEIGHTS = np.exp(-(_NODES**2) / 2)
_WEIGHTS /= _WEIGHTS.sum()
# Values of log p that the page has, on a grid that is fine in the window and wide around it, and
# their significant digits.
_VALUES, _DIGITS = 1201, 9
# Pixels of the frame until it knows how high it is.
_HEIGHT = 640


class Optimum(NamedTuple):
    """The Gaussian of least KL(q || p).

    Attributes
    ----------
    mean, sd : float
        On the unconstrained scale.
    kl : float
        In nats.

    Examples
    --------
    >>> from pymc_vi_ext.plots import Optimum
    >>> Optimum(mean=0.0, sd=0.6, kl=0.51).sd
    0.6
    """

    mean: float
    sd: float
    kl: float


@dataclass(frozen=True)
class Explorer:
    """What :func:`explore_kl` returns: a picture for a notebook, or a file.

    As the last value of a cell it is shown. It needs no other package, and no network.

    Attributes
    ----------
    page : str
        The whole of it as an HTML page.
    optima : dict of str to Optimum
        By target.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import pymc_vi_ext as vix
    >>> explorer = vix.plots.explore_kl(["student_t"])
    >>> path = pathlib.Path(tempfile.mkdtemp(), "kl.html")
    >>> explorer.write_html(path)
    >>> list(explorer.optima), path.exists()
    (['student_t'], True)
    """

    page: str
    optima: dict[str, Optimum]

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.page)}" title="KL divergence of a Gaussian from a '
            f'target" style="width: 100%; height: {_HEIGHT}px; border: 0"></iframe>'
        )

    def write_html(self, path: str | Path) -> None:
        """Write the page to a file, which works without a network.

        Parameters
        ----------
        path : str or pathlib.Path
        """
        Path(path).write_text(self.page, encoding="utf-8")

    def __repr__(self) -> str:
        return f"Explorer({', '.join(self.optima)})"


def explore_kl(
    targets: Sequence[str] = ("student_t", "bimodal", "skewed", "hard"),
) -> Explorer:
    r"""Show a target p and a Gaussian q that sliders move, with KL(q || p) and its integrand.

    The reader chooses the target and moves mean and standard deviation of q. The picture shows both
    densities, the integrand :math:`q (\log q - \log p)`, and as numbers
    KL(q || p), which variational inference minimises, and KL(p || q). A button moves q to the least
    KL(q || p). A target on (0, 1) is shown on the logit scale, on which :func:`pymc_vi_ext.fit`
    works.

    Parameters
    ----------
    targets : sequence of str
        Names in :data:`pymc_vi_ext.zoo.DENSITIES`, of one dimension.

    Returns
    -------
    Explorer

    Raises
    ------
    UnknownNameError
        A ValueError: if a name is unknown.
    ValueError
        If none is given, or the density has two dimensions.

    Notes
    -----
    :math:`\mathrm E_q \log p` is a trapezoidal sum in the browser, over nine standard deviations of
    q to both sides, of log p between the values of a grid that is fine in the window. In all
    positions of the sliders it is right to :math:`10^{-5}` of the KL divergence, or nats where
    this is below 1.

    Examples
    --------
    >>> from pymc_vi_ext.plots import explore_kl
    >>> explorer = explore_kl(["skewed"])
    >>> round(explorer.optima["skewed"].mean, 3)
    0.5
    """
    if not targets:
        raise ValueError("There is no target to show.")
    for name in targets:
        if name not in DENSITIES:
            raise UnknownNameError("density", name, DENSITIES)
        if DENSITIES[name].dim != 1:
            raise ValueError(f"A Gaussian moves over one dimension; {name!r} has two.")
    optima = {name: _optimum(DENSITIES[name]) for name in targets}
    # "<" would end the script where it is part of a tag.
    data = json.dumps([_described(DENSITIES[name], optima[name]) for name in targets])
    template = files("pymc_vi_ext.plots").joinpath("explore.html").read_text(encoding="utf-8")
    return Explorer(template.replace("DATA", data.replace("<", "\\u003c"), 1), optima)


def _kl(density: Density, mean: float, sd: float) -> float:
    """Return KL(N(mean, sd^2) || p) in nats."""
    expected = _WEIGHTS @ density.unconstrained_logp(mean + sd * _NODES)
    return float(-math.log(sd) - _LOG_2PI / 2 - 0.5 - expected)


def _optimum(density: Density) -> Optimum:
    [(low, high)] = density.unconstrained_window
    # Several modes have a best Gaussian each.
    starts = [(m, math.log((high - low) / 12)) for m in np.linspace(low, high, 12)[1:-1]]
    found = min(
        (
            minimize(
                lambda x: _kl(density, x[0], math.exp(x[1])),
                start,
                method="Nelder-Mead",
                options={"xatol": 1e-7, "fatol": 1e-12},
            )
            for start in starts
        ),
        key=lambda result: float(result.fun),
    )
    return Optimum(float(found.x[0]), math.exp(found.x[1]), float(found.fun))


def _described(density: Density, optimum: Optimum) -> dict[str, object]:
    """Return what the page has to know of a target."""
    [(low, high)] = density.unconstrained_window
    centre, width = (low + high) / 2, (high - low) / 8
    far = math.asinh((0.5 + _WIDEST * _FAR) * (high - low) / width)
    grid = centre + width * np.sinh(np.linspace(-far, far, _VALUES))
    entropy, mean, variance = _moments(density, centre, width)
    title, bounded = density.name.replace("_", " "), density.support == (0.0, 1.0)
    return {
        "name": density.name,
        "label": f"{title}, on the logit scale" if bounded else title,
        "axis": "logit x" if bounded else "x",
        "window": (low, high),
        "log_sigma": [math.log(part * (high - low)) for part in (_NARROWEST, _WIDEST)],
        "centre": centre,
        "width": width,
        "far": far,
        "logp": [float(f"{v:.{_DIGITS}g}") for v in density.unconstrained_logp(grid)],
        "entropy": entropy,
        "mean": mean,
        "variance": variance,
        "optimum": optimum._asdict(),
    }


def _moments(density: Density, centre: float, width: float) -> tuple[float, float, float]:
    """Return entropy, mean and variance, by a trapezoidal sum that goes out far."""
    t = np.linspace(-35, 35, 20_001)
    x = centre + width * np.sinh(t)
    logp = density.unconstrained_logp(x)
    mass = np.exp(logp) * width * np.cosh(t) * (t[1] - t[0])
    some = mass > 0
    mass, x, logp = mass[some], x[some], logp[some]
    mean = mass @ x
    return float(-(mass @ logp)), float(mean), float(mass @ (x - mean) ** 2)
