"""What a fit returns: the report, and draws as a DataTree."""

from __future__ import annotations

import dataclasses
import enum
import math

from collections.abc import Mapping
from dataclasses import dataclass

from pymc.variational.opvi import Approximation
from xarray import DataTree

from pymc_vi_ext._show import ShortTable, seconds_shown, shown
from pymc_vi_ext.diagnostics.verdict import Diagnosis, Verdict
from pymc_vi_ext.draws import add_log_likelihood, add_posterior_predictive, as_datatree, draw
from pymc_vi_ext.fit_record import attributes_of, variational_group
from pymc_vi_ext.minibatches import is_streamed, on_all_data, refuse_streams
from pymc_vi_ext.options import whole_number
from pymc_vi_ext.streams import streams_in


class StopReason(enum.Enum):
    """Why a fit ended.

    Attributes
    ----------
    COMPLETED
        It took all the steps it was given.
    CONVERGED
        A rule that looks for convergence found it.
    STOPPED
        Another callback raised StopIteration, or a rule that finds that a fit will not converge.
    INTERRUPTED
        The user pressed Ctrl-C, at whatever moment of the fit.
    NOT_FINITE
        The loss or a parameter became NaN.
    FAILED
        A callback raised another exception.

    Examples
    --------
    >>> from pymc_vi_ext import StopReason
    >>> StopReason("converged") is StopReason.CONVERGED
    True
    """

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

    Examples
    --------
    >>> from pymc_vi_ext.results import Timings
    >>> timings = Timings(construct_s=0.5, graph_s=0.5, compile_s=1.0, run_s=3.0)
    >>> timings.before_s, timings.total_s
    (2.0, 5.0)
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

    def __str__(self) -> str:
        parts = {
            "construction": self.construct_s,
            "graph": self.graph_s,
            "compilation": self.compile_s,
            "steps": self.run_s,
        }
        spent = ", ".join(f"{name} {s:.1f}" for name, s in parts.items() if s >= 0.05)
        return seconds_shown(self.total_s) + f": {spent}" * bool(spent)


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

    Examples
    --------
    >>> from pymc_vi_ext.results import StartResult, StopReason
    >>> starts = [StartResult(elbo, 0.01, 1_500, StopReason.CONVERGED) for elbo in (-1.6, -0.2)]
    >>> max(starts, key=lambda start: start.elbo).elbo
    -0.2
    """

    elbo: float
    elbo_se: float
    steps: int
    stop_reason: StopReason

    def __str__(self) -> str:
        elbo = f"ELBO {shown(self.elbo)} +- {self.elbo_se:.2g}"
        return f"{elbo}, {self.stop_reason.value} after {self.steps:,} steps"


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

    Examples
    --------
    >>> from pymc_vi_ext.results import Rung
    >>> print(Rung("dadvi", 1.25, "converged"))
    dadvi, 1.2 s: converged
    """

    name: str
    seconds: float
    found: str

    def __str__(self) -> str:
        return f"{self.name}, {self.seconds:.1f} s: {self.found}"


@dataclass(frozen=True)
class FitReport:
    """How a fit went; it prints as a short table, and as HTML in notebooks.

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
        Of the last call; of a fit that went on from a checkpoint, those before it included.
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
        :class:`~pymc_vi_ext.ApproximationWarning`, unless the weights are nearly equal. NaN where a
        step's loss is not that of one draw (that of DADVI is not, but it looks at draws of its
        own), or 200 would be too much work beside the steps; :func:`pymc_vi_ext.diagnose` tells. It
        follows from the seed, and not from the machine's speed.
    weights_worth : float
        Share of those draws that the weights are worth, from 0 to 1: nearly equal from .95. NaN as
        `khat`.
    correction : Diagnosis or None
        Of the draws of :func:`pymc_vi_ext.correct`, once it has been called.
    rungs : tuple of Rung
        What ``method="auto"`` has done, in its order.
    method : str
        Name by which :func:`~pymc_vi_ext.fit` was given it, or that of the class of an inference
        object.
    mean_loss : float
        Mean of the last tenth of the losses, of 1,000 at most, without those that are not finite;
        NaN where there are none.
    rule : str
        Name of the rule that was to find convergence; empty where none was.

    Examples
    --------
    >>> import pymc as pm, pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.Normal("x")
    ...     report = vix.fit(random_seed=1, progressbar=False).report
    >>> report.converged, report.stopped_by, report.loss
    (True, 'StagedStop', 'negative ELBO')
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
    khat: float = math.nan
    weights_worth: float = math.nan
    correction: Diagnosis | None = None
    rungs: tuple[Rung, ...] = ()
    method: str = ""
    mean_loss: float = math.nan
    rule: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """Whether the draws of a correction are the posterior's; None where there was none."""
        return None if self.correction is None else self.correction.verdict

    @property
    def converged(self) -> bool:
        """Whether a rule that looks for convergence ended the fit."""
        return self.stop_reason is StopReason.CONVERGED

    @property
    def outcome(self) -> str:
        """How the fit ended, in words such as "did not converge" and "stopped by WallTime"."""
        if self.rungs and self.verdict is not None:
            return f"{self.verdict.value} by {self.stopped_by}"
        if self.stop_reason is StopReason.COMPLETED:
            if not self.steps:
                return "computed"
            return "did not converge" if self.rule else "completed"
        if self.stop_reason is StopReason.STOPPED:
            own = self.stopped_by == self.rule
            return "did not converge" if own else f"stopped by {self.stopped_by}"
        if self.stop_reason is StopReason.FAILED and self.stopped_by:
            return f"failed in {self.stopped_by}"
        return _OUTCOMES[self.stop_reason]

    def _table(self) -> ShortTable:
        loss = "" if math.isnan(self.mean_loss) else f"{shown(self.mean_loss)} ({self.loss})"
        rows = [
            ("steps", f"{self.steps:,}" if self.steps else ""),
            ("mean loss", loss),
            ("evidence", self.evidence),
            ("k-hat", "" if math.isnan(self.khat) else f"{self.khat:.2f}"),
            *((f"start {k}", str(start)) for k, start in enumerate(self.starts, 1)),
            *(("ran", str(rung)) for rung in self.rungs),
            ("correction", self._corrected()),
            ("backend", self.backend),
            ("time", str(self.timings)),
            *(("warning", warning) for warning in self.warnings),
        ]
        title = f"{self.method} {self.outcome}".strip()
        return ShortTable(title, (), [(name, said) for name, said in rows if said])

    def _corrected(self) -> str:
        """Return what judges the draws of a correction, where the evidence is not that already."""
        if self.correction is None:
            return ""
        said = f"{self.correction.verdict.value}: {self.correction.in_a_line}"
        return "" if said == self.evidence else said

    def __str__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()


