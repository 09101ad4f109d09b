"""Named example models: a table of factories, each ``(**parameters) -> pm.Model``."""

from __future__ import annotations

import inspect

from collections.abc import Callable
from typing import Any

import pymc as pm

from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.zoo import posteriordb
from pymc_vi_ext.zoo.exact import EXACT, exact
from pymc_vi_ext.zoo.gamma import gamma
from pymc_vi_ext.zoo.hierarchical import hierarchical
from pymc_vi_ext.zoo.iris import iris
from pymc_vi_ext.zoo.logistic import logistic
from pymc_vi_ext.zoo.minibatch import minibatch
from pymc_vi_ext.zoo.mixture import mixture

__all__ = ["EXACT", "MODELS", "build", "check_parameters", "exact", "posteriordb"]

MODELS: dict[str, Callable[..., pm.Model]] = {
    "gamma": gamma,
    "hierarchical": hierarchical,
    "iris": iris,
    "logistic": logistic,
    "minibatch": minibatch,
    "mixture": mixture,
}


def check_parameters(name: str, parameters: Any) -> None:
    """Raise ValueError if `name` is no model of the zoo or does not take `parameters`.

    Parameters
    ----------
    name : str
        Name in :data:`MODELS`.
    parameters : iterable of str
        Names of the parameters meant for its factory.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    known = inspect.signature(MODELS[name]).parameters
    for parameter in parameters:
        if parameter not in known:
            takes = ", ".join(known) or "none"
            raise ValueError(
                f"model {name!r} has no parameter {parameter!r}; its parameters: {takes}"
            )


def build(name: str, **parameters: Any) -> pm.Model:
    """Build a model of the zoo by name.

    Parameters
    ----------
    name : str
        Name in :data:`MODELS`.
    **parameters
        Passed to its factory.

    Returns
    -------
    pymc.Model

    Raises
    ------
    ValueError
        If the name or a parameter is unknown; the message lists the known ones.

    Examples
    --------
    >>> from pymc_vi_ext import zoo
    >>> [rv.name for rv in zoo.build("gamma", n=50).free_RVs]
    ['alpha', 'beta']
    """
    check_parameters(name, parameters)
    return MODELS[name](**parameters)
