"""The numbers that a comparison gives to a run, a row each.

The table of a comparison, the one in the terminal, trackers and the documentation read
:data:`METRICS`: another metric is a function and a row.
"""

from __future__ import annotations

import math

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from pymc_vi_ext.comparison.types import MethodResult, Status
from pymc_vi_ext.diagnostics import (
    Distances,
    ElboEstimate,
    distances,
    divergences,
    elbo,
    ess_min,
    is_sampled,
    khat,
    rhat_max,
)

NAN = float("nan")


@dataclass(frozen=True)
class Scored:
    """What a metric looks at: a result, the reference, and what several metrics share.

    Attributes
    ----------
    result : MethodResult
    reference : xarray.DataTree, xarray.Dataset or None
        The draws, or moments, that distances are measured to.

    Examples
    --------
    >>> from pymc_vi_ext.comparison import Scored, make_spec, not_run
    >>> scored = Scored(not_run(make_spec("advi"), 1), reference=None)
    >>> scored.draws, scored.elbo, scored.distances
    (None, None, None)
    """

    result: MethodResult
    reference: xr.DataTree | xr.Dataset | None

    @property
    def draws(self) -> xr.DataTree | None:
        """``/posterior`` and ``/sample_stats`` of the result; None if it failed."""
        return None if self.result.status is Status.FAILED else self.result.datatree

    @property
    def sampled(self) -> xr.DataTree | None:
        """The draws if they are Markov chains, else None."""
        return self.draws if self.draws is not None and is_sampled(self.draws) else None

    @property
    def weighted(self) -> xr.DataTree | None:
        """The draws if they have both log densities, so that there are weights; else None."""
        stats = None if self.draws is None else self.draws.children.get("sample_stats")
        return self.draws if stats is not None and {"lp", "log_q"} <= set(stats) else None

    @cached_property
    def elbo(self) -> ElboEstimate | None:
        """The ELBO estimated from the draws; None without log weights."""
        return None if self.weighted is None else elbo(self.weighted)

    @cached_property
    def distances(self) -> Distances | None:
        """Distances to the reference; None without one.

        Raises
        ------
        ValueError
            If the two cannot be compared.
        """
        if self.draws is None or self.reference is None:
            return None
        return distances(self.draws, self.reference)


@dataclass(frozen=True)
class Metric:
    """A row of the table of metrics.

    Attributes
    ----------
    key : str
        Column of :attr:`pymc_vi_ext.Comparison.table` and name in trackers, ``group/name``.
    function : callable
        Takes a :class:`Scored` and returns the number, NaN where it does not apply. Where it
        should apply but cannot be computed it raises; the message becomes the row's note.
    heading : str
        Heading in the terminal; empty for a metric that is not shown there.
    format : str
        How the terminal writes the number, such as ``".3f"``.
    caption : str
        What it is, with its unit, for the terminal's legend and the documentation.

    Examples
    --------
    >>> from pymc_vi_ext.comparison import Metric
    >>> row = Metric("draws/chains", lambda s: 1.0, "chains", ".0f", "number of chains")
    >>> row.key
    'draws/chains'
    """

    key: str
    function: Callable[[Scored], float]
    heading: str
    format: str
    caption: str


def score(
    result: MethodResult, reference: xr.DataTree | xr.Dataset | None, group: str = ""
) -> tuple[dict[str, float], str]:
    """Compute every metric of one run.

    Parameters
    ----------
    result : MethodResult
    reference : xarray.DataTree, xarray.Dataset or None
        Draws or moments that the distances are measured to; NaN if there are none.
    group : str
        What the keys begin with; by default all are computed.

    Returns
    -------
    scores : dict of str to float
        By the keys of :data:`METRICS`.
    reasons : str
        Which metrics could not be computed and why; empty if that is none.

    Examples
    --------
    >>> from pymc_vi_ext.comparison import MethodResult, Status
    >>> from pymc_vi_ext.comparison.metrics import score
    >>> scores, reasons = score(MethodResult("advi", "advi", 1, Status.FAILED, fit_s=2.0), None)
    >>> scores["time/run_s"], reasons
    (2.0, '')
    """
    scored = Scored(result, reference)
    scores: dict[str, float] = {}
    reasons: dict[str, list[str]] = {}
    for key, metric in METRICS.items():
        if not key.startswith(group):
            continue
        try:
            scores[key] = float(metric.function(scored))
        except Exception as error:  # one metric's fault must not cost the others, nor the results
            scores[key] = NAN
            reasons.setdefault(_reason(error), []).append(metric.heading or key)
    return scores, "; ".join(
        f"{', '.join(names)} not computed: {reason}" for reason, names in reasons.items()
    )


def _reason(error: Exception) -> str:
    message = " ".join(str(error).split()).removesuffix(".")
    # Ours are sentences; what else goes wrong inside a metric needs its type to be understood.
    return message if type(error) is ValueError else f"{type(error).__name__}: {message}"


def _last_losses(scored: Scored) -> float:
    losses = scored.result.losses
    return -float(np.mean(losses[-100:])) if losses.size else NAN


