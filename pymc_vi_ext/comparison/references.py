"""What distances are measured to: draws or moments, and whether they may be called a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from pymc_vi_ext.comparison.types import MethodResult, Status
from pymc_vi_ext.diagnostics import rhat_max
from pymc_vi_ext.diagnostics.distances import two_draws

RHAT_LIMIT = 1.01
Posterior = xr.DataTree | xr.Dataset
"""Draws, or moments with a dim ``moment``."""
Given = str | Posterior | Mapping[str, Mapping[str, Any]]
"""What a user may write for a reference."""


class ReferenceWarning(UserWarning):
    """What was to be the reference is missing or has not converged: nothing is measured to it.

    Examples
    --------
    >>> import warnings
    >>> from pymc_vi_ext.comparison import ReferenceWarning, make_spec, not_run, summarise
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     comparison = summarise([not_run(make_spec("nuts"), 1)], "nuts")
    >>> [warning.category is ReferenceWarning for warning in caught]
    [True]
    """


@dataclass(frozen=True)
class Reference:
    """What distances are measured to.

    Attributes
    ----------
    label : str
        What figures call it.
    posterior : xarray.DataTree, xarray.Dataset or None
        Its draws or moments; None if it is missing.
    problem : str
        Why nothing can be measured to it; empty if it is sound.
    source : MethodResult or None
        The run that it is, where it is one.
    """

    label: str = ""
    posterior: Posterior | None = None
    problem: str = ""
    source: MethodResult | None = None


def given_posterior(reference: Posterior | Mapping[str, Any]) -> Posterior:
    """Return draws as a DataTree, and moments as a Dataset, in whatever form they come.

    Parameters
    ----------
    reference : xarray.DataTree, xarray.Dataset or mapping
        Draws with a ``/posterior``; a Dataset of draws (chain, draw, ...) or of moments; or, by
        variable, a mapping with ``mean`` and ``sd``, each of the variable's shape.

    Raises
    ------
    ValueError
        If it is none of these, or a mean or standard deviation is missing or cannot be one.
    """
    if isinstance(reference, xr.DataTree):
        if "posterior" not in reference.children:
            groups = ", ".join(f"/{name}" for name in reference.children) or "none"
            raise ValueError(f"The reference has no group /posterior; its groups: {groups}.")
        return reference
    if isinstance(reference, xr.Dataset):
        if {"chain", "draw"} <= set(reference.dims):
            return xr.DataTree.from_dict({"posterior": reference})
        two_draws(reference)
        return reference
    if not isinstance(reference, Mapping):
        raise ValueError(
            "A reference is a label, a DataTree, a Dataset, or a mapping of variables to their "
            f"mean and sd, not {type(reference).__name__}."
        )
    moments = _moments(reference)
    two_draws(moments)
    return moments


def _moments(reference: Any) -> xr.Dataset:
    from arviz_base import dict_to_dataset

    values = {}
    for name, both in reference.items():
        if not isinstance(both, Mapping) or not {"mean", "sd"} <= set(both):
            raise ValueError(f"The reference gives no `mean` and `sd` of {name!r}.")
        mean, sd = np.asarray(both["mean"], float), np.asarray(both["sd"], float)
        if mean.shape != sd.shape:
            raise ValueError(
                f"The reference has a mean of shape {mean.shape} of {name!r}, and an sd of shape "
                f"{sd.shape}."
            )
        values[name] = np.stack([mean, sd])
    dataset: xr.Dataset = dict_to_dataset(values, sample_dims=["moment"])
    return dataset.assign_coords(moment=["mean", "sd"])


def check_given(model: pm.Model, reference: Posterior) -> None:
    """Raise ValueError before anything runs, rather than when the results are scored."""
    sample: tuple[str, ...]
    if isinstance(reference, xr.Dataset):
        dataset, sample, what = reference, ("moment",), "moments"
    else:
        dataset, sample, what = reference["posterior"].to_dataset(), ("chain", "draw"), "draws"
    names = [rv.name for rv in model.unobserved_RVs]
    shared = [name for name in dataset.data_vars if name in names]
    if not shared:
        raise ValueError(
            f"The reference has no variable of the model: it has "
            f"{', '.join(map(str, dataset.data_vars)) or 'none'}, the model {', '.join(names)}."
        )
    shapes = model.eval_rv_shapes()
    for name in shared:
        array = dataset[name]
        if missing := [dim for dim in sample if dim not in array.dims]:
            raise ValueError(f"Variable {name!r} has no dim {missing[0]!r} in the reference.")
        shape = tuple(n for dim, n in array.sizes.items() if dim not in sample)
        if name in shapes and shape != tuple(shapes[name]):
            raise ValueError(
                f"Variable {name!r} has shape {shape} in the reference, but "
                f"{tuple(map(int, shapes[name]))} in the model."
            )
        if np.prod([array.sizes[dim] for dim in sample]) == 0:
            raise ValueError(f"The reference has no draws of {name!r}: its /posterior is empty.")
        if not xr.apply_ufunc(np.isfinite, array).all(sample).any():
            raise ValueError(f"No element of {name!r} has finite {what} in the reference.")
    if what == "draws" and np.prod([dataset.sizes[dim] for dim in sample]) < 2:
        raise ValueError("The /posterior of the reference has a single draw, which gives no scale.")


def find_reference(reference: Given | None, results: Sequence[MethodResult]) -> Reference:
    """Return what distances of `results` are measured to, or why they are not.

    Parameters
    ----------
    reference : str, xarray.DataTree, xarray.Dataset or mapping, optional
        A label, the first of whose results with draws is meant, or what
        :func:`given_posterior` takes.
    results : sequence of MethodResult
    """
    if reference is None:
        return Reference()
    if not isinstance(reference, str):
        posterior = given_posterior(reference)
        label = (posterior.name if isinstance(posterior, xr.DataTree) else None) or "reference"
        if label in {result.label for result in results}:
            label += " (given)"
        return Reference(label, posterior, unsound(posterior))
    of_label = [result for result in results if result.label == reference]
    source = next((result for result in of_label if result.datatree is not None), None)
    if source is None:
        failed = all(result.status is Status.FAILED for result in of_label)
        problem = "it failed" if failed else "it was interrupted before it had draws"
        return Reference(reference, None, problem)
    assert source.datatree is not None
    if source.status is Status.INTERRUPTED:
        problem = "it was interrupted"
    else:
        problem = convergence_problem(source)
    return Reference(reference, source.datatree, problem, source)


def convergence_problem(result: MethodResult) -> str:
    """Say why a result does not count as converged, as for a reference; empty if it does.

    Parameters
    ----------
    result : MethodResult
    """
    if result.datatree is None or result.status is not Status.FINISHED:
        return result.reason or result.status.value
    return unsound(result.datatree, result.warnings)


def unsound(posterior: Posterior, warnings: Sequence[str] = ()) -> str:
    """Say why draws are not those of the posterior, as far as they or their fit tell."""
    if isinstance(posterior, xr.Dataset):
        return ""
    # A verdict is on all transitions, of which the draws are few: nested R-hat of these has noise.
    if verdict := posterior.attrs.get("verdict"):
        return "" if verdict == "PASS" else f"its verdict is {verdict}"
    # Particles and draws of an approximation come as one chain, which has no R-hat.
    if (rhat := rhat_max(posterior)) > RHAT_LIMIT:
        return f"R-hat {rhat:.4g} > {RHAT_LIMIT}, its chains disagree"
    return first_sentence(warnings[0]) if warnings else ""


def first_sentence(warning: str) -> str:
    """Return what a warning says; what follows is advice."""
    return warning.partition(". ")[0].removesuffix(".")
