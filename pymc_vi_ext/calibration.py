"""Simulation-based calibration: are the posteriors of a method right, over data of the model?"""

from __future__ import annotations

import json
import warnings

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import xarray as xr

from arviz_base import from_dict
from pymc.model import modelcontext
from pymc.model.fgraph import clone_model
from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.approximations.parameters import flat_parameters, set_parameters
from pymc_vi_ext.draws import draw, labels_of
from pymc_vi_ext.engine.labels import labelled_as
from pymc_vi_ext.engine.python_mode import PYTHON_MODE
from pymc_vi_ext.errors import FitWarning, UnknownNameError
from pymc_vi_ext.fitting import fit
from pymc_vi_ext.inference import METHODS
from pymc_vi_ext.minibatches import has_minibatches
from pymc_vi_ext.options import whole_number
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.results import StopReason
from pymc_vi_ext.upstream import find_observations


def check_calibration(
    method: str = "advi",
    model: pm.Model | None = None,
    simulations: int = 200,
    draws: int = 99,
    random_seed: int | None = None,
    inf_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> xr.DataTree:
    r"""Hold a method against data drawn from the model, whose parameters are known.

    Parameters and data are drawn from the prior, and the method is fitted to each of these sets of
    data. Over all of them the truth is equally likely at each rank among draws of the posterior: a
    method whose posteriors are too narrow leaves it at the ends too often, one whose posteriors are
    too wide too rarely. The steps of a method are compiled once for all sets of data.

    Parameters
    ----------
    method : str
        Name, as of :func:`pymc_vi_ext.fit`; not ``"auto"``.
    model : pymc.Model, optional
        By default the one on the context. Its observed values say of which shape data are.
    simulations : int
        Sets of data.
    draws : int
        Draws of each fit. They are independent, so that none have to be left out.
    random_seed : int, optional
    inf_kwargs : mapping, optional
        For the constructor of the method.
    **options
        Of :func:`pymc_vi_ext.fit`.

    Returns
    -------
    DataTree
        ``prior_sbc``: fractional rank of the truth, (chain, draw, \*dims), where ``draw`` goes over
        the simulations, for free variables and Deterministics: between 0 and 1, at random within a
        rank, so that it is uniform where posteriors are right; ``arviz_plots.plot_ecdf_pit`` shows
        it. ``p_value``: of a test of that (``arviz_stats``, ``pot_c``), for each element of each
        variable (\*dims). Attributes: ``method``, ``draws``, ``seed`` (-1 if none was given),
        and ``stop_reasons``, why how many of the fits ended, as JSON.

        After Ctrl-C it is that of the simulations so far.

    Raises
    ------
    ValueError
        If a number is out of range, for ``"auto"``, or if the model observes nothing, observes
        minibatches, or has a Potential, which nothing can be drawn from.
    UnknownNameError
        A ValueError, if there is no such method.

    References
    ----------
    Talts, S., Betancourt, M., Simpson, D., Vehtari, A. and Gelman, A. (2018). Validating Bayesian
    inference algorithms with simulation-based calibration. https://arxiv.org/abs/1804.06788

    Yao, Y., Vehtari, A., Simpson, D. and Gelman, A. (2018). Yes, but did it work?: Evaluating
    variational inference. https://arxiv.org/abs/1802.02538

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 0.0, 1.0)
    ...     pm.Normal("y", mu, 1.0, observed=[0.7, 1.5, 1.0])
    ...     tree = vix.check_calibration("bam", simulations=50, random_seed=1)
    y
    >>> dict(tree["prior_sbc/mu"].sizes)
    {'chain': 1, 'draw': 50}
    >>> bool(tree["p_value/mu"] > 0.05)
    True
    """
    simulations = whole_number("simulations", simulations, least=2)
    draws = whole_number("draws", draws)
    model = modelcontext(model)
    _refuse_unusable(method, model)
    rng = np.random.default_rng(random_seed)
    model, data = _with_data_to_set(model)
    drawn = _from_prior(model, simulations, int(rng.integers(2**31)))
    seeds = rng.integers(2**31, size=(simulations, 2))
    # Each has a constructor of its own; all take these.
    kind: Any = METHODS[method.lower()]
    inference = kind(model=model, random_seed=int(rng.integers(2**31)), **(inf_kwargs or {}))
    start = flat_parameters(inference.approx)
    ranks: dict[str, list[np.ndarray]] = {}
    reasons: Counter[str] = Counter()
    for number, (of_fit, of_draws) in enumerate(seeds.tolist()):
        for name, values in data.items():
            values.set_value(drawn[name][number].astype(values.dtype))
        set_parameters(inference.approx, start)
        approx = _fitted(inference, random_seed=of_fit, **options)
        if approx.report.stop_reason is StopReason.INTERRUPTED:
            break
        reasons[approx.report.stop_reason.value] += 1
        for name, posterior in draw(approx, draws, of_draws).values.items():
            ranks.setdefault(name, []).append(_rank(drawn[name][number], posterior, rng))
    if not ranks:
        raise KeyboardInterrupt
    tree = _laid_out(model, {name: np.stack(found) for name, found in ranks.items()})
    tree.attrs |= {
        "method": method.lower(),
        "draws": draws,
        "seed": -1 if random_seed is None else int(random_seed),
        "stop_reasons": json.dumps(reasons),
    }
    return tree


def _refuse_unusable(method: Any, model: pm.Model) -> None:
    """Raise where a method or a model cannot be calibrated."""
    if not isinstance(method, str):
        raise TypeError(
            f"`method` is the name of a method, {', '.join(METHODS)}, not {method!r}: it is built "
            "for a model whose data change."
        )
    if method.lower() == "auto":
        raise ValueError(
            'method="auto" compiles its chains anew for each set of data: name another method.'
        )
    if method.lower() not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    if not model.observed_RVs:
        raise ValueError("The model has no observed variables: there are no data to draw.")
    if has_minibatches(model):
        raise ValueError("The model observes minibatches: write it on all of its data.")
    if model.potentials:
        names = ", ".join(potential.name for potential in model.potentials)
        raise ValueError(
            f"The Potential {names} has a part in the posterior, and nothing can be drawn from it: "
            "write it as a distribution."
        )


def _with_data_to_set(model: pm.Model) -> tuple[pm.Model, dict[str, SharedVariable]]:
    """Return a copy of a model, and its observed values as what can be set, by variable."""
    observed = find_observations(model)
    model = clone_model(model)
    data = {}
    for variable in model.observed_RVs:
        old = model.rvs_to_values.pop(variable)
        del model.values_to_rvs[old]
        # Of known shape: steps are compiled for one.
        array = np.asarray(observed[variable.name], dtype=old.type.dtype)
        data[variable.name] = pytensor.shared(array, name=variable.name, shape=array.shape)
        new = labelled_as(old, data[variable.name])
        model.rvs_to_values[variable], model.values_to_rvs[new] = new, variable
    return model, data


def _from_prior(model: pm.Model, simulations: int, random_seed: int) -> dict[str, np.ndarray]:
    r"""Return parameters and data that belong together, (simulations, \*dims), by name."""
    variables = [*model.free_RVs, *model.deterministics, *model.observed_RVs]
    with python_only():
        drawn: dict[str, np.ndarray] = pm.sample_prior_predictive(
            simulations,
            model=model,
            var_names=[variable.name for variable in variables],
            random_seed=random_seed,
            return_inferencedata=False,
            compile_kwargs={"mode": PYTHON_MODE},
        )
    return drawn


def _fitted(inference: Any, **options: Any) -> Any:
    """Fit without a word of a fit that went wrong: how it ended is counted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return fit(method=inference, progressbar=False, **options)


def _rank(truth: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the fractional rank of `truth` among draws, at random within its rank and ties."""
    below, equal = (draws < truth).sum(axis=0), (draws == truth).sum(axis=0)
    return np.asarray((below + rng.random(truth.shape) * (equal + 1)) / (len(draws) + 1))


def _laid_out(model: pm.Model, ranks: Mapping[str, np.ndarray]) -> xr.DataTree:
    """Return the ranks as ArviZ has those of prior simulations, and tests of them."""
    ranks = {name: found[None] for name, found in ranks.items()}
    coords, dims = labels_of(model, ranks)
    tree: xr.DataTree = from_dict({"prior_sbc": ranks}, coords=coords, dims=dims)
    sbc = tree["prior_sbc"].to_dataset()
    p_values, *_ = sbc.azstats.uniformity_test(dim=["chain", "draw"])
    tree["p_value"] = xr.DataTree(p_values)
    return tree
