"""``method="auto"``: from a model to draws of its posterior, and a verdict."""

from __future__ import annotations

import time

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pymc as pm

from pymc.variational.opvi import Approximation
from xarray import DataTree

from pymc_vi_ext.approximations.empirical import Empirical
from pymc_vi_ext.callbacks import WallTime
from pymc_vi_ext.correction import correct
from pymc_vi_ext.diagnostics.verdict import Diagnosis, Verdict
from pymc_vi_ext.errors import NoDensityError
from pymc_vi_ext.minibatches import has_minibatches, refuse_streams
from pymc_vi_ext.results import FitReport, Rung, StopReason, Timings
from pymc_vi_ext.session import mark_interrupted

MAX_SECONDS = 120.0
"""Seconds that an automatic fit may take, where the user does not say."""

# Deterministic ADVI with its linear response is the best start for chains at the price; the next is
# for models that it cannot fit, and for another try.
_LADDER = ("dadvi", "advi")
# A fit may take this part of what is left, so that chains have the rest.
_OF_FIT = 0.4

FitBy = Callable[[str, Sequence[Any]], Approximation]


def fit_automatically(
    fit_by: FitBy,
    model: pm.Model,
    *,
    random_seed: int | None,
    backend: str | None,
    max_seconds: float,
    started: float,
    progressbar: bool,
) -> Approximation:
    """Fit, correct, judge; and again from another fit, while a verdict is FAIL and time is left.

    Parameters
    ----------
    fit_by : callable
        Fits by the method of a name, with callbacks.
    model : pymc.Model
    random_seed : int or None
    backend : str or None
        What runs the chains.
    max_seconds : float
    started : float
        When they began, by ``time.perf_counter()``.
    progressbar : bool
        Whether to show what the chains are at.

    Returns
    -------
    Approximation
        :class:`~pymc_vi_ext.Empirical` over the draws of the best verdict; after Ctrl-C before
        there is one, what the last fit has reached.

    Raises
    ------
    Exception
        What the last fit has raised, where none could be made.
    """

    def left() -> float:
        return max(started + max_seconds - time.perf_counter(), 1e-3)

    refuse_streams(model, 'method="auto", whose chains read them at each step,')
    names = [name for name in _LADDER if name != "dadvi" or not has_minibatches(model)]
    rungs: list[Rung] = []
    best: Empirical | None = None
    for name in names:
        doing, began = name, time.perf_counter()
        try:
            fitted = fit_by(name, [WallTime(_OF_FIT * left())])
            rungs.append(Rung(name, time.perf_counter() - began, fitted.report.evidence))
            doing, began = "correct", time.perf_counter()
            tree = _corrected(fitted, left(), random_seed, backend, progressbar)
        except (ArithmeticError, NotImplementedError, NoDensityError) as error:
            rungs.append(Rung(doing, time.perf_counter() - began, str(error)))
            if name == names[-1] and best is None:
                raise
            continue
        if tree is None:
            best = best or fitted
            mark_interrupted(best, f"on the way from {name} to the posterior")
            break
        found: Diagnosis = fitted.report.correction
        how, numbers = tree.attrs["correction"], found.in_a_line
        rungs.append(Rung(how, time.perf_counter() - began, f"{found.verdict.value}: {numbers}"))
        if best is None or found.verdict.rank < best.report.verdict.rank:
            best = Empirical(tree, model=model, random_seed=random_seed)
            best.hist = fitted.hist
            best.report = _judged(fitted.report, how, found, tree.attrs["khat"])
        if found.verdict is not Verdict.FAIL or time.perf_counter() > started + max_seconds:
            # What is near already gets no nearer from elsewhere.
            break
    assert best is not None
    report: FitReport = best.report
    before = report.timings.before_s
    spent = Timings(before, 0.0, 0.0, time.perf_counter() - started - before)
    best.report = replace(report, method="auto", rungs=tuple(rungs), timings=spent)
    return best


def _corrected(
    fitted: Approximation,
    max_seconds: float,
    random_seed: int | None,
    backend: str | None,
    progressbar: bool,
) -> DataTree | None:
    """Return draws of the posterior; None if Ctrl-C has ended the fit, or this."""
    if fitted.report.stop_reason is StopReason.INTERRUPTED:
        return None
    try:
        return correct(
            fitted,
            max_seconds=max_seconds,
            random_seed=random_seed,
            backend=backend,
            progressbar=progressbar,
        )
    except KeyboardInterrupt:
        return None


def _judged(report: FitReport, how: str, found: Diagnosis, khat: float) -> FitReport:
    """Return the report of a fit as that of the draws that `how` has made of it."""
    right = found.verdict is Verdict.PASS
    return replace(
        report,
        stop_reason=StopReason.CONVERGED if right else StopReason.STOPPED,
        stopped_by=how,
        evidence=f"{found.verdict.value}: {found.in_a_line}",
        khat=khat,
        correction=found,
        warnings=() if right else (_complaint(found),),
    )


def _complaint(found: Diagnosis) -> str:
    """Say in one warning what keeps draws from a PASS, the worst first."""
    flaws = [check for check in found.checks if check.verdict is not Verdict.PASS]
    flaws.sort(key=lambda check: -check.verdict.rank)
    named = "; ".join(
        f"{check.name} {check.shown}" + f" (wanted: {check.threshold})" * bool(check.threshold)
        for check in flaws
    )
    return f"{found.verdict.value}: {named}. {flaws[0].advice}"