_OUTCOMES = {
    StopReason.CONVERGED: "converged",
    StopReason.INTERRUPTED: "interrupted",
    StopReason.NOT_FINITE: "ended with NaN",
    StopReason.FAILED: "failed",
}


def to_datatree(
    approx: Approximation,
    draws: int = 1000,
    random_seed: int | None = None,
    log_likelihood: bool = False,
    posterior_predictive: bool = False,
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
        Whether to add the log likelihood of each observation, in nats, for LOO.
    posterior_predictive : bool
        Whether to add data drawn from the model, one set at each draw.

    Returns
    -------
    DataTree
        ``posterior``: free variables and Deterministics, (chain, draw, \*dims), with the model's
        dims and coords. ``sample_stats``: ``lp``, the joint log density
        :math:`\log p(y, z)` of each draw in nats, on the unconstrained space (log Jacobian
        included), and ``log_q``, the approximation's log density there; (chain, draw) each.
        Particle approximations have no density, so no ``log_q``. ``observed_data`` and
        ``constant_data`` as :func:`pymc.sample` gives them; ``log_likelihood`` and
        ``posterior_predictive``, (chain, draw, \*dims), where they are asked for. With
        ``pm.Minibatch`` everything is of all data: ``lp``, Deterministics, the data themselves.
        What would read all data of :class:`pymc_vi_ext.data.Batches` is not there, and the
        attribute ``not_evaluated`` names it.

        ``variational``: ``loss`` (step), where there is a history; its attribute ``long_name`` says
        what it is, as ``report.loss`` does. Below it is a group for each of the approximation's,
        by the name of its family (``variational/mean_field``), with its parameters. An axis
        ``element`` of theirs goes over the unconstrained space, and its coordinate names what is
        there: ``tau_log__``, ``theta[0]``. ``variational/tracked``, with the dimension
        ``tracked_step``, is what a :class:`~pymc_vi_ext.callbacks.Tracker` of the last fit has
        recorded.

        Attributes, where there is a report: ``method``, ``approximation``, ``stop_reason``,
        ``evidence``, ``backend``, ``steps``, ``fit_seconds``, ``seed`` (-1 if none was given),
        ``versions`` (as JSON), ``khat`` where it is known, and of ``method="auto"`` its
        ``verdict``. ``tree.to_netcdf(path, engine="h5netcdf")`` saves all of it.

    Raises
    ------
    ValueError
        If `draws` is not positive, or the model observes nothing of which there could be a
        log likelihood, or that could be repeated, or reads its data from disk.

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
    >>> tree["variational/mean_field/mu"].coords["element"].values.tolist()
    ['x[0]', 'x[1]']
    """
    draws = whole_number("draws", draws)
    streamed = is_streamed(approx.model)
    model = approx.model if streamed else on_all_data(approx.model)
    of_data = {"log_likelihood": log_likelihood, "posterior_predictive": posterior_predictive}
    asked = [name for name, wanted in of_data.items() if wanted]
    if asked and not model.observed_RVs:
        raise ValueError(f"The model has no observed variables: leave out {' and '.join(asked)}.")
    if asked:
        refuse_streams(model, asked[0])
    drawn = draw(approx, draws, random_seed)
    tree = as_datatree(
        model,
        {name: values[None] for name, values in drawn.values.items()},
        {name: values[None] for name, values in drawn.statistics.items()},
    )
    tree.attrs |= attributes_of(approx)
    if streamed:
        of_rows = [v.name for v in model.deterministics if streams_in([v])]
        tree.attrs["not_evaluated"] = ", ".join(["lp", "observed_data", *of_rows])
    tree["variational"] = variational_group(approx)
    if log_likelihood:
        add_log_likelihood(tree, model)
    if posterior_predictive:
        add_posterior_predictive(tree, model, random_seed)
    return tree
