"""Modes of a posterior, and the Gaussians around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import xarray as xr

from pymc.pytensorf import floatX
from pytensor.graph.replace import clone_replace

from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.engine.labels import labelled_as, plain
from pymc_vi_ext.engine.python_mode import PYTHON_MODE
from pymc_vi_ext.engine.vectorize import over_rows
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.upstream import FlatRV, HalfFlatRV

# Modes nearer than this, in standard deviations of the Gaussian around the higher one, are one.
_SAME_MODE = 0.5
_MOST_ITERATIONS = 300
# Dimensions up to which a method asks for curvatures when nobody told it to.
MOST_CURVED = 300
_MOST_HALVINGS = 40
# Newton steps after L-BFGS, and what the last one may still gain, in nats.
_MOST_NEWTON_STEPS, _NEAR = 20, 1e-6


@dataclass(frozen=True)
class Mode:
    """A mode and the Gaussian around it (Laplace's approximation).

    Attributes
    ----------
    point : array of shape (d,)
        On the unconstrained space.
    cov : array of shape (d, d)
        Inverse of the negative Hessian.
    logp : float
        Log density at the mode, in nats.
    """

    point: np.ndarray
    cov: np.ndarray
    logp: float

    @property
    def log_mass(self) -> float:
        """Log of the mass under the Gaussian around the mode, in nats."""
        log_det = np.linalg.slogdet(self.cov)[1]
        return self.logp + 0.5 * float(log_det + len(self.point) * np.log(2 * np.pi))


def find_mode(density: LogDensity, start: np.ndarray) -> Mode | None:
    """Climb from `start`; None where that ends at no proper mode.

    Parameters
    ----------
    density : LogDensity
    start : array of shape (d,)

    Returns
    -------
    Mode or None
        None if the density or its gradient is not finite on the way, if its Hessian at the end is
        not negative definite, or if the climb does not come within a millionth of a nat.
    """
    end = climb(density, start)
    return None if end is None else _finish(density, *end)


def _negative(density: LogDensity, x: np.ndarray) -> tuple[float, np.ndarray]:
    value, gradient = density(x[None])
    if not (np.isfinite(value[0]) and np.isfinite(gradient).all()):
        return np.inf, np.zeros_like(x)
    return -float(value[0]), -gradient[0].astype(float)


def climb(density: LogDensity, start: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Climb by L-BFGS; return the end and the negative log density there, if that is finite."""
    # Imported on use: it takes a tenth of a second, and most fits climb nowhere.
    from scipy.optimize import minimize

    options = {"maxiter": _MOST_ITERATIONS, "ftol": 1e-12, "gtol": 1e-6}
    found = minimize(
        lambda x: _negative(density, x), start, jac=True, method="L-BFGS-B", options=options
    )
    return (found.x, float(found.fun)) if np.isfinite(found.fun) else None


def _finish(density: LogDensity, x: np.ndarray, value: float) -> Mode | None:
    """Finish by Newton's method what L-BFGS began: it stops short on narrow ridges."""
    for _ in range(_MOST_NEWTON_STEPS):
        cov = _inverse(-density.hessian(x))
        if cov is None:
            return None
        gradient = _negative(density, x)[1]
        step = -cov @ gradient
        if -0.5 * float(step @ gradient) < _NEAR:
            return Mode(x, cov, -value)
        while (new := _negative(density, x + step)[0]) > value and np.abs(step).max() > 0:
            step /= 2
        x, value = x + step, new
    return None


def _inverse(precision: np.ndarray) -> np.ndarray | None:
    """Return the inverse of a positive definite matrix, None of another."""
    if not (np.isfinite(precision).all() and (np.diag(precision) > 0).all()):
        return None
    # In units in which its diagonal is 1: the variables' own may differ by any power of ten.
    unit = 1 / np.sqrt(np.diag(precision))
    values, vectors = np.linalg.eigh(unit[:, None] * precision * unit)
    if values[0] <= 1e-10:
        return None
    inverse: np.ndarray = unit[:, None] * (vectors / values) @ vectors.T * unit
    return inverse


def find_modes(density: LogDensity, starts: np.ndarray) -> list[Mode]:
    """Return the different modes that are found from `starts`, (n, d), heaviest first.

    Their covariances are those of :func:`within_reach`.
    """
    ends = [end for start in starts if (end := climb(density, start)) is not None]
    found: list[Mode] = []
    for point, value in sorted(ends, key=lambda end: end[1]):
        # Many climbs end at one mode, whose curvature is asked for once.
        if any(_distance(point, other) <= _SAME_MODE for other in found):
            continue
        if mode := _finish(density, point, value):
            found.append(within_reach(density, mode))
    modes: list[Mode] = []
    for mode in sorted(found, key=lambda m: -m.log_mass):
        if all(_distance(mode.point, other) > _SAME_MODE for other in modes):
            modes.append(mode)
    return modes


def within_reach(density: LogDensity, mode: Mode) -> Mode:
    """Shorten the Gaussian around a mode where the density falls sooner than its curvature says.

    A mode that is flat to second order has an endless Gaussian. Along each axis of the covariance
    the standard deviation is halved until the log density, a standard deviation away on either
    side, is on average no more than 2 below the mode's; a Gaussian's is 1/2 below.
    """
    variances, axes = np.linalg.eigh(mode.cov)
    scales = np.sqrt(variances)
    for _ in range(_MOST_HALVINGS):
        steps = (axes * scales).T
        logp, _ = density(np.concatenate([mode.point + steps, mode.point - steps]))
        falls = mode.logp - np.where(np.isfinite(logp), logp, -np.inf).reshape(2, -1).mean(axis=0)
        far = falls > 2.0
        if not far.any():
            break
        scales = np.where(far, scales / 2, scales)
    return Mode(mode.point, (axes * scales**2) @ axes.T, mode.logp)


def _distance(point: np.ndarray, mode: Mode) -> float:
    away = point - mode.point
    return float(np.sqrt(away @ np.linalg.solve(mode.cov, away)))


def prior_points(model: pm.Model, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `n` points of the prior, (n, d), on the unconstrained space.

    Raises
    ------
    ValueError
        If a prior is improper, naming it.
    """
    for rv in model.free_RVs:
        if isinstance(rv.owner.op, FlatRV | HalfFlatRV):
            raise ValueError(
                f"{rv.name} has an improper prior, which nothing can be drawn from: use another "
                'start, "map" or "laplace".'
            )
    names = [rv.name for rv in model.free_RVs]
    with python_only():
        seed = int(rng.integers(2**31))
        draws = pm.draw(model.free_RVs, draws=n, random_seed=seed, mode=PYTHON_MODE)
    values = {}
    for name, drawn in zip(names, draws, strict=True):
        drawn = np.asarray(drawn) if n > 1 else np.asarray(drawn)[None]
        values[name] = (("draw", *(f"{name}_{i}" for i in range(drawn.ndim - 1))), drawn)
    return unconstrained_points(model, xr.Dataset(values), ("draw",))


def unconstrained_points(
    model: pm.Model, values: xr.Dataset, sample_dims: Sequence[str] = ("chain", "draw")
) -> np.ndarray:
    """Return draws of the free variables as points, (n, d), on the unconstrained space.

    Raises
    ------
    ValueError
        If a free variable is missing, or of another shape, naming it.
    """
    point = model.initial_point()
    missing = [rv.name for rv in model.free_RVs if rv.name not in values]
    if missing:
        raise ValueError(
            f"The posterior has no draws of {', '.join(missing)}: every free variable of the "
            "model needs them."
        )
    n = int(np.prod([values.sizes[dim] for dim in sample_dims]))
    draws = [values[rv.name].transpose(*sample_dims, ...).values for rv in model.free_RVs]
    merged = [drawn.reshape(n, *drawn.shape[len(sample_dims) :]) for drawn in draws]
    columns = []
    for rv, drawn, free in zip(model.free_RVs, merged, _unconstrained(model, merged), strict=True):
        if free.shape[1:] != np.shape(point[model.rvs_to_values[rv].name]):
            raise ValueError(
                f"The posterior's draws of {rv.name} have the shape {drawn.shape[1:]}, and the "
                "model's have another."
            )
        columns.append(free.reshape(n, -1))
    return np.concatenate(columns, axis=1)


def _unconstrained(model: pm.Model, draws: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Transform draws of the free variables, (n, ...) each, to those of their values.

    PyMC's ``unconstrain_values`` fails on models of ``pymc.dims``.
    """
    free = model.free_RVs
    single = [plain(rv).type() for rv in free]
    batches = [pt.tensor(shape=(None, *v.type.shape), dtype=v.type.dtype) for v in single]
    given = {rv: labelled_as(rv, v) for rv, v in zip(free, single, strict=True)}
    with python_only():
        transforms = [model.rvs_to_transforms[rv] for rv in free]
        moved = [
            rv if transform is None else transform.forward(rv, *rv.owner.inputs)
            for rv, transform in zip(free, transforms, strict=True)
        ]
        # Bounds that depend on another variable depend on its draw.
        outputs = clone_replace([plain(v) for v in moved], given, rebuild_strict=False)
        nodes = over_rows(outputs, dict(zip(single, batches, strict=True)))
        function = pm.pytensorf.compile(
            batches, nodes, mode=PYTHON_MODE, on_unused_input="ignore", random_seed=0
        )
    found: list[np.ndarray] = function(*map(floatX, draws))
    return found
