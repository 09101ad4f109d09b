"""Where a fit begins: at a draw of the prior, a mode, or another posterior's Gaussian."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from pymc.variational.opvi import Approximation, Group

from pymc_vi_ext.approximations import family_of
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.engine.labels import has_labels
from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.minibatches import on_all_data
from pymc_vi_ext.modes import Mode, climb, find_mode, prior_points, unconstrained_points
from pymc_vi_ext.upstream import layout

# Among which a start is looked for where the log density is not finite at the usual one.
_PRIOR_DRAWS = 200

STARTS = ("prior", "map", "laplace", "pathfinder")

type StartingPoint = str | xr.DataTree | Approximation | Mapping[str, Any] | None


def is_point(start: StartingPoint) -> bool:
    """Tell whether PyMC itself knows the start: values by name of the variables, or none."""
    return start is None or (isinstance(start, Mapping) and not isinstance(start, xr.DataTree))


def begin_at(approx: Approximation, start: StartingPoint, seed: int | None) -> None:
    """Set `approx` to where `start` says.

    Parameters
    ----------
    approx : Approximation
    start : {"prior", "map", "laplace", "pathfinder"}, DataTree or Approximation
        A draw of the prior or the mode, for the means; the Gaussian around the mode, that of
        Pathfinder's draws, of a posterior's or of another approximation of the same model, for
        the scales too. An approximation of the same family is taken over as it is.
    seed : int, optional

    Raises
    ------
    UnknownNameError
        If it is another word.
    TypeError
        If it is something else.
    ValueError
        If a prior is improper, no mode is found, or draws are missing; it says which.
    ImportError
        If "pathfinder" lacks pymc-extras, naming the extra.
    """
    model = approx.model
    if isinstance(start, Approximation):
        if _same_family(approx, start):
            for ours, theirs in zip(approx.params, start.params, strict=True):
                ours.set_value(theirs.get_value())
            return
        points = _draws_of(start)
    elif isinstance(start, xr.DataTree):
        points = unconstrained_points(model, _posterior(start))
    elif start == "prior":
        rng = np.random.default_rng(seed)
        _set_means(approx, prior_points(model, 1, rng)[0])
        return
    elif start == "map":
        _set_means(approx, mode_of(model).point)
        return
    elif start == "laplace":
        mode = mode_of(model)
        set_gaussians(approx, mode.point, mode.cov)
        return
    elif start == "pathfinder":
        points = pathfinder_points(model, seed)
    elif isinstance(start, str):
        raise UnknownNameError("start", start, STARTS)
    else:
        raise TypeError(
            f"`start` is values by name of the variables, one of {', '.join(STARTS)}, a DataTree "
            f"or an Approximation, not {start!r}."
        )
    mean = points.mean(axis=0)
    away = points - mean
    cov = away.T @ away / len(points)
    # Few draws, or variables that hardly vary, leave a covariance that cannot be inverted.
    cov[np.diag_indices(len(mean))] += 1e-8 * np.diag(cov) + 1e-12
    set_gaussians(approx, mean, cov)


def mode_of(model: pm.Model, backend: str | None = "auto") -> Mode:
    """Return the mode that is found from the model's initial point.

    Where the log density is not finite there, from the best of some draws of the prior.

    Raises
    ------
    ValueError
        If the climb ends nowhere: the density grows without bound, or is flat.
    """
    density = LogDensity(model, backend)
    if density.random:
        raise ValueError(
            "The mode of a model with minibatches changes with each of them: build the model with "
            "all its data for this, or start elsewhere."
        )
    start = density.start
    if not np.isfinite(density(start[None])[0]).all():
        start = _best_start(model, density)
    mode = find_mode(density, start)
    if mode is None:
        raise ValueError(
            "No proper mode was found from the model's initial point: the density is flat there, "
            'or grows without bound (as hierarchical models can). Use start="prior" or '
            '"pathfinder".'
        )
    return mode


def near_a_mode(model: pm.Model, backend: str | None = "auto") -> np.ndarray | None:
    """Return a point, (d,), high up on the log density.

    None if it is finite nowhere, or another with each minibatch. The climb begins at the best of
    the model's initial point and some draws of the prior.
    """
    density = LogDensity(model, backend)
    if density.random:
        return None
    end = climb(density, _best_start(model, density))
    return None if end is None else end[0]


def _best_start(model: pm.Model, density: LogDensity) -> np.ndarray:
    """Return the initial point or the draw of the prior of the highest finite log density."""
    points = density.start[None]
    # Nothing can be drawn from an improper prior.
    with suppress(ValueError):
        draws = prior_points(model, _PRIOR_DRAWS, np.random.default_rng(0))
        points = np.concatenate([points, draws])
    logp, gradients = density(points)
    finite = np.isfinite(logp) & np.isfinite(gradients).all(axis=1)
    best: np.ndarray = points[np.argmax(np.where(finite, logp, -np.inf))]
    return best


def pathfinder_points(model: pm.Model, seed: int | None, draws: int = 1_000) -> np.ndarray:
    """Return draws of pymc-extras' Pathfinder, (draws, d), on the unconstrained space.

    It climbs on all data: each call of a density on minibatches would see others.

    Raises
    ------
    ImportError
        If pymc-extras is not installed, naming the extra.
    """
    try:
        from pymc_extras import fit_pathfinder
    except ImportError as error:
        raise ImportError(
            "Pathfinder is pymc-extras': pip install 'pymc-vi-ext[extras]'."
        ) from error
    # It has no batched form of operations on named axes.
    batched = not any(map(has_labels, model.basic_RVs))
    tree = fit_pathfinder(
        model=on_all_data(model),
        num_draws=draws,
        random_seed=seed,
        progressbar=False,
        parallel=False,
        vectorize_logp=batched,
        vectorize_postprocessing=batched,
    )
    return unconstrained_points(model, _posterior(tree))


def _posterior(tree: xr.DataTree) -> xr.Dataset:
    if "posterior" not in tree.children:
        raise ValueError("The DataTree has no group `posterior` to start from.")
    return tree["posterior"].to_dataset()


def _same_family(ours: Approximation, theirs: Approximation) -> bool:
    shapes = [[p.get_value(borrow=True).shape for p in a.params] for a in (ours, theirs)]
    kinds = [[type(g) for g in a.groups] for a in (ours, theirs)]
    return shapes[0] == shapes[1] and kinds[0] == kinds[1]


def _draws_of(approx: Approximation, n: int = 4_000) -> np.ndarray:
    from pymc_vi_ext.results import to_datatree

    return unconstrained_points(approx.model, _posterior(to_datatree(approx, n, random_seed=0)))


def _columns(approx: Approximation, group: Group) -> np.ndarray:
    """Return where the variables of `group` are among all free variables' elements."""
    model = approx.model
    point, used, where = model.initial_point(), 0, {}
    for rv in model.free_RVs:
        name = model.rvs_to_values[rv].name
        size = np.size(point[name])
        where[name] = np.arange(used, used + size)
        used += size
    return np.concatenate([where[name] for name in layout(group)])


def set_gaussians(approx: Approximation, mean: np.ndarray, cov: np.ndarray) -> None:
    """Set each group to its part of a Gaussian of all free variables, (d,) and (d, d).

    Raises
    ------
    NotImplementedError
        If a family has no Gaussian.
    """
    for group in approx.groups:
        own = _columns(approx, group)
        family_of(group).set_gaussian(mean[own], cov[np.ix_(own, own)])


def _set_means(approx: Approximation, point: np.ndarray) -> None:
    """Move the approximation so that its means are at `point`."""
    for group in approx.groups:
        family_of(group).place(point[_columns(approx, group)])
