"""From an approximation to the posterior: importance weights, or short chains."""

from __future__ import annotations

import time

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from pymc.variational.opvi import Approximation

from pymc_vi_ext.correction._hmc import ManyChains, Path
from pymc_vi_ext.correction._regions import Regions
from pymc_vi_ext.correction._scouting import look_elsewhere
from pymc_vi_ext.correction._settling import Settled, settle, settle_again
from pymc_vi_ext.diagnosis import diagnose
from pymc_vi_ext.diagnostics.chains import SETTLED_ESS, log_sd_error
from pymc_vi_ext.diagnostics.pareto import (
    TRUSTED_KHAT,
    effective_draws,
    moved_by,
    smoothed_weights,
)
from pymc_vi_ext.draws import (
    FEWEST_DRAWS,
    Drawn,
    affordable_draws,
    as_datatree,
    draw,
    values_of,
)
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.errors import NoDensityError
from pymc_vi_ext.fit_record import attributes_of
from pymc_vi_ext.minibatches import on_all_data
from pymc_vi_ext.options import positive, whole_number
from pymc_vi_ext.progress import ChainProgress, NoProgress, chain_progress
from pymc_vi_ext.results import FitReport

# Draws of the approximation that are weighted, at most.
_DRAWS = 4_000
# By how much weights that are trusted may move moments: means, in standard deviations, and
# logarithms of these. (At k = .45 weights that widened a heavy tail by
# 20 % still left it 11 % too narrow.)
_MOST_MOVED = 0.1
# Chains, and how many of them begin at each draw. A draw that many chains share costs nothing, and
# tells what is left of where they began from what is only noise.
_CHAINS, _PER_SUPERCHAIN = 64, 4
_FEWEST_SUPERCHAINS = 4
# How often scouts look for mass elsewhere: once more after each time that they find some.
_MOST_LOOKS = 4
# Where half of the chains have begun at what scouts found, and all have settled in one region, it
# was on a long way back. After so many times in a row what scouts find is no news: a heavy tail.
_ENOUGH_RETURNS = 2
# No stretch of chains goes on beyond this part of the time, so that scouts have the rest.
_OF_CHAINS = 0.85


