"""Approximations that take no steps of ours: Laplace's and Pathfinder's."""

from __future__ import annotations

import time

from typing import Any

import numpy as np
import pymc as pm

from pymc.pytensorf import floatX
from pymc.variational.approximations import FullRank
from pymc.variational.inference import Inference, KLqp, State
from pymc.variational.operators import KSD
from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations import family_of
from pymc_vi_ext.approximations.empirical import Empirical
from pymc_vi_ext.inference._base import continuous_model
from pymc_vi_ext.inference._kernels import as_kernel
from pymc_vi_ext.loop import versions
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.results import FitReport, StopReason, Timings
from pymc_vi_ext.starting_points import mode_of, pathfinder_points


class _Direct(Inference):
    """A method that finds its approximation at once: no steps, callbacks or losses."""

    optimizes_itself = True
    seed: int | None = None

    def fit(
        self,
        n: int = 0,
        score: bool | None = None,
        callbacks: Any = None,
        progressbar: bool = True,
        progressbar_theme: Any = None,
        *,
        backend: str | None = "auto",
        include_transformed: bool = False,
        **options: Any,
    ) -> Approximation:
        """Find the approximation; `n`, `score` and `progressbar` have no meaning here."""
        given = [name for name, value in options.items() if value is not None]
        if callbacks:
            given.append("callbacks")
        if given:
            raise ValueError(f"{type(self).__name__} takes no steps: leave out {given[0]}.")
        started = time.perf_counter()
        evidence = self._find(backend)
        approx = self.approx
        for group in approx.groups:
            group.include_transformed = include_transformed
        self.state = State(0, step=None, callbacks=[], score=False)
        approx.hist = self.hist
        approx.report = FitReport(
            stop_reason=StopReason.COMPLETED,
            stopped_by=None,
            steps=0,
            evidence=evidence,
            timings=Timings(0.0, 0.0, time.perf_counter() - started),
            backend=backend or "auto",
            seed=self.seed,
            versions=versions(),
        )
        return approx

    def refine(self, *args: Any, **kwargs: Any) -> None:
        """Raise: there are no steps to take more of."""
        raise TypeError(f"{type(self).__name__} takes no steps that could go on.")

    def _find(self, backend: str | None) -> str:
        raise NotImplementedError


class Laplace(_Direct, KLqp):
    """The Gaussian around the mode, of the negative inverse Hessian as covariance.

    Parameters
    ----------
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
        Of draws later; the mode is found from the model's initial point.

    Raises
    ------
    ValueError
        If no proper mode is found.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.Normal("x", 3.0, 2.0)
    ...     approx = vix.fit(method="laplace", progressbar=False)
    >>> approx.mean.eval().round(3).tolist(), approx.std.eval().round(3).tolist()
    ([3.0], [2.0])
    """

    def __init__(self, *, model: pm.Model | None = None, random_seed: int | None = None):
        model = continuous_model(model, "Laplace's approximation")
        with python_only():
            super().__init__(FullRank(model=model, random_seed=random_seed))
        self.seed = random_seed

    def _find(self, backend: str | None) -> str:
        mode = mode_of(self.approx.model, backend)
        [group] = self.approx.groups
        family_of(group).set_gaussian(mode.point, mode.cov)
        return f"log density at the mode {mode.logp:.6g}, log of the mass {mode.log_mass:.6g}"


class Pathfinder(_Direct, Inference):
    """Draws of pymc-extras' Pathfinder, as an empirical approximation.

    Parameters
    ----------
    n_draws : int
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional

    References
    ----------
    Zhang, L. et al. (2022). Pathfinder: parallel quasi-Newton variational inference. JMLR 23(306).
    """

    def __init__(
        self,
        n_draws: int = 1_000,
        *,
        model: pm.Model | None = None,
        random_seed: int | None = None,
    ):
        model = continuous_model(model, "Pathfinder")
        with python_only():
            approx = Empirical(size=n_draws, model=model, random_seed=random_seed)
            super().__init__(KSD, approx, as_kernel("rbf"))
        self.seed = random_seed

    def _find(self, backend: str | None) -> str:
        histogram = self.approx.histogram
        draws = len(histogram.get_value(borrow=True))
        points = pathfinder_points(self.approx.model, self.seed, draws)
        histogram.set_value(floatX(np.asarray(points)))
        return f"{draws} draws"
