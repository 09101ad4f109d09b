"""Elements of the variables of a posterior: what they are called, and their draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

# Draws beyond these quantiles of each method stay out of the picture: one heavy tail would
# squeeze everything else into a spike.
_LIMITS = (0.001, 0.999)


@dataclass(frozen=True)
class Element:
    """A number of a posterior: a variable, or an element of one."""

    variable: str
    index: tuple[int, ...]
    title: str

    def draws(self, posterior: xr.DataTree) -> np.ndarray:
        """Return its draws, all chains in one, NaN and infinity included; none without it."""
        array = posterior["posterior"].data_vars.get(self.variable)
        if array is None:
            return np.empty(0)
        values: np.ndarray = array.transpose(..., "chain", "draw").values[self.index]
        return values.ravel().astype(float)


def elements(
    posteriors: Mapping[str, xr.DataTree], var_names: Sequence[str] | None = None
) -> list[Element]:
    """Return the elements of variables, by default of all of the first posterior.

    Raises
    ------
    ValueError
        If there is no posterior or a variable is not in the first.
    """
    if not posteriors:
        raise ValueError("There is no posterior to plot: every method failed.")
    variables = next(iter(posteriors.values()))["posterior"].data_vars
    names = [str(name) for name in variables]
    for name in var_names or ():
        if name not in names:
            raise ValueError(f"No variable {name!r} to plot: there are {', '.join(names)}.")
    return [
        Element(name, index, title)
        for name in (var_names or names)
        for index, title in _places(name, variables[name])
    ]


def limits(draws: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """Return the ends of an axis that shows draws of several methods; None where none differ."""
    finite = [x[np.isfinite(x)] for x in draws]
    ranges = [np.quantile(x, _LIMITS) for x in finite if x.size]
    if not ranges:
        return None
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    margin = 0.02 * (high - low)
    return (float(low - margin), float(high + margin)) if high > low else None


def _places(name: str, array: xr.DataArray) -> list[tuple[tuple[int, ...], str]]:
    """Return index and title of each element of a variable."""
    dims = [dim for dim in array.dims if dim not in ("chain", "draw")]
    found = []
    for index in np.ndindex(*(array.sizes[dim] for dim in dims)):
        places = [
            str(array[dim].values[i]) if dim in array.coords else str(i)
            for dim, i in zip(dims, index, strict=True)
        ]
        found.append((index, f"{name}[{', '.join(places)}]" if places else name))
    return found
