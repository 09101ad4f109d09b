"""Named example models: a table of factories, each ``(**parameters) -> pm.Model``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pymc as pm

from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.zoo import _parameters, posteriordb
from pymc_vi_ext.zoo.densities import DENSITIES, Density
from pymc_vi_ext.zoo.exact import EXACT, exact
from pymc_vi_ext.zoo.gamma import gamma
from pymc_vi_ext.zoo.hierarchical import hierarchical
from pymc_vi_ext.zoo.iris import iris
from pymc_vi_ext.zoo.logistic import logistic
from pymc_vi_ext.zoo.minibatch import minibatch
from pymc_vi_ext.zoo.mixture import mixture

__all__ = [
    "DENSITIES",
    "EXACT",
    "MODELS",
    "Density",
    "build",
    "check_parameters",
    "exact",
    "posteriordb",
]

MODELS: dict[str, Callable[..., pm.Model]] = {
    "gamma": gamma,
    "hierarchical": hierarchical,
    "iris": iris,
    "logistic": logistic,
    "minibatch": minibatch,
    "mixture": mixture,
}


def check_parameters(name: str, parameters: Mapping[str, Any]) -> None:
    """Raise ValueError if `name` is no model of the zoo or does not take `parameters`.

    Parameters
    ----------
    name : str
        Name in :data:`MODELS`.
    parameters : mapping of str
        What is meant for its factory.

    Raises
    ------
    UnknownNameError
        A ValueError: if there is no such model.
    ValueError
        If its factory does not take a parameter, or not this value.

    Examples
    --------
    >>> from pymc_vi_ext import zoo
    >>> zoo.check_parameters("gamma", {"n": 50})
    >>> zoo.check_parameters("gamma", {"rows": 50})
    Traceback (most recent call last):
    ValueError: model 'gamma' has no parameter 'rows'; its parameters: n, seed, y
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    _parameters.check(name, MODELS[name], parameters)


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
        If the name or a parameter is unknown, with a list of the known ones, or a parameter is
        none that the model can be built with.

    Examples
    --------
    >>> from pymc_vi_ext import zoo
    >>> [rv.name for rv in zoo.build("gamma", n=50).free_RVs]
    ['alpha', 'beta']
    """
    check_parameters(name, parameters)
    return MODELS[name](**parameters)
