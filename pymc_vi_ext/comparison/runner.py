"""``compare``: methods and seeds in, scores and figures out."""

from __future__ import annotations

import dataclasses
import itertools
import time
import traceback

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from pymc_vi_ext.comparison.comparison import Comparison
from pymc_vi_ext.comparison.methods import MethodSpec, make_spec, negative_elbos, runnable
from pymc_vi_ext.comparison.metrics import METRICS, score
from pymc_vi_ext.comparison.noise import NOISE_FLOOR, SEED, noise_floor
from pymc_vi_ext.comparison.references import (
    Given,
    Posterior,
    Reference,
    ReferenceWarning,
    check_given,
    find_reference,
    first_sentence,
    given_posterior,
)
from pymc_vi_ext.comparison.types import MethodResult, Status
from pymc_vi_ext.diagnostics import divergences
from pymc_vi_ext.errors import INTERRUPT, fit_of, warn
from pymc_vi_ext.interrupts import held, take


def compare(
    model: pm.Model,
    methods: Sequence[str | Mapping[str, Any] | MethodSpec] = ("nuts", "advi", "svgd"),
    reference: Given | None = "nuts",
    seeds: Sequence[int] = (1,),
    draws: int = 1000,
    *,
    progressbar: bool = False,
) -> Comparison:
    """Run methods on a model, one after the other, and score them against a reference.

    Parameters
    ----------
    model : pymc.Model
    methods : sequence of str, mapping or MethodSpec
        Names, or mappings with ``name``, options and perhaps a ``label``, such as
        ``{"name": "svgd", "n_particles": 200}``. A variational method runs as
        :func:`pymc_vi_ext.fit` runs it, with the same defaults.
    reference : str, xarray.DataTree, xarray.Dataset or mapping, optional
        Label of one of the methods, whose first finished seed is the reference; draws, such as
        :func:`pymc_vi_ext.zoo.exact` gives of a model whose posterior is known; or means and
        standard deviations, ``{"mu": {"mean": 1.0, "sd": 0.3}}`` or as
        :func:`pymc_vi_ext.zoo.posteriordb.moments` gives them, to which only errors of means and
        standard deviations can be measured. None measures no distances.
    seeds : sequence of int
        Each method runs once with each.
    draws : int
        Draws from each approximation, and of each chain of a sampler.
    progressbar : bool
        Whether the methods show their progress.

    Returns
    -------
    Comparison
        A method that failed has status FAILED and its traceback in ``error``. After Ctrl-C the one
        that ran has status INTERRUPTED, with what it had got by then, and those after it NOT_RUN.

    Raises
    ------
    ValueError
        If a method, an option or the reference is unknown, a label is not unique, or a given
        reference cannot be one of the model: without variables of it, empty, not finite.

    Warns
    -----
    ReferenceWarning
        If what was to be the reference failed, has an R-hat above 1.01, a verdict other than PASS,
        or is a fit that warned. It is none then, and no distances are measured.

    Examples
    --------
    >>> import pymc_vi_ext as vix
    >>> c = vix.compare(
    ...     vix.zoo.build("gamma", n=50),
    ...     methods=["fullrank_advi", "advi"],
    ...     reference="fullrank_advi",
    ... )
    >>> list(c.table.index)
    [('fullrank_advi', 1), ('advi', 1), ('noise floor', 0)]
    """
    specs = [make_spec(method) for method in methods]
    check_plan(specs, seeds, reference if isinstance(reference, str) else None)
    if not (reference is None or isinstance(reference, str)):
        reference = given_posterior(reference)
        check_given(model, reference)
    results: list[MethodResult] = []
    # Ctrl-C ends the run that it meets; of what there is by then nothing is lost.
    with held(lambda: None):
        for spec, seed in itertools.product(specs, seeds):
            stopped = results and results[-1].status in (Status.INTERRUPTED, Status.NOT_RUN)
            if stopped or take():
                results.append(not_run(spec, seed))
            else:
                results.append(run_method(model, spec, seed, draws, progressbar=progressbar))
        return summarise(results, reference)


