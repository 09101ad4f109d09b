"""Log importance weights of the draws of an approximation."""

from __future__ import annotations

import numpy as np
import xarray as xr


def log_weights(dt: xr.DataTree) -> np.ndarray:
    """Return ``lp - log_q`` of all draws, in nats, as a vector.

    Raises
    ------
    ValueError
        If the DataTree does not hold both.
    """
    stats = dt.children.get("sample_stats")
    if stats is None or "lp" not in stats or "log_q" not in stats:
        raise ValueError(
            "The log weights need `lp` and `log_q` in /sample_stats, as `to_datatree` gives them "
            "for approximations with a density; particles (SVGD) and MCMC draws have none."
        )
    return np.asarray(stats["lp"] - stats["log_q"], dtype=float).ravel()