def correct(
    approx: Approximation,
    draws: int = 4_000,
    *,
    chains: int | str = "auto",
    max_seconds: float | None = None,
    random_seed: int | None = None,
    backend: str | None = "auto",
    progressbar: bool = True,
) -> xr.DataTree:
    r"""Draw from the posterior, beginning at an approximation of it, and judge both.

    Where the importance weights of the approximation's draws have a light tail
    (:math:`\hat k < .5`), are worth 1,000 draws and have little to correct (means by less than .1
    standard deviations, these by less than 10 %), the draws are drawn anew by their Pareto smoothed
    weights. Elsewhere they are where 16 groups of four chains of Hamiltonian Monte Carlo begin, in
    units of the approximation's covariance and then of their own. Stretches of 10, 20, 40 ...
    transitions follow each other until over the second half of one

    - the rank-normalised nested R-hat of every coordinate is below 1.01,
    - no pooled mean has moved by .05 standard deviations and no standard deviation by 7 % since the
      stretch before, beyond two standard errors of what chance does,
    - every coordinate has an effective sample size of 2,000 (1,000 are enough for a PASS),

    and the standard deviations of all variables are known to 5 % (one standard error; if up to two
    more stretches do not suffice for that, tails are heavy, and the verdict is WARN).

    Parameters
    ----------
    approx : Approximation
        Any of PyMC's, fitted by this package or not; particles too. The better, the sooner.
    draws : int
        At least so many are returned: chains have the same number each.
    chains : int or "auto"
        A multiple of 4, 16 at least; 64 if "auto".
    max_seconds : float, optional
        No stretch goes on for longer; what there is then is returned, with its verdict. Ctrl-C
        raises KeyboardInterrupt.
    random_seed : int, optional
    backend : {"auto", "jax", "numba", "c"}
        What runs the chains, as of :func:`pymc_vi_ext.fit`.
    progressbar : bool
        Whether to show what the chains are at.

    Returns
    -------
    DataTree
        ``posterior``: free variables and Deterministics, (chain, draw, \*dims), with the model's
        dims and coords; chains are kept apart, and the coordinate ``superchain`` (chain) says which
        of them began together. ``sample_stats``: ``lp`` (log density on the unconstrained space, in
        nats, of all data behind minibatches), and of chains ``acceptance_rate``, ``step_size``,
        ``n_steps`` (leapfrog steps), ``energy``, ``diverging``. ``observed_data``,
        ``constant_data``.

        Attributes: ``verdict`` ("PASS", "WARN", "FAIL": :func:`pymc_vi_ext.diagnose` of the tree),
        ``correction`` ("importance weights" or "chains"), ``khat`` of the approximation (NaN of
        particles), ``ess_min``, ``sd_error`` (largest standard error of the logarithm of a standard
        deviation), ``seconds``; of chains ``rhat_nested``, ``moved``, ``spread``,
        ``diverging`` (share of transitions), ``transitions`` and ``leapfrogs`` of each chain,
        ``chains``, ``superchains``, ``regions`` that they jumped between and ``jumps`` of each
        chain, ``backend``; ``scouts``, how many points from far away looked for other mass last,
        and ``elsewhere``, how many found some. The error of the fit, against these
        draws, on the unconstrained space: ``fit_mean_error`` (largest, in standard deviations),
        ``fit_sd_ratio_least`` and ``fit_sd_ratio_most``. What :func:`pymc_vi_ext.to_datatree`
        says of the fit, where there is a report.

        ``approx.report.correction``, where there is a report, is the diagnosis of these draws.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    NoDensityError
        A ValueError, if no draw of the approximation has a finite density.

    References
    ----------
    Vehtari, A., Simpson, D., Gelman, A., Yao, Y. and Gabry, J. (2024). Pareto smoothed importance
    sampling. https://arxiv.org/abs/1507.02646

    Margossian, C. et al. (2024). Nested R-hat: assessing the convergence of Markov chain Monte
    Carlo when running many short chains. Bayesian Analysis. https://arxiv.org/abs/2110.13017

    Pompe, E., Holmes, C. and Łatuszyński, K. (2020). A framework for adaptive MCMC targeting
    multimodal distributions. Annals of Statistics 48(5). https://arxiv.org/abs/1812.02609

    Notes
    -----
    Neither weights nor chains see a mode that the approximation has not. Scouts, as many as chains,
    look for them: half begin at draws of the prior (or, where it is improper, scattered around the
    draws), some where the density rises again on a line along a variable, and climb until it is
    what it is at the draws; the others begin at draws and go on at temperatures of 2 to 10 first.
    Where some stay far from all draws and have mass, half of the chains begin, and all settle once
    more; then scouts look again. Chains that stay in several regions jump between them by a
    Metropolis step (Pompe et al., 2020), and have the right weights once they have settled. The
    verdict is no PASS where they do not, and FAIL where the last scouts have found more, unless all
    chains have come back to one region twice: a heavy tail. Modes that no scout comes to stay
    unknown.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.StudentT("x", nu=4, shape=2)
    ...     approx = vix.fit(random_seed=1, progressbar=False)
    >>> tree = vix.correct(approx, draws=1_000, random_seed=1, progressbar=False)
    >>> tree.attrs["correction"], tree.attrs["verdict"]
    ('chains', 'PASS')
    >>> dict(tree.posterior["x"].sizes)
    {'chain': 64, 'draw': 16, 'x_dim_0': 2}
    """
    started = time.perf_counter()
    draws = whole_number("draws", draws)
    count = _CHAINS if chains == "auto" else _checked(chains)
    max_seconds = np.inf if max_seconds is None else positive("max_seconds", max_seconds)
    rng = np.random.default_rng(random_seed)
    with chain_progress("posterior", progressbar) as progress:
        tree = _corrected(approx, draws, count, started, max_seconds, rng, backend, progress)
        tree.attrs["seconds"] = time.perf_counter() - started
        found = diagnose(tree)
        tree.attrs["verdict"] = found.verdict.value
        progress.finish(f"{found.verdict.value} by {tree.attrs['correction']}")
    report: FitReport | None = vars(approx).get("report")
    if report is not None:
        approx.report = replace(report, correction=found)
    return tree


