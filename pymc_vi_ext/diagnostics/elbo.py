"""The evidence lower bound, estimated afresh from the draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from pymc_vi_ext.diagnostics._weights import log_weights


@dataclass(frozen=True)
class ElboEstimate:
    """Monte Carlo estimate of the evidence lower bound.

    Attributes
    ----------
    elbo : float
        Mean of ``lp - log_q`` over the draws, in nats. It is at most the log evidence.
    se : float
        Standard error of that mean, in nats; NaN for a single draw, or one whose weight is not
        finite.
    draws : int
        Number of draws.

    Examples
    --------
    >>> from pymc_vi_ext.diagnostics import ElboEstimate
    >>> ElboEstimate(elbo=-12.5, se=0.1, draws=1_000).elbo
    -12.5
    """

    elbo: float
    se: float
    draws: int


def elbo(dt: xr.DataTree) -> ElboEstimate:
    r"""Estimate the ELBO from draws of an approximation.

    .. math:: \mathcal L = \mathbb E_q[\log p(x, \theta) - \log q(\theta)]

    Parameters
    ----------
    dt : xarray.DataTree
        With ``lp`` and ``log_q`` (chain, draw) in ``/sample_stats``, both on the unconstrained
        space, as :func:`pymc_vi_ext.to_datatree` returns it.

    Returns
    -------
    ElboEstimate

    Raises
    ------
    ValueError
        If ``lp`` or ``log_q`` is absent.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from pymc_vi_ext.diagnostics import elbo
    >>> lp = xr.DataArray(np.array([[-1.0, -3.0]]), dims=("chain", "draw"))
    >>> elbo(xr.DataTree.from_dict({"sample_stats": xr.Dataset({"lp": lp, "log_q": 0.0 * lp})}))
    ElboEstimate(elbo=-2.0, se=1.0, draws=2)
    """
    ratios = log_weights(dt)
    # A draw outside the support has lp = -inf, and so has the mean: its error has no meaning.
    known = ratios.size > 1 and bool(np.isfinite(ratios).all())
    se = float(ratios.std(ddof=1) / np.sqrt(ratios.size)) if known else float("nan")
    return ElboEstimate(elbo=float(ratios.mean()), se=se, draws=ratios.size)
