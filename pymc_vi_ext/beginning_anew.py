"""A fit that meets NaN from its usual start begins once more, narrow and near a mode."""

from __future__ import annotations

import logging
import time

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.errors import fit_of
from pymc_vi_ext.method import Method
from pymc_vi_ext.results import FitReport
from pymc_vi_ext.starting_points import near_a_mode

logger = logging.getLogger(__name__)

# Standard deviation, on the unconstrained space: a model that is NaN further off, as an ODE that
# becomes stiff there, is finite around its mode.
_NARROW = 0.01


def fit_or_begin_anew(
    method: Method, backend: str | None, fit: Callable[[float | None], Approximation]
) -> None:
    """Fit; where NaN ends that, once more from a narrow Gaussian near a mode.

    Parameters
    ----------
    method : Method
    backend : str or None
        What evaluates the log density on the way to the mode.
    fit : callable
        Fits `method` from its present parameters; takes when that began, None for the first time.

    The report says that the fit began anew; the losses are those of the second time.

    Raises
    ------
    FloatingPointError
        If there is nowhere else to begin, or NaN ends the second fit too.
    """
    approx = method.approx
    try:
        fit(None)
        return
    except FloatingPointError as error:
        if fit_of(error) is None or not _begin_near_a_mode(method, backend):
            raise
    first: FitReport = approx.report
    logger.warning("NaN at step %d: the fit begins anew near a mode.", first.steps)
    method.hist = np.empty(0)
    fit(time.perf_counter())
    second: FitReport = approx.report
    approx.report = replace(
        second,
        evidence=f"{second.evidence}; begun anew near a mode, after NaN at step {first.steps:,} "
        "from the usual start",
        timings=sum([second.timings], first.timings),
    )


def _begin_near_a_mode(method: Method, backend: str | None) -> bool:
    try:
        point = near_a_mode(method.approx.model, backend)
    except (KeyboardInterrupt, NotImplementedError):
        return False
    return point is not None and method.begin_near(point, _NARROW)
