"""What a fit returns: the report, and draws as a DataTree."""

from __future__ import annotations

import dataclasses
import enum

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np
import pymc as pm
import pytensor.tensor as pt

from pymc.variational.opvi import Approximation
from pytensor.compile.mode import get_mode
from xarray import DataTree

from pymc_vi_ext import __version__
from pymc_vi_ext.engine.labels import plain
from pymc_vi_ext.engine.python_mode import PYTHON_MODE
from pymc_vi_ext.engine.vectorize import has_scan, vectorized_approximation
from pymc_vi_ext.minibatches import has_minibatches, on_all_data, size_of_data
from pymc_vi_ext.python_only import building, python_only
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

Sampler = Callable[[int], list[np.ndarray]]


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
        Whether to add the pointwise log likelihood (for LOO).

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
    with building():
        return _datatree(approx, draws, random_seed, log_likelihood)


def _datatree(
    approx: Approximation, draws: int, random_seed: int | None, log_likelihood: bool
) -> DataTree:
    model = approx.model
    # Compiled once for each approximation, which keeps it.
    if "datatree_sampler" not in vars(approx):
        approx.datatree_sampler = _sampler(approx)
    names, sampler, rngs, numbers = approx.datatree_sampler
    reseed_rngs(rngs, random_seed)
    observed = find_observations(model)
    largest = max([numbers, *(np.size(values) for values in observed.values())])
    batch = max(1, min(draws, _NUMBERS_PER_BATCH // largest))
    sizes = [batch] * (draws // batch) + [draws % batch] * (draws % batch > 0)
    batches = [sampler(size) for size in sizes]
    values = {
        name: np.concatenate(parts)[None]
        for name, parts in zip(names, zip(*batches, strict=True), strict=True)
    }
    statistics = {name: values.pop(name) for name in ("lp", "log_q") if name in values}
    posterior = {name.removeprefix("posterior/"): v for name, v in values.items()}
    coords, dims = coords_and_dims_for_inferencedata(model)
    for name, drawn in posterior.items():
        lengths = [len(coords[dim]) if dim in coords else None for dim in dims.get(name, ())]
        if any(n not in (None, m) for n, m in zip(lengths, drawn.shape[2:], strict=False)):
            # A Deterministic of another shape than its labels say, as some of Bambi's are.
            del dims[name]
    groups = {
        "posterior": posterior,
        "sample_stats": statistics,
        "observed_data": observed,
        "constant_data": find_constants(model),
    }
    tree: DataTree = az.from_dict(
        {name: group for name, group in groups.items() if group}, coords=coords, dims=dims
    )
    for name in ("posterior", "sample_stats"):
        tree[name].attrs |= {
            "inference_library": "pymc_vi_ext",
            "inference_library_version": __version__,
        }
    if log_likelihood:
        pm.compute_log_likelihood(tree, model=model, progressbar=False)
    return tree


def _sampler(approx: Approximation) -> tuple[list[str], Sampler, list[Any], int]:
    """Compile ``draws -> values`` of all that a DataTree holds of one draw.

    Returns names of the values, the function, its generators, and how many numbers a draw takes.
    """
    model = approx.model
    # One minibatch for all draws would be an error that they share, and that none shows.
    whole = on_all_data(model) if has_minibatches(model) else None
    view = vectorized_approximation(approx, whole)
    variables = [*model.free_RVs, *model.deterministics]
    outputs = [plain(v) for v in model.replace_rvs_by_values(variables)]
    names = [*(f"posterior/{v.name}" for v in variables), "lp"]
    logp = (model if whole is None else whole).logp()
    nodes = view.symbolic_sample_over_posterior([*outputs, logp])
    if approx.has_logq:
        names.append("log_q")
        nodes.append(view.symbolic_logq)
    draws = pt.iscalar("draws")
    nodes = view.set_size_and_deterministic(nodes, draws, 0)
    if has_scan(nodes):
        # Draw by draw, and step by step inside: worth a compiler.
        mode = get_mode("NUMBA").excluding(SLICES_OF_ONE)
        function = pm.pytensorf.compile([draws], nodes, mode=mode)
    else:
        # Vectorised over draws, NumPy is quick enough; compiling would cost more than it saves.
        with python_only():
            function = pm.pytensorf.compile([draws], nodes, mode=PYTHON_MODE)
    numbers = max(approx.ddim, 0 if whole is None else size_of_data(model))
    return names, function, find_rng_nodes(nodes), numbers