def check_plan(specs: Sequence[MethodSpec], seeds: Sequence[int], reference: str | None) -> None:
    """Raise ValueError if the runs could not be told apart or the reference is not among them."""
    if not specs or not seeds:
        raise ValueError("A comparison needs at least one method and one seed.")
    labels = [spec.label for spec in specs]
    for label, count in Counter(labels).items():
        if count > 1:
            raise ValueError(f"{count} methods are called {label!r}: give each its own `label`.")
    if NOISE_FLOOR in labels:
        raise ValueError(f"{NOISE_FLOOR!r} is a row of every table: give the method another label.")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"The seeds {list(seeds)} are not all different.")
    if reference is not None and reference not in labels:
        raise ValueError(
            f"The reference {reference!r} is none of the methods that run: {', '.join(labels)}."
            + (" Exact draws of a model of the zoo are zoo.exact(name)." * (reference == "exact"))
        )


def run_method(
    model: pm.Model,
    spec: str | Mapping[str, Any] | MethodSpec,
    seed: int,
    draws: int = 1000,
    *,
    progressbar: bool = False,
    folder: Path | None = None,
) -> MethodResult:
    """Run one method with one seed; an error, or Ctrl-C, becomes part of the result.

    Parameters
    ----------
    model : pymc.Model
    spec : str, mapping or MethodSpec
    seed : int
    draws : int
        Draws from an approximation, or of each chain of a sampler.
    progressbar : bool
    folder : Path, optional
        Where a variational method that takes steps keeps a checkpoint while it runs, and goes on
        from that of a run that was killed.

    Returns
    -------
    MethodResult

    Examples
    --------
    >>> import pymc as pm
    >>> from pymc_vi_ext.comparison import run_method
    >>> with pm.Model() as model:
    ...     x = pm.Normal("x")
    >>> result = run_method(model, "laplace", seed=1, draws=100)
    >>> result.status, dict(result.datatree["posterior"].sizes)
    (<Status.FINISHED: 'FINISHED'>, {'chain': 1, 'draw': 100})
    """
    spec = make_spec(spec)
    found: dict[str, Any] = {"status": Status.INTERRUPTED}
    began, started = time.time(), time.perf_counter()
    try:
        with held(lambda: found.update(status=Status.INTERRUPTED)):
            found = _run(model, spec, draws, seed, progressbar, folder)
            if take():
                # It came between two parts of the work, or at its end.
                found["status"] = Status.INTERRUPTED
    except KeyboardInterrupt:
        # Before there was an approximation, or with too few draws.
        pass
    if found["status"] is Status.INTERRUPTED:
        found["reason"] = INTERRUPT
    found |= {"began": began, "seconds": time.perf_counter() - started}
    return MethodResult(**_identity(spec, seed), **found)


def not_run(spec: MethodSpec, seed: int) -> MethodResult:
    """Return the result of a run that Ctrl-C came before.

    Parameters
    ----------
    spec : MethodSpec
    seed : int

    Returns
    -------
    MethodResult
        Without draws, its status NOT_RUN.

    Examples
    --------
    >>> from pymc_vi_ext.comparison import make_spec, not_run
    >>> not_run(make_spec("advi"), 1).status
    <Status.NOT_RUN: 'NOT_RUN'>
    """
    return without_draws(spec, seed, Status.NOT_RUN, f"not run, {INTERRUPT} before it")


def without_draws(
    spec: MethodSpec, seed: int, status: Status, reason: str, **more: Any
) -> MethodResult:
    """Return the result of a run that left nothing but how it ended, and when."""
    return MethodResult(**_identity(spec, seed), status=status, reason=reason, **more)


def _identity(spec: MethodSpec, seed: int) -> dict[str, Any]:
    return {
        "label": spec.label,
        "name": spec.name,
        "seed": seed,
        "options": spec.all_options,
    }


def _run(
    model: pm.Model,
    spec: MethodSpec,
    draws: int,
    seed: int,
    progressbar: bool,
    folder: Path | None,
) -> dict[str, Any]:
    """Return what a run has found, status included."""
    try:
        method = runnable(spec.name)
        options = method.values(spec.options)
        method.require(options)
        return method.run(model, spec.name, options, draws, seed, progressbar, folder)
    except Exception as error:  # the other methods go on; the traceback is in the result
        approx = fit_of(error)
        seconds: dict[str, float] = {}
        if approx is not None:
            timings = approx.report.timings
            seconds = {"compile_s": timings.before_s, "fit_s": timings.run_s}
        return {
            "status": Status.FAILED,
            "losses": negative_elbos(approx),
            **seconds,
            "reason": f"{type(error).__name__}: {' '.join(str(error).split())}",
            "error": traceback.format_exc(),
        }


