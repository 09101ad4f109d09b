"""The numbers a comparison gives to a run: the columns of its table, the metrics of MLflow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from pymc_vi_ext.comparison.types import MethodResult, Status
from pymc_vi_ext.diagnostics import distances, elbo, khat

NAN = float("nan")

KEYS = (
    "fit/elbo",
    "fit/steps",
    "time/compile_s",
    "time/fit_s",
    "time/sample_s",
    "diag/khat",
    "diag/elbo",
    "diag/elbo_se",
    "diag/rhat_max",
    "diag/ess_min",
    "compare/mean_error_sd_max",
    "compare/sd_ratio_worst",
    "compare/wasserstein_mean",
    "compare/kde_overlap_min",
)
"""Keys that each run has, NaN where they do not apply. ``fit/elbo`` is the last of the trace."""


def score(result: MethodResult, reference: xr.DataTree | None) -> dict[str, float]:
    """Return the value of every key in :data:`KEYS` for one run.

    Parameters
    ----------
    result : MethodResult
    reference : xarray.DataTree or None
        Posterior that the distances are measured to; NaN if there is none.

    Returns
    -------
    dict of str to float
        Times in seconds, ELBOs in nats, distances in reference standard deviations.
    """
    scores = dict.fromkeys(KEYS, NAN)
    scores |= {
        "fit/elbo": -float(np.mean(result.losses[-100:])) if result.losses.size else NAN,
        "fit/steps": float(result.steps),
        "time/compile_s": result.compile_s,
        "time/fit_s": result.fit_s,
        "time/sample_s": result.sample_s,
    }
    if result.status is Status.FAILED or result.datatree is None:
        return scores
    stats = result.datatree.children.get("sample_stats")
    if stats is not None and "lp" in stats and "log_q" in stats:
        estimate = elbo(result.datatree)
        scores |= {
            "diag/khat": khat(result.datatree),
            "diag/elbo": estimate.elbo,
            "diag/elbo_se": estimate.se,
        }
    if result.name == "nuts":
        scores |= {
            "diag/rhat_max": rhat_max(result.datatree),
            "diag/ess_min": ess_min(result.datatree),
        }
    if reference is not None:
        found = distances(result.datatree, reference)
        scores |= {
            "compare/mean_error_sd_max": found.mean_error_sd_max,
            "compare/sd_ratio_worst": found.sd_ratio_worst,
            "compare/wasserstein_mean": found.wasserstein_mean,
            "compare/kde_overlap_min": found.kde_overlap_min,
        }
    return scores


def rhat_max(datatree: xr.DataTree) -> float:
    """Return the largest rank-normalised R-hat; NaN for a single chain."""
    import arviz_stats

    if datatree["posterior"].sizes["chain"] < 2:
        return NAN
    return _extreme(arviz_stats.rhat(datatree["posterior"].to_dataset()), np.nanmax)


def ess_min(datatree: xr.DataTree) -> float:
    """Return the smallest bulk effective sample size."""
    import arviz_stats

    return _extreme(arviz_stats.ess(datatree["posterior"].to_dataset()), np.nanmin)


def divergences(datatree: xr.DataTree) -> int:
    """Return the number of divergent transitions after tuning; 0 if not recorded."""
    stats = datatree.children.get("sample_stats")
    return int(stats["diverging"].sum()) if stats is not None and "diverging" in stats else 0


def _extreme(dataset: xr.Dataset, choose: Callable[[np.ndarray], float]) -> float:
    values = np.concatenate([np.ravel(array) for array in dataset.data_vars.values()])
    # Elements that are constant by construction have no R-hat.
    return float(choose(values)) if np.isfinite(values).any() else NAN
