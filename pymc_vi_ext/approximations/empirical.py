"""Draws as an approximation, from a DataTree too."""

from __future__ import annotations

from typing import Any

import pymc as pm
import xarray as xr

from pymc.model import modelcontext
from pymc.pytensorf import floatX

from pymc_vi_ext.modes import unconstrained_points


class Empirical(pm.Empirical):
    """PyMC's empirical approximation, which takes a posterior in a DataTree as well.

    Parameters
    ----------
    trace : DataTree or MultiTrace, optional
        With draws of every free variable of the model; of a DataTree the group ``posterior``.
    size : int, optional
        Number of particles, where there is no trace.
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
    **kwargs
        As :class:`pymc.Empirical`.

    Attributes
    ----------
    draws : DataTree or None
        What it was made of, chains apart: it is judged by that.

    Raises
    ------
    ValueError
        If a free variable has no draws, naming it.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     sigma = pm.HalfNormal("sigma")
    ...     tree = vix.to_datatree(vix.fit(random_seed=1, progressbar=False), draws=50)
    ...     approx = vix.Empirical(tree)
    >>> approx.histogram.get_value().shape
    (50, 1)
    """

    draws: xr.DataTree | None = None

    def __init__(
        self,
        trace: Any = None,
        size: int | None = None,
        *,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        **kwargs: Any,
    ):
        kwargs |= {"model": model, "random_seed": random_seed}
        if not isinstance(trace, xr.DataTree):
            super().__init__(trace=trace, size=size, **kwargs)
            return
        model = modelcontext(model)
        if "posterior" not in trace.children:
            raise ValueError("The DataTree has no group `posterior`.")
        points = unconstrained_points(model, trace["posterior"].to_dataset())
        super().__init__(size=len(points), **kwargs | {"model": model})
        self.histogram.set_value(floatX(points))
        self.draws = trace
