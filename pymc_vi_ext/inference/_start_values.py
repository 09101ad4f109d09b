"""Where a fit starts by name of the variables: names and shapes, checked before they are used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pymc as pm

from pytensor.graph.basic import Variable

from pymc_vi_ext.errors import UnknownNameError


def check_start(start: Any, model: pm.Model) -> None:
    """Raise where `start` names no variable of the model, or gives one another shape.

    What PyMC takes besides arrays (names of strategies, expressions) is PyMC's to judge, and values
    of Deterministics, as :func:`pymc.find_MAP` returns them, are no start of anything.

    Parameters
    ----------
    start : mapping of str to array, optional
        By the variable's name on the model's space, by its value variable's on the unconstrained
        one.
    model : pymc.Model

    Raises
    ------
    UnknownNameError
        A ValueError and a KeyError.
    ValueError
        If a shape is not that of the variable.
    """
    shapes: dict[str, tuple[int | None, ...]] = {}
    for rv in model.free_RVs:
        value = model.rvs_to_values[rv]
        shapes |= {value.name: value.type.shape, rv.name: rv.type.shape}
    for key, given in (start or {}).items():
        name = key.name if isinstance(key, Variable) else key
        if name not in shapes:
            if name in model.named_vars:
                continue
            raise UnknownNameError("variable in `start`", name, _names(model))
        if isinstance(given, str | Variable) or given is None:
            continue
        shape, wanted = np.shape(given), shapes[name]
        if len(shape) != len(wanted) or any(
            n not in (None, m) for n, m in zip(wanted, shape, strict=True)
        ):
            raise ValueError(
                f"`start` gives {name} the shape {shape}, and the model {_shown(wanted)}."
            )


def flat_sigmas(start_sigma: Any, model: pm.Model) -> dict[str, np.ndarray] | None:
    """Return starting standard deviations as PyMC wants them: flat, by name of value variable.

    Parameters
    ----------
    start_sigma : mapping of str to array, optional
        By name of the variables or of their value variables; on the unconstrained space in both
        cases.
    model : pymc.Model

    Raises
    ------
    UnknownNameError
        If there is no such free variable; a ValueError and a KeyError.
    ValueError
        If one has another shape, or is 0 or not finite.
    """
    if start_sigma is None:
        return None
    values: dict[str, Variable] = {}
    for rv in model.free_RVs:
        values |= dict.fromkeys((rv.name, model.rvs_to_values[rv].name), model.rvs_to_values[rv])
    point = model.initial_point() if set(start_sigma) & set(values) else {}
    flat = {}
    for name, given in start_sigma.items():
        if name not in values:
            raise UnknownNameError("variable in `start_sigma`", name, _names(model))
        value = values[name].name
        sigma, shape = np.asarray(given, dtype=float), np.shape(point[value])
        try:
            sigma = np.broadcast_to(sigma, shape)
        except ValueError:
            raise ValueError(
                f"`start_sigma` gives {name} the shape {sigma.shape}, and on the unconstrained "
                f"space it has {shape}."
            ) from None
        if not np.all(np.isfinite(sigma) & (sigma != 0)):
            raise ValueError(
                f"`start_sigma` holds standard deviations, and that of {name} is {given!r}."
            )
        flat[value] = sigma.ravel()
    return flat


def _names(model: pm.Model) -> Iterable[str]:
    return [rv.name for rv in model.free_RVs]


def _shown(shape: tuple[int | None, ...]) -> str:
    """Write a shape, with * for lengths that are not known."""
    return str(tuple("*" if n is None else n for n in shape)).replace("'", "")
