"""Several starts of one fit, of which the best is kept."""

from __future__ import annotations

import logging
import time

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.approximations import families_of
from pymc_vi_ext.approximations.parameters import flat_parameters, set_parameters
from pymc_vi_ext.interrupts import pending, take
from pymc_vi_ext.method import Method
from pymc_vi_ext.results import FitReport, StartResult, StopReason
from pymc_vi_ext.session import mark_interrupted

logger = logging.getLogger(__name__)

# Draws on which the starts are compared, the same for all.
_DRAWS = 2_000


def fit_several(
    method: Method, starts: int, seed: int | None, fit: Callable[[float | None, str], Approximation]
) -> None:
    """Fit from several starts with one compiled program, and keep the fit of the highest ELBO.

    The first start is the one given; at the others the means are moved by standard normal draws
    on the unconstrained space.

    Parameters
    ----------
    method : Method
    starts : int
    seed : int, optional
        Of the starts.
    fit : callable
        Fits `method` from its present parameters; takes when that began, None for the first, and
        what to call it.

    The report's ``starts`` have the ELBO of each with its standard error. After Ctrl-C it says
    INTERRUPTED, and the best is one of those that there are by then.

    Raises
    ------
    ValueError
        If the method has no ELBO, or `starts` is not a whole number from 1.
    FloatingPointError
        If every start ends with NaN.
    """
    approx = method.approx
    if not method.objective.op.require_logq:
        raise ValueError(f"`n_starts` keeps the fit with the highest ELBO; {method.name} has none.")
    rng = np.random.default_rng(seed)
    first = flat_parameters(approx)
    fits: list[tuple[np.ndarray, np.ndarray, FitReport]] = []
    interrupted = False
    for k in range(starts):
        set_parameters(approx, first)
        method.hist = np.empty(0)
        if k:
            for family in families_of(approx):
                family.scatter(rng)
        try:
            fit(time.perf_counter() if k else None, f"start {k + 1} of {starts}")
            fits.append((flat_parameters(approx), method.hist, approx.report))
        except FloatingPointError as error:
            logger.warning("Start %d of %d ended with NaN: %s", k + 1, starts, error)
            if not fits and (k + 1 == starts or pending()):
                raise
        # One that came after the last step, too.
        interrupted = take() or approx.report.stop_reason is StopReason.INTERRUPTED
        if interrupted:
            break
    if method.session is None:
        return  # interrupted before the first program was compiled
    points = [point for point, _, _ in fits]
    try:
        losses = approx.fit_state.losses_at(points, _DRAWS, int(rng.integers(2**30)))
    except KeyboardInterrupt:
        # By what the steps say themselves: noisier, and for the last starts still falling.
        interrupted = True
        losses = [hist[-_DRAWS:] if len(hist) else np.full(1, np.inf) for _, hist, _ in fits]
    with np.errstate(invalid="ignore"):
        compared = tuple(
            StartResult(
                -float(row.mean()),
                float(row.std() / len(row) ** 0.5),
                report.steps,
                report.stop_reason,
            )
            for row, (_, _, report) in zip(losses, fits, strict=True)
        )
    best = int(np.argmin([row.mean() for row in losses]))
    point, method.hist, report = fits[best]
    set_parameters(approx, point)
    approx.hist = method.hist
    seconds = [each.timings for _, _, each in fits]
    approx.report = replace(report, starts=compared, timings=sum(seconds[1:], seconds[0]))
    if interrupted:
        where = f"in start {len(compared)} of {starts}"
        if report.stop_reason is StopReason.INTERRUPTED:
            approx.report = replace(approx.report, evidence=f"{report.evidence} {where}")
        else:
            mark_interrupted(approx, where)
