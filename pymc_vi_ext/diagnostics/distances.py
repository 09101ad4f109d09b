"""Distances between two posteriors, in units of the reference."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
import xarray as xr

# By which quantiles a marginal is judged.
_PROBABILITIES = (0.05, 0.5, 0.95)
# Directions of the sliced distance, the same ones always, and rows of a correlation matrix that are
# computed at once.
_DIRECTIONS, _SEED, _ROWS = 50, 0, 512
# All that a reference of moments can tell.
_OF_MOMENTS = ("mean_error", "sd_ratio")


@dataclass(frozen=True)
class Distances:
    """Distances to a reference: of the marginals, element by element, and of all elements together.

    Each Dataset has the variables that both posteriors share, with the model's dims and without
    chain and draw. An element that is constant in the reference (the fixed corner of a Cholesky
    factor, say) has no scale to measure by and is NaN throughout, as is one with a draw that is
    not finite. A single draw has neither a standard deviation nor a density: these are NaN. The
    summaries leave NaNs out, and are NaN where nothing else is left. Against moments all but
    `mean_error` and `sd_ratio` is NaN.

    Attributes
    ----------
    mean_error : xarray.Dataset
        ``|mean - reference mean|`` in reference standard deviations. 0 is best.
    sd_ratio : xarray.Dataset
        Standard deviation over the reference's. 1 is best.
    wasserstein : xarray.Dataset
        1-Wasserstein distance in reference standard deviations. 0 is best.
    kde_overlap : xarray.Dataset
        Integral of the smaller of the two densities, both estimated by ArviZ' KDE; 1 is best,
        0 means disjoint.
    quantile_error : xarray.Dataset
        Largest error of the 5 %, 50 % and 95 % quantiles, in reference standard deviations.
    sliced_wasserstein : float
        1-Wasserstein distance of all elements jointly, each in its reference standard deviations,
        along a direction: the mean over 50 random directions of length 1 [1]_. 0 is best; of a
        single element it is `wasserstein`.
    correlation_error : float
        Largest absolute difference of the correlations of two elements, between 0 and 2. NaN of a
        single element.

    References
    ----------
    .. [1] Bonneel, N., Rabin, J., Peyré, G. and Pfister, H. (2015). Sliced and Radon Wasserstein
       barycenters of measures. Journal of Mathematical Imaging and Vision 51, 22-45.

    Examples
    --------
    >>> import numpy as np, arviz as az
    >>> from pymc_vi_ext.diagnostics import distances
    >>> x = np.random.default_rng(1).normal(size=(1, 1_000))
    >>> here, there = (az.from_dict({"posterior": {"x": draws}}) for draws in (x + 0.5, x))
    >>> found = distances(here, there)
    >>> round(found.mean_error_sd_max, 1), round(found.sd_ratio_worst, 6)
    (0.5, 1.0)
    """

    mean_error: xr.Dataset
    sd_ratio: xr.Dataset
    wasserstein: xr.Dataset
    kde_overlap: xr.Dataset
    quantile_error: xr.Dataset
    sliced_wasserstein: float
    correlation_error: float

    @property
    def mean_error_sd_max(self) -> float:
        """Largest error of a mean, in reference standard deviations."""
        return _pick(self.mean_error, np.nanmax)

    @property
    def sd_ratio_worst(self) -> float:
        """The ratio of standard deviations that is furthest from 1 on the log scale."""
        with np.errstate(divide="ignore"):  # a collapsed element has ratio 0, the worst of all
            return _pick(self.sd_ratio, lambda r: r[np.nanargmax(np.abs(np.log(r)))])

    @property
    def wasserstein_mean(self) -> float:
        """Mean over the elements of the 1-Wasserstein distance."""
        return _pick(self.wasserstein, np.nanmean)

    @property
    def kde_overlap_min(self) -> float:
        """Smallest overlap of two marginal densities."""
        return _pick(self.kde_overlap, np.nanmin)

    @property
    def quantile_error_sd_max(self) -> float:
        """Largest error of a quantile, in reference standard deviations."""
        return _pick(self.quantile_error, np.nanmax)


def distances(dt: xr.DataTree, reference: xr.DataTree | xr.Dataset) -> Distances:
    r"""Compare a posterior with a reference.

    Parameters
    ----------
    dt : xarray.DataTree
        With a ``/posterior`` of dims (chain, draw, ...). Deterministics count as variables.
    reference : xarray.DataTree or xarray.Dataset
        Likewise; the numbers of draws may differ. Or a Dataset of moments, with a dim ``moment``
        whose coords are ``"mean"`` and ``"sd"``, as
        :func:`pymc_vi_ext.zoo.posteriordb.moments` gives.

    Returns
    -------
    Distances

    Raises
    ------
    ValueError
        If the two share no variable, a variable differs in shape, or the reference gives no scale:
        it has a single draw, or no element that varies and whose draws are finite, or moments whose
        standard deviations are not positive.

    Notes
    -----
    All estimates are subject to Monte Carlo error: two samples of `n` independent draws of
    the same distribution have mean errors of about :math:`\sqrt{2/n}` and, if Gaussian,
    1-Wasserstein distances of about :math:`0.75\,\sqrt{2/n}` standard deviations.

    Examples
    --------
    >>> import arviz as az, numpy as np
    >>> from pymc_vi_ext.diagnostics import distances
    >>> x = np.random.default_rng(0).normal(size=(4, 1000))
    >>> d = distances(
    ...     az.from_dict({"posterior": {"x": 2 * x + 1}}), az.from_dict({"posterior": {"x": x}})
    ... )
    >>> round(d.sd_ratio_worst, 6), 0.9 < d.mean_error_sd_max < 1.1
    (2.0, True)
    """
    posterior, known = dt["posterior"].dataset, set(_MARGINAL)
    if isinstance(reference, xr.Dataset):
        reference_posterior, known = two_draws(reference), set(_OF_MOMENTS)
    else:
        reference_posterior = reference["posterior"].dataset
    names = [name for name in reference_posterior.data_vars if name in posterior.data_vars]
    if not names:
        raise ValueError(
            f"The posteriors share no variable: {sorted(map(str, posterior.data_vars))} against "
            f"{sorted(map(str, reference_posterior.data_vars))} in the reference."
        )
    if reference_posterior.sizes["chain"] * reference_posterior.sizes["draw"] < 2:
        raise ValueError("The reference has a single draw, which gives no scale.")
    finite = varies = False
    found: dict[str, dict[Hashable, xr.DataArray]] = {metric: {} for metric in _MARGINAL}
    jointly: list[tuple[np.ndarray, np.ndarray]] = []
    for name in names:
        template = reference_posterior[name].isel(chain=0, draw=0, drop=True)
        x, z = _elements(posterior[name]), _elements(reference_posterior[name])
        shape = posterior[name].isel(chain=0, draw=0).shape
        if shape != template.shape:
            raise ValueError(
                f"Variable {name!r} has shape {shape}, but {template.shape} in the reference."
            )
        with np.errstate(invalid="ignore"):  # draws that are infinite
            mean, sd = z.mean(axis=1, keepdims=True), z.std(axis=1, ddof=1, keepdims=True)
            # Rounding leaves a constant with a tiny standard deviation.
            sd[sd <= 1e-12 * np.abs(mean)] = np.nan
            finite |= bool(np.isfinite(z).all(axis=1).any())
            varies |= bool(np.isfinite(sd).any())
            x, z = (x - mean) / sd, (z - mean) / sd
        measured = np.isfinite(x).all(axis=1) & np.isfinite(z).all(axis=1)
        for metric, distance in _MARGINAL.items():
            values = np.full(len(x), np.nan)
            if metric in known:
                pairs = zip(x[measured], z[measured], strict=True)
                values[measured] = [distance(xi, zi) for xi, zi in pairs]
            found[metric][name] = template.copy(data=np.reshape(values, template.shape))
        jointly.append((x[measured], z[measured]))
    if not finite:
        raise ValueError("No element of the reference has finite draws, so it gives no scale.")
    if not varies:
        raise ValueError("No element varies in the reference, so it gives no scale.")
    sliced = correlation = float("nan")
    if known >= set(_MARGINAL):
        x, z = (np.concatenate(parts) for parts in zip(*jointly, strict=True))
        sliced, correlation = _sliced_wasserstein(x, z), _correlation_error(x, z)
    return Distances(
        **{metric: xr.Dataset(arrays) for metric, arrays in found.items()},
        sliced_wasserstein=sliced,
        correlation_error=correlation,
    )


def two_draws(moments: xr.Dataset) -> xr.Dataset:
    """Return moments as what has them: two draws, a standard deviation apart times the root of 2.

    Raises
    ------
    ValueError
        If the Dataset has no means and standard deviations, or one of the latter is not positive.
    """
    if not {"mean", "sd"} <= set(moments.coords.get("moment", xr.DataArray([])).values.tolist()):
        raise ValueError("Moments need a dim 'moment' with the coords 'mean' and 'sd'.")
    mean, sd = (moments.sel(moment=moment, drop=True) for moment in ("mean", "sd"))
    for name, values in sd.data_vars.items():
        if (values <= 0).any():
            raise ValueError(
                f"A standard deviation of {name!r} in the reference is {float(values.min()):g}: it "
                "must be above 0."
            )
    away = sd / np.sqrt(2)
    draws: xr.Dataset = xr.concat([mean - away, mean + away], dim="draw").expand_dims("chain")
    return draws


def _elements(array: xr.DataArray) -> np.ndarray:
    """Return the draws as (element, sample)."""
    values = array.transpose("chain", "draw", ...).values.astype(float)
    return values.reshape(values.shape[0] * values.shape[1], -1).T


def _mean_error(x: np.ndarray, z: np.ndarray) -> float:
    return float(abs(x.mean() - z.mean()))


def _sd_ratio(x: np.ndarray, z: np.ndarray) -> float:
    return float(x.std(ddof=1) / z.std(ddof=1)) if x.size > 1 else float("nan")


def _wasserstein(x: np.ndarray, z: np.ndarray) -> float:
    # ArviZ' own takes a random 500 draws, whose error would drown small distances.
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(x, z))


def _kde_overlap(x: np.ndarray, z: np.ndarray) -> float:
    from pymc_vi_ext.upstream import array_stats

    if x.size < 2:
        return float("nan")
    if np.ptp(x) == 0:
        return 0.0  # a point mass against a density
    # Each on its own grid, then both on the union of the two grids: one grid over both ranges
    # would be too coarse for the narrower.
    grid_x, density_x, _ = array_stats.kde(x)
    grid_z, density_z, _ = array_stats.kde(z)
    grid = np.union1d(grid_x, grid_z)
    densities = [
        np.interp(grid, own_grid, density / np.trapezoid(density, own_grid), left=0.0, right=0.0)
        for own_grid, density in ((grid_x, density_x), (grid_z, density_z))
    ]
    return float(np.trapezoid(np.minimum(*densities), grid))


def _quantile_error(x: np.ndarray, z: np.ndarray) -> float:
    return float(np.max(np.abs(np.quantile(x, _PROBABILITIES) - np.quantile(z, _PROBABILITIES))))


_MARGINAL: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mean_error": _mean_error,
    "sd_ratio": _sd_ratio,
    "wasserstein": _wasserstein,
    "kde_overlap": _kde_overlap,
    "quantile_error": _quantile_error,
}


def _sliced_wasserstein(x: np.ndarray, z: np.ndarray) -> float:
    """Return the mean distance along random directions; `x` and `z` are (element, sample)."""
    d = len(x)
    if d == 0:
        return float("nan")
    directions = np.random.default_rng(_SEED).normal(size=(_DIRECTIONS if d > 1 else 1, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    along = zip(directions @ x, directions @ z, strict=True)
    return float(np.mean([_wasserstein(xi, zi) for xi, zi in along]))


def _correlation_error(x: np.ndarray, z: np.ndarray) -> float:
    """Return the largest difference; elements that are constant in `x` have no correlations."""
    spread = x.std(axis=1) > 0
    if spread.sum() < 2:
        return float("nan")
    x, z = _standardised(x[spread]), _standardised(z[spread])
    # A few rows at once: the matrices of thousands of elements would not fit in memory.
    return max(
        float(np.max(np.abs(x[first : first + _ROWS] @ x.T - z[first : first + _ROWS] @ z.T)))
        for first in range(0, len(x), _ROWS)
    )


def _standardised(x: np.ndarray) -> np.ndarray:
    """Return rows whose products are correlations."""
    away = x - x.mean(axis=1, keepdims=True)
    standardised: np.ndarray = away / np.linalg.norm(away, axis=1, keepdims=True)
    return standardised


def _pick(dataset: xr.Dataset, choose: Callable[[np.ndarray], float]) -> float:
    values = np.concatenate([np.ravel(array) for array in dataset.data_vars.values()])
    return float("nan") if np.isnan(values).all() else float(choose(values))
