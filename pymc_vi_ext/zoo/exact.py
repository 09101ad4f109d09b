"""Exact draws of the posteriors that are known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from pymc_vi_ext.zoo.mixture import mixture_draws

EXACT: dict[str, Callable[[int, np.random.Generator], dict[str, np.ndarray]]] = {
    "mixture": mixture_draws,
}
"""Name of a model -> function of a number of draws and a generator, which returns all variables."""


def exact(name: str, draws: int = 10_000, random_seed: int = 0) -> xr.DataTree:
    r"""Draw from the posterior of a model whose answer is known.

    Parameters
    ----------
    name : str
        Name in :data:`EXACT`.
    draws : int
        Number of independent draws, 2 at least.
    random_seed : int

    Returns
    -------
    xarray.DataTree
        Named "exact", with a ``/posterior`` of all free variables and Deterministics,
        (chain, draw, \*dims), in one chain: a reference for :func:`pymc_vi_ext.compare`.

    Raises
    ------
    ValueError
        If no exact draws of the model are known, or fewer than 2 are asked for.

    Examples
    --------
    >>> from pymc_vi_ext import zoo
    >>> x = zoo.exact("mixture")["posterior"]["x"]
    >>> round(float((x > 0.1).mean()), 1)
    0.8
    """
    if name not in EXACT:
        raise ValueError(
            f"No exact draws of the model {name!r} are known; there are some of {', '.join(EXACT)}."
        )
    if draws < 2:
        raise ValueError(f"`draws` must be at least 2, not {draws}.")
    from arviz_base import from_dict  # it loads JAX's name, and `vix.zoo` is to stay light

    values = EXACT[name](draws, np.random.default_rng(random_seed))
    tree: xr.DataTree = from_dict({"posterior": {k: v[None] for k, v in values.items()}})
    tree.name = "exact"
    return tree