def _elbo(scored: Scored) -> float:
    if scored.elbo is None:
        return NAN
    if math.isnan(scored.elbo.elbo):
        raise ValueError("Log weights of the draws are NaN.")
    return scored.elbo.elbo


def _elbo_se(scored: Scored) -> float:
    if scored.elbo is None:
        return NAN
    if scored.elbo.draws < 2:
        raise ValueError("A single draw has no standard error.")
    if math.isnan(scored.elbo.se):
        raise ValueError("Log weights of the draws are not finite.")
    return scored.elbo.se


def _khat(scored: Scored) -> float:
    return NAN if scored.weighted is None else khat(scored.weighted)


def _rhat_max(scored: Scored) -> float:
    if scored.sampled is None or scored.sampled["posterior"].sizes["chain"] < 2:
        return NAN
    return _of_chains(rhat_max(scored.sampled))


def _ess_min(scored: Scored) -> float:
    return NAN if scored.sampled is None else _of_chains(ess_min(scored.sampled))


def _warnings(scored: Scored) -> float:
    return NAN if scored.draws is None else len(scored.result.warnings)


def _divergences(scored: Scored) -> float:
    return NAN if scored.sampled is None else divergences(scored.sampled)


def _of_chains(value: float) -> float:
    if math.isnan(value):
        raise ValueError("No element has at least four finite draws in each chain, or none varies.")
    return value


def _distance(summary: Callable[[Distances], float]) -> Callable[[Scored], float]:
    def metric(scored: Scored) -> float:
        if scored.distances is None:
            return NAN
        value = summary(scored.distances)
        if math.isnan(value):
            if math.isnan(scored.distances.mean_error_sd_max):
                raise ValueError("No element that varies in the reference has finite draws.")
            if math.isnan(scored.distances.sd_ratio_worst):
                raise ValueError("A single draw has neither a standard deviation nor a density.")
        # Moments tell nothing of marginals, nor a single element of correlations.
        return value

    return metric


def _run_s(scored: Scored) -> float:
    parts = [s for s in (scored.result.fit_s, scored.result.sample_s) if not math.isnan(s)]
    return sum(parts) if parts else NAN


_ROWS = (
    Metric("fit/elbo", _last_losses, "", ".3f", "ELBO by step, in nats; the last hundred's mean"),
    Metric("fit/steps", lambda s: s.result.steps, "", ".0f", "optimisation steps"),
    Metric("diag/elbo", _elbo, "ELBO", ".3f", "evidence lower bound of fresh draws, in nats"),
    Metric("diag/elbo_se", _elbo_se, "", ".3f", "standard error of `diag/elbo`, in nats"),
    Metric("diag/khat", _khat, "k-hat", ".2f", "shape of the weights' tail, good below 0.7"),
    Metric("diag/rhat_max", _rhat_max, "R-hat", ".2f", "a sampler's largest R-hat"),
    Metric("diag/ess_min", _ess_min, "", ".0f", "a sampler's fewest effective draws"),
    Metric("diag/divergences", _divergences, "", ".0f", "a sampler's divergent transitions"),
    Metric("diag/warnings", _warnings, "", ".0f", "what the run warned of"),
    Metric(
        "compare/mean_error_sd_max",
        _distance(lambda d: d.mean_error_sd_max),
        "error",
        ".3f",
        "largest error of a mean, in sds of the reference",
    ),
    Metric(
        "compare/sd_ratio_worst",
        _distance(lambda d: d.sd_ratio_worst),
        "sd",
        ".3f",
        "ratio of sds to the reference's, the furthest from 1",
    ),
    Metric(
        "compare/quantile_error_sd_max",
        _distance(lambda d: d.quantile_error_sd_max),
        "quantile",
        ".3f",
        "largest error of a 5, 50 or 95 % quantile, in sds",
    ),
    Metric(
        "compare/wasserstein_mean",
        _distance(lambda d: d.wasserstein_mean),
        "W1",
        ".3f",
        "mean 1-Wasserstein distance of the marginals, in sds",
    ),
    Metric(
        "compare/sliced_wasserstein",
        _distance(lambda d: d.sliced_wasserstein),
        "sliced",
        ".3f",
        "1-Wasserstein distance of all elements jointly, sliced, in sds",
    ),
    Metric(
        "compare/correlation_error_max",
        _distance(lambda d: d.correlation_error),
        "corr",
        ".3f",
        "largest error of a correlation",
    ),
    Metric(
        "compare/kde_overlap_min",
        _distance(lambda d: d.kde_overlap_min),
        "overlap",
        ".2f",
        "smallest overlap of a marginal's densities, 1 at best",
    ),
    Metric(
        "time/compile_s",
        lambda s: s.result.compile_s,
        "compile s",
        ".1f",
        "seconds until the first step or transition",
    ),
    Metric("time/fit_s", lambda s: s.result.fit_s, "", ".1f", "seconds of optimisation"),
    Metric("time/sample_s", lambda s: s.result.sample_s, "", ".1f", "seconds of drawing"),
    Metric("time/run_s", _run_s, "run s", ".1f", "seconds of optimisation and drawing"),
)

METRICS: dict[str, Metric] = {metric.key: metric for metric in _ROWS}
"""Metrics by key, in the order of tables. Each run has them all, NaN where one does not apply."""
