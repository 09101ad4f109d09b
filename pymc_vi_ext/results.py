"""What a fit returns: the report, and draws as a DataTree."""

from __future__ import annotations

import dataclasses
import enum
import json

from collections.abc import Mapping
from dataclasses import dataclass

import pymc as pm

from pymc.variational.opvi import Approximation
from xarray import DataTree

from pymc_vi_ext.approximations.empirical import Empirical
from pymc_vi_ext.diagnostics.verdict import Diagnosis, Verdict
from pymc_vi_ext.draws import as_datatree, draw
from pymc_vi_ext.minibatches import has_minibatches, on_all_data


class StopReason(enum.Enum):
    """Why a fit ended."""

    COMPLETED = "completed"
    """It took all the steps it was given."""
    CONVERGED = "converged"
    """A rule that looks for convergence found it."""
    STOPPED = "stopped"
    """Another callback raised StopIteration, or a rule that finds that a fit will not converge."""
    INTERRUPTED = "interrupted"
    """The user pressed Ctrl-C, at whatever moment of the fit."""
    NOT_FINITE = "not finite"
    """The loss or a parameter became NaN."""
    FAILED = "failed"
    """A callback raised another exception."""


NEGATIVE_ELBO = "negative ELBO"
"""What the losses of all methods are but Stein's."""


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of a fit, from the construction of its method to its end.

    Attributes
    ----------
    construct_s : float
        Building the approximation and finding where it starts, compilation for that included. 0 for
        a second fit of the same inference, and of PyMC's own ones, which were built before.
    graph_s : float
        Writing the symbolic step. 0 for a call that reuses an earlier one's.
    compile_s : float
        Lowering and compiling it. 0 likewise.
    run_s : float
        Taking the steps, callbacks, progress bar and what follows the last step included.
    """

    construct_s: float
    graph_s: float
    compile_s: float
    run_s: float

    @property
    def before_s(self) -> float:
        """Seconds before the first step."""
        return self.construct_s + self.graph_s + self.compile_s

    @property
    def total_s(self) -> float:
        """All seconds."""
        return self.before_s + self.run_s

    def __add__(self, other: Timings) -> Timings:
        """Return the seconds of both."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Timings(*(a + b for a, b in pairs))


@dataclass(frozen=True)
class StartResult:
    """One of several starts of a fit.

    Attributes
    ----------
    elbo, elbo_se : float
        ELBO of its result and the standard error, in nats; the same random numbers for all
        starts, so that differences are less uncertain than that.
    steps : int
    stop_reason : StopReason
    """

    elbo: float
    elbo_se: float
    steps: int
    stop_reason: StopReason


@dataclass(frozen=True)
class Rung:
    """One thing that ``method="auto"`` has done.

    Attributes
    ----------
    name : str
        The method of a fit, "importance weights" or "chains".
    seconds : float
    found : str
        Evidence of the fit, verdict and numbers of the draws, or what went wrong.
    """

    name: str
    seconds: float
    found: str

    def __str__(self) -> str:
        return f"{self.name}, {self.seconds:.1f} s: {self.found}"


