"""How far a result can be trusted as the posterior: checks, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations.empirical import Empirical
from pymc_vi_ext.diagnostics._weights import log_weights
from pymc_vi_ext.diagnostics.chains import (
    SETTLED_ESS,
    SETTLED_MEANS,
    SETTLED_RHAT,
    SETTLED_SD_ERROR,
    SETTLED_SDS,
    ess_min,
    is_sampled,
    rhat_max,
)
from pymc_vi_ext.diagnostics.elbo import elbo
from pymc_vi_ext.diagnostics.pareto import (
    GOOD_KHAT,
    NEARLY_EQUAL,
    TRUSTED_KHAT,
    effective_draws,
    moved_by,
    smoothed_weights,
    worth,
)
from pymc_vi_ext.diagnostics.verdict import Check, Diagnosis, Verdict, graded
from pymc_vi_ext.draws import FEWEST_DRAWS, affordable_draws
from pymc_vi_ext.minibatches import is_streamed
from pymc_vi_ext.results import FitReport, StopReason, to_datatree

# Draws of an approximation that are looked at, at most.
_DRAWS = 2_000
# By how much importance weights may move means, in standard deviations, and change the logarithms
# of standard deviations. What is right is within .1; of a heavy tail the weights see only a part.
_MEANS, _SDS = (0.05, 0.3), (0.05, 0.36)
_EQUAL = (
    "The weights of these draws are nearly equal; those of draws further out may not be. What they "
    "move is below; `vix.correct(approx)` makes sure."
)
_CORRECT = "`vix.correct(approx)` goes on from here to the posterior."
_LOOKED = (
    "Looked for: mass elsewhere, from draws of the prior and from points around the draws. Modes "
    "that none of these climbs to are not excluded."
)
_MODES = (
    "Not looked for: modes that no draw here is near, which importance weights and chains begun at "
    "these draws cannot see."
)


def diagnose(result: Approximation | xr.DataTree, *, random_seed: int | None = None) -> Diagnosis:
    r"""Judge whether a result is the posterior, and say by what.

    Parameters
    ----------
    result : Approximation or DataTree
        Of any fit; or draws: those of :func:`pymc_vi_ext.to_datatree`, of
        :func:`pymc_vi_ext.correct`, of a sampler.
    random_seed : int, optional
        Of the draws of an approximation.

    Returns
    -------
    Diagnosis
        ``verdict`` (PASS, WARN or FAIL), the worst of its ``checks``. It prints as a table, and as
        HTML in notebooks. What is checked depends on what there is:

        - of an approximation: whether the fit converged, mass where the density is 0, the ELBO with
          its standard error, :math:`\hat k` of the importance weights (below
          :math:`\min(1 - 1 / \log_{10} n, .7)`) and the draws they are worth, and by how much they
          move means and standard deviations, which is what a fit with small :math:`\hat k` is off
          by; spread over its starts; of particles, which have no density, whether they are enough
          and apart;
        - of chains of :func:`pymc_vi_ext.correct`: nested R-hat, what pooled moments still move,
          effective draws, divergences; of its importance weights, :math:`\hat k` and the draws that
          they are worth;
        - of a sampler's chains: R-hat, effective draws, divergences;
        - of what ``method="auto"`` returns, the draws that it is made of.

    Raises
    ------
    TypeError
        If `result` is neither.
    ValueError
        If a DataTree has no group `posterior`, or one that is empty, holds a single draw, or draws
        that are NaN, naming the variable.

    References
    ----------
    Yao, Y., Vehtari, A., Simpson, D. and Gelman, A. (2018). Yes, but did it work?: Evaluating
    variational inference. https://arxiv.org/abs/1802.02538

    Vehtari, A. et al. (2021). Rank-normalization, folding, and localization: an improved R-hat.
    Bayesian Analysis 16(2). https://arxiv.org/abs/1903.08008

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 0.0, 1.0)
    ...     pm.Normal("y", mu, 1.0, observed=[0.7, 1.5, 1.0])
    ...     approx = vix.fit(random_seed=1, progressbar=False)
    y
    >>> vix.diagnose(approx, random_seed=1).verdict.value
    'PASS'
    """
    if isinstance(result, xr.DataTree):
        return _of_draws(result)
    if not isinstance(result, Approximation):
        raise TypeError(
            f"`diagnose` takes an approximation or a DataTree, not {type(result).__name__}."
        )
    if isinstance(result, Empirical) and result.draws is not None:
        return _of_draws(result.draws)
    report: FitReport | None = vars(result).get("report")
    checks = [_convergence(report), *_starts(report)]
    if result.any_histograms:
        return Diagnosis((*checks, *_particles(result)), _MODES)
    draws = affordable_draws(result, _DRAWS)
    if draws < FEWEST_DRAWS:
        unknown = Check(
            "importance weights",
            "not checked",
            "",
            Verdict.WARN,
            "No draw can be held against all data, which are read from disk a batch at a time."
            if is_streamed(result.model)
            else "A draw reads so much data that enough of them would take minutes.",
        )
        return Diagnosis((*checks, unknown), _MODES)
    tree = to_datatree(result, draws, random_seed=random_seed)
    return Diagnosis((*checks, *_weights(tree)), _MODES)


def _of_draws(tree: xr.DataTree) -> Diagnosis:
    _refuse_unusable(tree)
    how = tree.attrs.get("correction")
    if how == "chains":
        return Diagnosis((*_short_chains(tree.attrs), _elsewhere(tree.attrs)), _LOOKED)
    if how == "importance weights":
        return Diagnosis((*_resampled(tree.attrs), _elsewhere(tree.attrs)), _LOOKED)
    if is_sampled(tree):
        return Diagnosis(tuple(_sampler(tree)), _MODES)
    if "sample_stats" in tree.children and {"log_q", "lp"} <= set(tree["sample_stats"].data_vars):
        return Diagnosis(tuple(_weights(tree)), _MODES)
    nothing = Check(
        "density",
        "none",
        "",
        Verdict.FAIL,
        "One chain, without `log_q` or a sampler's statistics: nothing shows what drew it.",
    )
    return Diagnosis((nothing,), _MODES)


def _refuse_unusable(tree: xr.DataTree) -> None:
    """Raise a ValueError that says what is wrong with a posterior, if something is."""
    if "posterior" not in tree.children:
        raise ValueError("The DataTree has no group `posterior`.")
    posterior = tree["posterior"].dataset
    missing = [dim for dim in ("chain", "draw") if dim not in posterior.dims]
    if missing or not posterior.data_vars:
        raise ValueError("The group `posterior` has no variables with the dims (chain, draw).")
    if posterior.sizes["chain"] * posterior.sizes["draw"] < 2:
        raise ValueError("The group `posterior` has no more than a single draw.")
    for name, values in posterior.data_vars.items():
        if np.issubdtype(values.dtype, np.number) and bool(np.isnan(values).any()):
            raise ValueError(f"Draws of `{name}` in the group `posterior` are NaN.")


def _convergence(report: FitReport | None) -> Check:
    if report is None:
        return Check(
            "convergence",
            "not known",
            "converged",
            Verdict.WARN,
            "No rule has judged this fit: `vix.fit` stops where it has converged.",
        )
    verdicts = {StopReason.CONVERGED: Verdict.PASS, StopReason.NOT_FINITE: Verdict.FAIL}
    verdict = verdicts.get(report.stop_reason, Verdict.WARN)
    advice = {
        Verdict.PASS: "",
        Verdict.WARN: "It may not be at its optimum: `refine`, raise `n`, or leave it to the rule.",
        Verdict.FAIL: "Begin elsewhere (`start=`), or scale the model.",
    }
    return Check("convergence", report.stop_reason.value, "converged", verdict, advice[verdict])


def _starts(report: FitReport | None) -> list[Check]:
    if report is None or len(report.starts) < 2:
        return []
    elbos = np.array([start.elbo for start in report.starts])
    errors = np.array([start.elbo_se for start in report.starts])
    spread = float(elbos.max() - elbos.min())
    limit = float(0.5 + 3 * np.max(errors))
    verdict = Verdict.PASS if spread < limit else Verdict.WARN
    advice = "Starts end at different optima: there may be several modes."
    return [
        Check(
            "spread over starts",
            spread,
            f"< {limit:.2g}",
            verdict,
            advice * (verdict is not Verdict.PASS),
        )
    ]


def _particles(approx: Approximation) -> list[Check]:
    points = np.concatenate([g.params_dict["histogram"].get_value() for g in approx.groups], axis=1)
    n, d = points.shape
    sd = points.std(axis=0)
    distinct = len(np.unique(np.round(points / np.where(sd > 0, sd, 1.0), 6), axis=0))
    return [
        graded(
            "distinct particles",
            distinct,
            n - 0.5,
            n - 0.5,
            "Particles have collapsed.",
            above=True,
        ),
        graded("particles per dimension", n / d, 10, 2, "Use more particles.", above=True),
        Check(
            "density",
            "none",
            "",
            Verdict.WARN,
            f"Particles have no density that could be held against the posterior's: {_CORRECT}",
        ),
    ]


def _weights(tree: xr.DataTree) -> list[Check]:
    """Check an approximation by the importance weights of its draws."""
    logs = log_weights(tree)
    outside = float(np.mean(~np.isfinite(logs)))
    checks = [
        Check(
            "mass without density",
            outside,
            "0",
            Verdict.FAIL if outside else Verdict.PASS,
            "The approximation reaches beyond the support: give the variable a transform."
            * bool(outside),
        )
    ]
    estimate = elbo(tree)
    checks.append(Check("ELBO", f"{estimate.elbo:.6g} +- {estimate.se:.2g}", "", Verdict.PASS))
    try:
        weights, shape = smoothed_weights(logs)
    except ValueError as error:
        return [*checks, Check("k-hat", "not known", "", Verdict.FAIL, str(error))]
    threshold = min(1 - 1 / np.log10(logs.size), GOOD_KHAT)
    # Nearly equal weights have a tail too, whose shape says little.
    equal = worth(logs) >= NEARLY_EQUAL
    worst, advice = (np.inf, _EQUAL) if equal else (1.0, _CORRECT)
    checks.append(graded("k-hat", shape, round(float(threshold), 2), worst, advice))
    if shape >= 1.0 and not equal:
        return checks
    effective = effective_draws(weights)
    checks.append(graded("importance ESS", effective, 100, 25, _CORRECT, above=True))
    values = tree["posterior"].dataset.transpose("chain", "draw", ...).data_vars.values()
    means, sds = moved_by(weights, [v.values.reshape(logs.size, -1) for v in values])
    checks.append(graded("means moved by weights (sd)", means, *_MEANS, _CORRECT))
    checks.append(graded("log sds changed by weights", sds, *_SDS, _CORRECT))
    return checks


def _short_chains(numbers: Mapping[Any, Any]) -> list[Check]:
    longer = (
        "Give it more seconds, or write the model so that its variables depend less on each other."
    )
    return [
        graded("nested R-hat", numbers["rhat_nested"], SETTLED_RHAT, 1.05, longer),
        graded("means still move (sd)", numbers["moved"], SETTLED_MEANS, 0.15, longer),
        graded("log sds still move", numbers["spread"], SETTLED_SDS, 0.2, longer),
        graded("ESS", numbers["ess_min"], SETTLED_ESS, 400, longer, above=True),
        _sd_error(numbers),
        graded(
            "divergences",
            numbers["diverging"],
            0.05,
            0.2,
            "Some places are too narrow for the step size: another parametrisation may help.",
        ),
    ]


def _resampled(numbers: Mapping[Any, Any]) -> list[Check]:
    return [
        graded("k-hat", numbers["khat"], TRUSTED_KHAT, GOOD_KHAT, _CORRECT),
        graded("importance ESS", numbers["ess_min"], SETTLED_ESS, 400, _CORRECT, above=True),
        _sd_error(numbers),
    ]


def _sd_error(numbers: Mapping[Any, Any]) -> Check:
    """Check whether standard deviations are known; those of heavy tails may not even exist."""
    heavy = "Few draws far away make a standard deviation: go by quantiles, or draw longer."
    error = numbers["sd_error"]
    return graded("standard error of log sds", error, SETTLED_SD_ERROR, np.inf, heavy)


def _elsewhere(numbers: Mapping[Any, Any]) -> Check:
    """Check whether points from far away have come to other mass."""
    found, scouts = int(numbers["elsewhere"]), int(numbers["scouts"])
    if not scouts:
        late = "Time was up before anything had looked for other modes: raise `max_seconds`."
        return Check("mass elsewhere", "not looked for", "none", Verdict.WARN, late)
    return Check(
        "mass elsewhere",
        f"{found} of {scouts} scouts" if found else "none",
        "none",
        Verdict.FAIL if found else Verdict.PASS,
        "There are modes that these draws are not of: try several starts, a mixture, SVGD."
        * bool(found),
    )


def _sampler(tree: xr.DataTree) -> list[Check]:
    stats = tree.children.get("sample_stats")
    diverging = (
        float(stats["diverging"].mean()) if stats is not None and "diverging" in stats else 0.0
    )
    longer = "Draw longer, or with more chains."
    return [
        graded("R-hat", rhat_max(tree), 1.01, 1.05, longer),
        graded("ESS", ess_min(tree), 400, 100, longer, above=True),
        graded(
            "divergences",
            diverging,
            0.001,
            0.02,
            "Raise `target_accept`, or write the model in another parametrisation.",
        ),
    ]