def _corrected(
    approx: Approximation,
    draws: int,
    count: int,
    started: float,
    max_seconds: float,
    rng: np.random.Generator,
    backend: str | None,
    progress: ChainProgress | NoProgress,
) -> xr.DataTree:
    """Return draws of the posterior, with all attributes but seconds and verdict."""
    until, of_chains = started + max_seconds, started + _OF_CHAINS * max_seconds
    model = on_all_data(approx.model)
    progress.say("compiling chains")
    moving = ManyChains(LogDensity(model), count, backend, progress)
    progress.say("weights of the approximation's draws")
    looked = max(FEWEST_DRAWS, affordable_draws(approx, _DRAWS))
    drawn = draw(approx, looked, int(rng.integers(2**31)), moving.log_density)
    # A flat density is finite where a draw is no number.
    usable = drawn.points[
        np.isfinite(drawn.statistics["lp"]) & np.isfinite(drawn.points).all(axis=1)
    ]
    if not len(usable):
        raise NoDensityError(
            "No draw of the approximation has a finite log density: nothing can begin there."
        )
    khat, weights = _trusted_weights(drawn)
    groups = count // _PER_SUPERCHAIN
    superchain = np.repeat(np.arange(groups), _PER_SUPERCHAIN)
    values = cache(partial(values_of, model))
    each = -(-draws // count)

    def sd_error(path: Path) -> float:
        some = path.evenly(each)
        found = values()(some.points.reshape(-1, moving.d)).values()
        return max(log_sd_error(v.reshape(count, -1, *v.shape[1:]).astype(float)) for v in found)

    settled: Settled | None = None
    if weights is None:
        chosen = rng.choice(len(usable), groups, replace=len(usable) < groups)
        settled = settle(
            moving, usable[chosen][superchain], superchain, usable, sd_error, rng, of_chains
        )
        points, regions = settled.points, settled.regions
    else:
        chosen = rng.choice(len(weights), draws, p=weights)
        points, regions = drawn.points[chosen], None
        moving.adapt_to(points)
    seen: Regions | None = None
    returns = 0
    for looks_left in reversed(range(_MOST_LOOKS)):
        known = regions or Regions.one(points, moving.dense)
        if seen is not None:
            # One that the chains have left has been weighed, and is no news.
            known = known.joined(seen)
        elsewhere = look_elsewhere(moving, model, points, known, rng, until)
        if returns == _ENOUGH_RETURNS:
            elsewhere = replace(elsewhere, points=elsewhere.points[:0])
        if not (len(elsewhere.points) and looks_left) or time.perf_counter() > of_chains:
            break
        again, seen = settle_again(
            moving, points, known, elsewhere.points, superchain, sd_error, rng, of_chains
        )
        if not again.settled and (settled is None or settled.settled):
            # Draws of a part that is known well are worth more than draws of all that are not.
            break
        settled = again
        points, regions = settled.points, settled.regions
        returns = returns + 1 if settled.settled and regions is None else 0
    if settled is not None:
        tree = _of_chains(model, moving, settled, drawn, values(), each, rng, until)
    else:
        assert weights is not None
        tree = _of_weights(model, weights, chosen, drawn)
    tree.attrs = attributes_of(approx) | tree.attrs
    tree.attrs |= {"khat": khat, "scouts": elsewhere.scouts, "elsewhere": len(elsewhere.points)}
    return tree


def _checked(chains: Any) -> int:
    count = whole_number("chains", chains)
    if count % _PER_SUPERCHAIN or count < _PER_SUPERCHAIN * _FEWEST_SUPERCHAINS:
        raise ValueError(
            f"`chains` must be a multiple of {_PER_SUPERCHAIN}, "
            f"{_PER_SUPERCHAIN * _FEWEST_SUPERCHAINS} at least, not {count}."
        )
    return count


def _trusted_weights(drawn: Drawn) -> tuple[float, np.ndarray | None]:
    """Return k-hat, and importance weights, (n,), where these can be trusted."""
    logs = drawn.log_weights
    if logs is None:
        return float("nan"), None
    try:
        weights, khat = smoothed_weights(logs)
    except ValueError:
        return float("inf"), None
    worth = effective_draws(weights)
    means, log_sds = moved_by(weights, list(drawn.values.values()))
    # A tail that no draw has reached weighs most where the weights have much to correct.
    trusted = khat < TRUSTED_KHAT and worth > SETTLED_ESS and max(means, log_sds) < _MOST_MOVED
    return khat, weights if trusted else None


def _of_weights(
    model: pm.Model, weights: np.ndarray, chosen: np.ndarray, drawn: Drawn
) -> xr.DataTree:
    """Return the draws that their weights have chosen."""
    tree = as_datatree(
        model,
        {name: values[chosen][None] for name, values in drawn.values.items()},
        {"lp": drawn.statistics["lp"][chosen][None]},
    )
    mean = weights @ drawn.points
    sd = np.sqrt(weights @ (drawn.points - mean) ** 2)
    tree.attrs |= {
        "correction": "importance weights",
        "ess_min": effective_draws(weights),
        "sd_error": max(_weighted_log_sd_error(weights, v) for v in drawn.values.values()),
    }
    tree.attrs.update(_error_of_fit(drawn.points, mean, sd))
    return tree


def _weighted_log_sd_error(weights: np.ndarray, values: np.ndarray) -> float:
    """Return what :func:`log_sd_error` does, of independent draws with weights."""
    flat = values.reshape(len(weights), -1).astype(float)
    squares = (flat - weights @ flat) ** 2
    mean = weights @ squares
    errors = np.sqrt(weights**2 @ (squares - mean) ** 2) / (2 * np.where(mean > 0, mean, 1))
    return float(np.max(errors, initial=0.0))


def _of_chains(
    model: pm.Model,
    chains: ManyChains,
    settled: Settled,
    drawn: Drawn,
    values_of_points: Callable[[np.ndarray], dict[str, np.ndarray]],
    each: int,
    rng: np.random.Generator,
    until: float,
) -> xr.DataTree:
    """Return what settled chains went through, or more where that is not enough."""
    count = chains.chains
    path = _with_length(settled, chains, each, rng, until)
    n = path.points.shape[1]
    values = values_of_points(path.points.reshape(-1, chains.d))
    tree = as_datatree(
        model,
        {name: flat.reshape(count, n, *flat.shape[1:]) for name, flat in values.items()},
        {
            "lp": path.logp,
            "acceptance_rate": path.acceptance,
            "step_size": np.broadcast_to(path.step_size, (count, n)).copy(),
            "n_steps": np.broadcast_to(path.leaps, (count, n)).copy(),
            "energy": path.energy,
            "diverging": path.diverging,
        },
    )
    for group in ("posterior", "sample_stats"):
        labelled = tree[group].to_dataset().assign_coords(superchain=("chain", settled.superchain))
        tree[group] = xr.DataTree(labelled)
    tree.attrs.update(_numbers(settled, chains))
    mean, sd = settled.points.mean(axis=0), settled.points.std(axis=0)
    tree.attrs.update(_error_of_fit(drawn.points, mean, sd))
    return tree


def _with_length(
    settled: Settled, chains: ManyChains, n: int, rng: np.random.Generator, until: float
) -> Path:
    """Return `n` transitions: evenly some of those there are, or with more that follow."""
    path = settled.path
    there = path.points.shape[1]
    if there >= n:
        return path.evenly(n)
    # Scouts have left them elsewhere, with other steps.
    chains.begin(path.points[:, -1])
    chains.find_step_size(rng)
    more = chains.run(n - there, rng, until, regions=settled.regions, adapting=False)
    return path.followed_by(more)


def _numbers(settled: Settled, chains: ManyChains) -> dict[str, Any]:
    return {
        "correction": "chains",
        "rhat_nested": settled.rhat,
        "moved": settled.moved,
        "spread": settled.spread,
        "ess_min": settled.ess,
        "sd_error": settled.sd_error,
        "diverging": float(settled.path.diverging.mean()),
        "transitions": settled.transitions,
        "leapfrogs": chains.leaps,
        "chains": chains.chains,
        "superchains": chains.chains // _PER_SUPERCHAIN,
        "regions": len(settled.regions or [0]),
        "jumps": float(settled.path.jumps.sum() / chains.chains),
        "backend": chains.backend,
    }


def _error_of_fit(points: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> dict[str, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = points.std(axis=0) / sd
        away = np.max(abs(points.mean(axis=0) - mean) / sd)
    return {
        "fit_mean_error": float(away),
        "fit_sd_ratio_least": float(ratio.min()),
        "fit_sd_ratio_most": float(ratio.max()),
    }