@dataclass(frozen=True)
class FitReport:
    """How a fit went.

    Attributes
    ----------
    stop_reason : StopReason
    stopped_by : str or None
        Name of the callback that stopped it.
    steps : int
        Steps taken since :meth:`fit` was called, those of ``refine`` included.
    evidence : str
        What the rule or callback measured, what was still missing where the steps ran out, or
        the error.
    timings : Timings
        Of the last call.
    backend : str
        Backend that ran the steps.
    seed : int or None
        The `random_seed` the fit was given.
    versions : mapping of str to str
        Of the packages that computed the result.
    starts : tuple of StartResult
        What each start reached, where there were several; this report is that of the best.
    loss : str
        What ``hist`` holds: "negative ELBO" in nats of all data; "negative ELBO / 40" where PyMC's
        ``fit`` is called, which divides by total over batch of minibatches; "KSD" (the kernelised
        Stein discrepancy of particles); DADVI's loss of its mean field; or nothing.
    warnings : tuple of str
        What the fit warned of at its end, as :class:`~pymc_vi_ext.ConvergenceWarning`.
    khat : float
        Shape of the tail of the importance weights of some hundred draws of a converged fit, good
        below .7: how near it is to the posterior where it is. Above, the fit warns with
        :class:`~pymc_vi_ext.ApproximationWarning`. NaN where a step's loss is not that of one draw
        (that of DADVI is not, but it looks at draws of its own), or 200 would take longer than .2
        seconds; :func:`pymc_vi_ext.diagnose` tells.
    correction : Diagnosis or None
        Of the draws of :func:`pymc_vi_ext.correct`, once it has been called.
    rungs : tuple of Rung
        What ``method="auto"`` has done, in its order.
    """

    stop_reason: StopReason
    stopped_by: str | None
    steps: int
    evidence: str
    timings: Timings
    backend: str
    seed: int | None
    versions: Mapping[str, str]
    starts: tuple[StartResult, ...] = ()
    loss: str = ""
    warnings: tuple[str, ...] = ()
    khat: float = float("nan")
    correction: Diagnosis | None = None
    rungs: tuple[Rung, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """Whether the draws of a correction are the posterior's; None where there was none."""
        return None if self.correction is None else self.correction.verdict

    @property
    def converged(self) -> bool:
        """Whether a rule that looks for convergence ended the fit."""
        return self.stop_reason is StopReason.CONVERGED


def to_datatree(
    approx: Approximation,
    draws: int = 1000,
    random_seed: int | None = None,
    log_likelihood: bool = False,
) -> DataTree:
    r"""Draw from an approximation into the DataTree that ArviZ works with.

    Parameters
    ----------
    approx : Approximation
        Any of PyMC's, fitted by this package or not.
    draws : int
        Number of draws, in one chain.
    random_seed : int, optional
        The same seed gives the same draws, in whatever thread.
    log_likelihood : bool
        Whether to add the pointwise log likelihood (for LOO), of all rows behind minibatches.

    Returns
    -------
    DataTree
        ``posterior``: free variables and Deterministics, (chain, draw, \*dims), with the model's
        dims and coords. ``sample_stats``: ``lp``, the joint log density
        :math:`\log p(y, z)` of each draw in nats, on the unconstrained space (log Jacobian
        included), and ``log_q``, the approximation's log density there; (chain, draw) each.
        Particle approximations have no density, so no ``log_q``. With ``pm.Minibatch`` the ``lp``
        is that of all data. ``observed_data`` and ``constant_data`` as
        :func:`pymc.sample` gives them.

        Attributes, where there is a report: ``approximation``, ``stop_reason``, ``evidence``,
        ``backend``, ``steps``, ``fit_seconds``, ``seed`` (-1 if none was given), ``versions`` (as
        JSON), and of ``method="auto"`` its ``verdict``.

    Raises
    ------
    ValueError
        If `draws` is not positive.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model(coords={"city": ["Rome", "Oslo"]}):
    ...     pm.Normal("x", dims="city")
    ...     approx = vix.fit(1000, random_seed=1, progressbar=False)
    x
    >>> tree = vix.to_datatree(approx, draws=500, random_seed=2)
    >>> dict(tree.posterior["x"].sizes)
    {'chain': 1, 'draw': 500, 'city': 2}
    >>> sorted(tree.sample_stats.data_vars)
    ['log_q', 'lp']
    """
    if draws < 1:
        raise ValueError(f"`draws` must be at least 1, not {draws}.")
    drawn = draw(approx, draws, random_seed)
    tree = as_datatree(
        approx.model,
        {name: values[None] for name, values in drawn.values.items()},
        {name: values[None] for name, values in drawn.statistics.items()},
    )
    tree.attrs |= _described(approx)
    if log_likelihood:
        # Of minibatches the terms are scaled, and those of other rows at each draw.
        batched = has_minibatches(approx.model)
        model = on_all_data(approx.model) if batched else approx.model
        pm.compute_log_likelihood(tree, model=model, progressbar=False)
    return tree


def _described(approx: Approximation) -> dict[str, str | int | float]:
    """Return what a report says, as netCDF can hold it."""
    report: FitReport | None = vars(approx).get("report")
    if report is None:
        return {}
    described: dict[str, str | int | float] = {
        "approximation": type(approx).__name__,
        "stop_reason": report.stop_reason.value,
        "evidence": report.evidence,
        "backend": report.backend,
        "steps": report.steps,
        "fit_seconds": report.timings.total_s,
        "seed": -1 if report.seed is None else int(report.seed),
        "versions": json.dumps(dict(report.versions)),
    }
    # A correction of a fit judges its own draws, and not those of the fit.
    if isinstance(approx, Empirical) and report.verdict is not None:
        described["verdict"] = report.verdict.value
    return described
