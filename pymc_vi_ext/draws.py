"""Draws of an approximation, and points, as values of a model's variables."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pymc.variational.opvi import Approximation
from pytensor.compile.mode import Mode, get_mode
from pytensor.graph.basic import Variable
from pytensor.graph.replace import clone_replace
from xarray import DataTree

from pymc_vi_ext import __version__
from pymc_vi_ext.engine.density import in_one_vector
from pymc_vi_ext.engine.labels import in_plain_operations, plain
from pymc_vi_ext.engine.python_mode import PYTHON_MODE
from pymc_vi_ext.engine.vectorize import has_scan, over_rows, vectorized_approximation
from pymc_vi_ext.minibatches import (
    has_minibatches,
    is_streamed,
    on_all_data,
    size_of_data,
)
from pymc_vi_ext.python_only import building, python_only
from pymc_vi_ext.streams import streams_in
from pymc_vi_ext.upstream import (
    SLICES_OF_ONE,
    coords_and_dims_for_inferencedata,
    find_constants,
    find_observations,
    find_rng_nodes,
    reseed_rngs,
)

# Draws are computed in batches that keep an intermediate array of the model near this size.
_NUMBERS_PER_BATCH = 4_000_000
# Numbers that all draws which are looked at may read, and draws of which fewer say nothing.
_AFFORDABLE, FEWEST_DRAWS = 1_000_000_000, 200

Sampler = Callable[..., list[np.ndarray]]
_STATISTICS: Sequence[str] = ("lp", "log_q")


@dataclass(frozen=True)
class Drawn:
    r"""Draws of an approximation.

    Attributes
    ----------
    points : array of shape (draws, d)
        On the unconstrained space, in the order of :class:`~pymc_vi_ext.engine.density.LogDensity`.
    values : dict of str to array of shape (draws, \*dims)
        Free variables and Deterministics, by name.
    statistics : dict of str to array of shape (draws,)
        ``lp``, the joint log density of all data in nats, and ``log_q``, where there is one. No
        ``lp`` of data that are read from disk.
    """

    points: np.ndarray
    values: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]

    @property
    def log_weights(self) -> np.ndarray | None:
        """``lp - log_q`` of each draw, in nats; None where one of them is not known."""
        if not {"lp", "log_q"} <= self.statistics.keys():
            return None
        weights: np.ndarray = self.statistics["lp"] - self.statistics["log_q"]
        return weights.astype(float)


def draw(
    approx: Approximation,
    draws: int,
    random_seed: int | None = None,
    log_density: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Drawn:
    """Draw from an approximation; the same seed gives the same draws, in whatever thread.

    Parameters
    ----------
    approx : Approximation
    draws : int
    random_seed : int or None
    log_density : callable, optional
        Gives the log density of all data at points (n, d), where something has been compiled that
        does; to compile it here as well may take longer than all else, of recurrences above all.
    """
    blocks = list(draws_in_blocks(approx, draws, random_seed, with_density=log_density is None))
    points = np.concatenate([block.points for block in blocks])
    values, statistics = (
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in ([b.values for b in blocks], [b.statistics for b in blocks])
    )
    if log_density is not None:
        statistics["lp"] = log_density(points)
    return Drawn(points, values, statistics)


def draws_in_blocks(
    approx: Approximation,
    draws: int,
    random_seed: int | None = None,
    *,
    with_density: bool = True,
) -> Generator[Drawn, None, None]:
    """Yield the draws of :func:`draw` in blocks of some million numbers, one after the other.

    Parameters
    ----------
    approx : Approximation
    draws : int
        Of all blocks.
    random_seed : int or None
    with_density : bool
        Whether their statistics have ``lp``.
    """
    with building():
        names, sampler, rngs = _sampler_of(approx, with_density)
        reseed_rngs(rngs, random_seed)
        batch = _rows_per_batch(approx.model, approx.ddim, draws)
        for done in range(0, draws, batch):
            found = dict(zip(names, sampler(min(batch, draws - done)), strict=True))
            points = found.pop("points")
            statistics = {name: found.pop(name) for name in _STATISTICS if name in found}
            yield Drawn(points, _without_prefix(found), statistics)


def prepare_draws(approx: Approximation) -> None:
    """Have ready what draws of an approximation take, where a second is enough for that.

    Parameters
    ----------
    approx : Approximation
    """
    model = approx.model
    drawn = [*model.basic_RVs, *model.potentials, *model.deterministics]
    if not (has_minibatches(model) or has_scan(drawn)):
        _sampler_of(approx, with_density=True)


def affordable_draws(approx: Approximation, most: int) -> int:
    """Return how many draws, of `most`, can be looked at in seconds: each reads all data."""
    if is_streamed(approx.model):
        return 0
    return min(most, _AFFORDABLE // _numbers_of_a_draw(approx.model, approx.ddim))


def values_of(model: pm.Model) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    r"""Return what gives the free variables and Deterministics of a model at points of its space.

    Parameters
    ----------
    model : pymc.Model

    Returns
    -------
    callable
        Of points, (n, d), on the unconstrained space, in the order of
        :class:`~pymc_vi_ext.engine.density.LogDensity`: arrays (n, \*dims) by name.
    """
    with building():
        names, outputs = _posterior(model)
    function = at_points(model, outputs)
    return lambda points: _without_prefix(dict(zip(names, function(points), strict=True)))


def at_points(model: pm.Model, outputs: list[Variable]) -> Callable[[np.ndarray], list[np.ndarray]]:
    r"""Return what gives graphs over a model's value variables at points of its space.

    Parameters
    ----------
    model : pymc.Model
    outputs : list of Variable

    Returns
    -------
    callable
        Of points, (n, d), as :func:`values_of`: an array (n, \*shape) for each output.
    """
    with building():
        _, _, flat, parts = in_one_vector(model)
        rows = pt.matrix("points", dtype=flat.type.dtype)
        with python_only():
            single = in_plain_operations(clone_replace(outputs, parts, rebuild_strict=False))
            nodes = [
                # What depends on no variable is the same at every point.
                pt.broadcast_to(new, (rows.shape[0], *new.shape)) if new.ndim == old.ndim else new
                for new, old in zip(over_rows(single, {flat: rows}), single, strict=True)
            ]
        function = _compiled([rows], nodes)

    def values(points: np.ndarray) -> list[np.ndarray]:
        batch = _rows_per_batch(model, points.shape[1], len(points))
        parts_of = [points[first : first + batch] for first in range(0, len(points), batch)]
        with building():
            reseed_rngs(find_rng_nodes(nodes), 0)
            batches = [function(floatX(part)) for part in parts_of]
        return [np.concatenate(parts) for parts in zip(*batches, strict=True)]

    return values


def as_datatree(
    model: pm.Model, posterior: Mapping[str, np.ndarray], statistics: Mapping[str, np.ndarray]
) -> DataTree:
    r"""Lay draws out as ArviZ has it, with the dims, coords and data of their model.

    Parameters
    ----------
    model : pymc.Model
    posterior : mapping of str to array of shape (chains, draws, \*dims)
    statistics : mapping of str to array of shape (chains, draws)
        The group ``sample_stats``; none where it is empty.
    """
    # Imported on use: ArviZ gets lazy modules ready for all libraries that it knows.
    from arviz_base import from_dict

    with building():
        observed, constant = find_observations(model), find_constants(model)
        for rv in model.observed_RVs:
            if streams_in([model.rvs_to_values[rv]]):
                # One batch is not what the model has observed.
                del observed[rv.name]
        coords, dims = labels_of(model, posterior)
    groups = {
        "posterior": posterior,
        "sample_stats": statistics,
        "observed_data": observed,
        "constant_data": constant,
    }
    tree: DataTree = from_dict(
        {name: group for name, group in groups.items() if group},
        coords=coords,
        dims=dims,
        # More chains than draws are no mistake here.
        check_conventions=False,
    )
    for group in filter(tree.children.get, ("posterior", "sample_stats")):
        tree[group].attrs |= {
            "inference_library": "pymc_vi_ext",
            "inference_library_version": __version__,
        }
    return tree


def labels_of(
    model: pm.Model, values: Mapping[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, Any]]:
    r"""Return the coords of a model, and the dims of its variables that fit to their values.

    Parameters
    ----------
    model : pymc.Model
    values : mapping of str to array of shape (chains, draws, \*dims)
    """
    coords, dims = coords_and_dims_for_inferencedata(model)
    for name, drawn in values.items():
        lengths = [len(coords[dim]) if dim in coords else None for dim in dims.get(name, ())]
        if any(n not in (None, m) for n, m in zip(lengths, drawn.shape[2:], strict=False)):
            # A Deterministic of another shape than its labels say, as some of Bambi's are.
            del dims[name]
    return coords, dims


def add_log_likelihood(tree: DataTree, model: pm.Model) -> None:
    """Add the log likelihood of each observation at each draw, in nats, to a tree.

    Parameters
    ----------
    tree : DataTree
        As :func:`as_datatree` lays it out.
    model : pymc.Model
        On all data: of minibatches the terms are scaled, and those of other rows at each draw.
    """
    with python_only():
        compile_kwargs = {"mode": _mode(model.basic_RVs)}
        pm.compute_log_likelihood(
            tree, model=model, progressbar=False, compile_kwargs=compile_kwargs
        )


def add_posterior_predictive(tree: DataTree, model: pm.Model, random_seed: int | None) -> None:
    """Add data drawn from the model at each draw, one set each, to a tree.

    Parameters
    ----------
    tree : DataTree
        As :func:`as_datatree` lays it out.
    model : pymc.Model
        On all data.
    random_seed : int or None
        Of the draws in the tree; that of the data follows from it.
    """
    # The same seed would give the data the very noise that the draws are made of.
    another = int(np.random.default_rng(random_seed).integers(2**31))
    with python_only():
        found = pm.sample_posterior_predictive(
            tree,
            model=model,
            random_seed=another,
            progressbar=False,
            compile_kwargs={"mode": _mode(model.basic_RVs)},
        )
    tree["posterior_predictive"] = found["posterior_predictive"]


def _posterior(model: pm.Model) -> tuple[list[str], list[Variable]]:
    """Return what a DataTree has of one draw, as graphs over the value variables, by name."""
    variables = [*model.free_RVs, *(v for v in model.deterministics if not streams_in([v]))]
    outputs = [plain(v) for v in model.replace_rvs_by_values(variables)]
    return [f"posterior/{v.name}" for v in variables], outputs


def _sampler_of(approx: Approximation, with_density: bool) -> tuple[list[str], Sampler, list[Any]]:
    """Return what :func:`_sampler` compiles, once for each approximation, which keeps it."""
    kept = "datatree_sampler" if with_density else "point_sampler"
    with building():
        if kept not in vars(approx):
            setattr(approx, kept, _sampler(approx, with_density))
    found: tuple[list[str], Sampler, list[Any]] = vars(approx)[kept]
    return found


def _sampler(approx: Approximation, with_density: bool) -> tuple[list[str], Sampler, list[Any]]:
    """Compile ``draws -> values`` of all that is known of one draw.

    Returns names of the values, the function and its generators.
    """
    # One minibatch for all draws would be an error that they share, and that none shows.
    streamed = is_streamed(approx.model)
    drawn = has_minibatches(approx.model) and not streamed
    whole = on_all_data(approx.model) if drawn else None
    model = approx.model if whole is None else whole
    view = vectorized_approximation(approx, whole)
    names, outputs = _posterior(model)
    values = [plain(model.rvs_to_values[rv]) for rv in model.free_RVs]
    points = pt.concatenate([v.ravel().astype(view.symbolic_randoms[0].dtype) for v in values])
    with_density = with_density and not streamed
    names += ["points", "lp"] if with_density else ["points"]
    densities = [model.logp()] if with_density else []
    nodes = view.symbolic_sample_over_posterior([*outputs, points, *densities])
    if approx.has_logq:
        names.append("log_q")
        nodes.append(view.symbolic_logq)
    draws = pt.iscalar("draws")
    nodes = view.set_size_and_deterministic(nodes, draws, 0)
    return names, _compiled([draws], nodes), find_rng_nodes(nodes)


def _compiled(inputs: list[Variable], nodes: list[Variable]) -> Sampler:
    with python_only():
        compiled: Sampler = pm.pytensorf.compile(inputs, nodes, mode=_mode(nodes))
    return compiled


def _mode(nodes: Sequence[Variable]) -> Mode:
    """Return how functions of draws are run."""
    if has_scan(nodes):
        # Draw by draw, and step by step inside: worth a compiler.
        return get_mode("NUMBA").excluding(SLICES_OF_ONE)
    # NumPy is quick enough; compiling would cost more than it saves.
    return PYTHON_MODE


def _numbers_of_a_draw(model: pm.Model, d: int) -> int:
    """Return how many numbers a draw in `d` dimensions reads: its own, and all data."""
    behind = size_of_data(model) if has_minibatches(model) and not is_streamed(model) else 0
    return max([d, behind, *(np.size(values) for values in find_observations(model).values())])


def _rows_per_batch(model: pm.Model, d: int, rows: int) -> int:
    """Return how many draws are evaluated at once."""
    return max(1, min(rows, _NUMBERS_PER_BATCH // _numbers_of_a_draw(model, d)))


def _without_prefix(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix("posterior/"): value for name, value in values.items()}
