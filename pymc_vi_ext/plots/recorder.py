"""What a picture that moves is made of: draws along a fit, and chains that leave one."""

from __future__ import annotations

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations import family_of
from pymc_vi_ext.approximations.gaussians import Dense
from pymc_vi_ext.approximations.parameters import flat_parameters, moments
from pymc_vi_ext.callbacks.callback import Losses
from pymc_vi_ext.callbacks.tracker import Tracker
from pymc_vi_ext.correction._hmc import ManyChains
from pymc_vi_ext.draws import draw
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.minibatches import on_all_data
from pymc_vi_ext.options import whole_number


class Recorder(Tracker):
    """Record draws of an approximation every few steps, for :func:`pymc_vi_ext.plots.animate`.

    The draws of all records are made of the same random numbers, so that they move as smoothly as
    the approximation does. Of particles all are recorded, in their order.

    Parameters
    ----------
    every : int
        Steps between two records.
    draws : int
        Draws in each; not looked at where there are particles.
    random_seed : int
        Seed of the random numbers that the draws are made of.

    Attributes
    ----------
    hist : dict of str to list
        ``"points"``, arrays (n, d) on the unconstrained space, and where the family is Gaussian
        ``"mean"`` and ``"cov"``, (d,) and (d, d); else NaN.
    steps : numpy.ndarray of shape (records,)

    Raises
    ------
    ValueError
        If `every` or `draws` is not a whole number from 1.

    Examples
    --------
    >>> import pymc_vi_ext as vix
    >>> from pymc_vi_ext.plots import Recorder
    >>> from pymc_vi_ext.zoo import DENSITIES
    >>> recorder = Recorder(every=10, draws=50)
    >>> with DENSITIES["banana"].model():
    ...     approx = vix.fit(100, convergence=None, callbacks=[recorder], progressbar=False)
    >>> len(recorder["points"]), recorder["points"][0].shape
    (10, (50, 2))
    """

    def __init__(self, every: int = 5, draws: int = 200, random_seed: int = 0):
        self.draws, self.random_seed = whole_number("draws", draws), random_seed
        super().__init__(every, points=self._points, mean=self._mean, cov=self._cov)

    def _points(self, approx: Approximation, losses: Losses, i: int) -> np.ndarray:
        if approx.all_histograms:
            return np.concatenate([group.histogram.get_value() for group in approx.groups], axis=1)
        return draw(approx, self.draws, self.random_seed).points

    def _mean(self, approx: Approximation, losses: Losses, i: int) -> np.ndarray:
        return _gaussian(approx).mean

    def _cov(self, approx: Approximation, losses: Losses, i: int) -> np.ndarray:
        return _gaussian(approx).cov


def _gaussian(approx: Approximation) -> Dense:
    """Return the Gaussian that an approximation is; one of NaN, if it is none."""
    family = family_of(approx.groups[0])
    if len(approx.groups) == 1:
        if (kind := family.gaussian_kind()) is not None:
            return kind.of(approx.groups[0]).dense()
        if family.name == "mean_field":
            mean, log_sd = moments(approx, flat_parameters(approx))
            return Dense(mean, np.diag(np.exp(2 * log_sd)))
    nothing = np.full(approx.ddim, np.nan)
    return Dense(nothing, np.diag(nothing))


def first_transitions(
    approx: Approximation,
    transitions: int = 150,
    *,
    chains: int = 64,
    random_seed: int | None = None,
    backend: str | None = "auto",
) -> np.ndarray:
    """Return how chains leave an approximation, for :func:`pymc_vi_ext.plots.animate`.

    They are those of :func:`pymc_vi_ext.correct` in its first stretch: Hamiltonian Monte Carlo in
    units of the approximation's covariance, with a step size that adapts. Each begins at a draw of
    its own.

    Parameters
    ----------
    approx : Approximation
    transitions : int
    chains : int
    random_seed : int, optional
    backend : {"auto", "jax", "numba", "c"}
        What runs the chains, as of :func:`pymc_vi_ext.fit`.

    Returns
    -------
    numpy.ndarray of shape (transitions + 1, chains, d)
        On the unconstrained space; the first of them are the draws.

    Raises
    ------
    ValueError
        If `transitions` or `chains` is not a whole number from 1, or 2.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> from pymc_vi_ext.plots import first_transitions
    >>> with pm.Model():
    ...     x = pm.StudentT("x", nu=4.0, shape=2)
    ...     approx = vix.fit(random_seed=1, progressbar=False)
    >>> first_transitions(approx, 20, chains=8, random_seed=1).shape
    (21, 8, 2)
    """
    transitions = whole_number("transitions", transitions)
    chains = whole_number("chains", chains, least=2)
    rng = np.random.default_rng(random_seed)
    starts = draw(approx, chains, int(rng.integers(2**31))).points
    moving = ManyChains(LogDensity(on_all_data(approx.model)), chains, backend)
    moving.adapt_to(starts)
    moving.begin(starts)
    moving.find_step_size(rng)
    path = moving.run(transitions, rng)
    return np.concatenate([starts[None], path.points.swapaxes(0, 1)])
