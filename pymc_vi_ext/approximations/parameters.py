"""Variational parameters as a flat vector, and the means and standard deviations they say."""

from __future__ import annotations

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations.table import family_of


def flat_parameters(approx: Approximation) -> np.ndarray:
    """Return a copy of all variational parameters, one after the other, of shape (size,)."""
    return np.concatenate([p.get_value(borrow=True).ravel() for p in approx.params])


def set_parameters(approx: Approximation, flat: np.ndarray) -> None:
    """Set the variational parameters from a vector that :func:`flat_parameters` returned."""
    start = 0
    for parameter in approx.params:
        old = parameter.get_value(borrow=True)
        new = flat[start : start + old.size].reshape(old.shape)
        parameter.set_value(np.array(new, dtype=old.dtype))
        start += old.size


def moments(approx: Approximation, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and log standard deviations that parameters stand for.

    Parameters
    ----------
    approx : Approximation
    flat : array of shape (..., size)
        Parameters as :func:`flat_parameters` returns them.

    Returns
    -------
    means, log_sds : array of shape (..., d)
        On the unconstrained space.

    Raises
    ------
    TypeError
        If a group's family is not known to have them.
    """
    flat = np.asarray(flat, dtype=float)
    parts = []
    start = 0
    for group in approx.groups:
        names = {parameter: name for name, parameter in group.params_dict.items()}
        values = {}
        for parameter in group.params:
            shape = parameter.get_value(borrow=True).shape
            stop = start + int(np.prod(shape))
            values[names[parameter]] = flat[..., start:stop].reshape(*flat.shape[:-1], *shape)
            start = stop
        parts.append(family_of(group).moments(values))
    means, log_sds = zip(*parts, strict=True)
    return np.concatenate(means, axis=-1), np.concatenate(log_sds, axis=-1)