def summarise(results: Sequence[MethodResult], reference: Given | None) -> Comparison:
    """Score results against a reference and tabulate them.

    Parameters
    ----------
    results : sequence of MethodResult
    reference : str, xarray.DataTree, xarray.Dataset or mapping, optional
        As for :func:`compare`.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If a given reference is neither draws nor moments.

    Warns
    -----
    ReferenceWarning
        As for :func:`compare`.

    Examples
    --------
    >>> from pymc_vi_ext.comparison import make_spec, not_run, summarise
    >>> comparison = summarise([not_run(make_spec("advi"), 1)], reference=None)
    >>> comparison.table.index.tolist()
    [('advi', 1)]
    """
    import pandas as pd

    found = find_reference(reference, results)
    if found.problem:
        warn(
            f"{found.label!r} has not converged ({found.problem}), so it is no reference and no "
            "distances are measured. Let it draw for longer, or give draws or moments that are "
            "right as `reference`.",
            ReferenceWarning,
        )
    posterior = None if found.problem else found.posterior
    rows = []
    interrupted = False
    for result in results:
        interrupted = interrupted or take()
        if interrupted:
            scores, reasons = dict.fromkeys(METRICS, float("nan")), f"not scored: {INTERRUPT}"
        else:
            scores, reasons = score(result, posterior)
        fields = {"method": result.label, "seed": result.seed, "status": result.status.value}
        rows.append({**fields, **scores, "note": _note(result, found, reasons)})
    if isinstance(posterior, xr.DataTree) and not interrupted:
        rows += _noise_floor(found, posterior, [r for r in results if r is not found.source])
    table = pd.DataFrame(rows).set_index(["method", "seed"])
    comparison = Comparison(tuple(results), table, posterior, found.label if posterior else "")
    if posterior is None or found.source is None:
        return comparison
    name = comparison.names[list(results).index(found.source)]
    return dataclasses.replace(comparison, reference_name=name)


def _noise_floor(
    reference: Reference, posterior: xr.DataTree, results: Sequence[MethodResult]
) -> list[dict[str, Any]]:
    """Return the row of the noise floor, or none where there is nothing to hold against it."""
    sizes = [r.datatree["posterior"].sizes for r in results if r.datatree is not None]
    if not sizes:
        return []
    scores, draws = noise_floor(posterior, min(size["chain"] * size["draw"] for size in sizes))
    if np.isnan(list(scores.values())).all():
        return []
    note = f"what {draws:,} draws of the reference {reference.label!r} are off by"
    known = {**dict.fromkeys(METRICS, float("nan")), **scores}
    return [{"method": NOISE_FLOOR, "seed": SEED, "status": "", **known, "note": note}]


def _note(result: MethodResult, reference: Reference, reasons: str) -> str:
    if result.datatree is None:
        return "; ".join(filter(None, [result.reason, reasons]))
    is_reference = result is reference.source
    notes = [result.reason] if result.status is Status.INTERRUPTED else []
    if is_reference:
        problem = reference.problem
        notes.append(f"no reference, not converged: {problem}" if problem else "reference")
    elif reference.problem:
        notes.append(f"no distances: {reference.label!r} has not converged")
    if count := divergences(result.datatree):
        notes.append(f"{count} divergences")
    verdict = result.datatree.attrs.get("verdict")
    if verdict and not any(warning.startswith(verdict) for warning in result.warnings):
        notes.append(verdict)
    notes += map(first_sentence, result.warnings)
    if gaps := _not_finite(result.datatree):
        notes.append(f"not finite: draws of {', '.join(gaps)}")
    if not (is_reference or reference.problem) and (gaps := _not_finite(reference.posterior)):
        notes.append(f"not finite: {', '.join(gaps)} in the reference")
    return "; ".join(filter(None, [*notes, reasons]))


def _not_finite(posterior: Posterior | None) -> list[str]:
    """Return the variables that metrics leave out, in part at least."""
    if posterior is None:
        return []
    draws = posterior if isinstance(posterior, xr.Dataset) else posterior["posterior"].dataset
    return [
        str(name)
        for name, array in draws.data_vars.items()
        if not np.isfinite(array.values.astype(float)).all()
    ]
