"""What a run of a method returns."""

from __future__ import annotations

import enum

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr


class Status(enum.Enum):
    """How a run ended.

    Attributes
    ----------
    FINISHED
    FAILED
    INTERRUPTED
        By Ctrl-C; what it had got by then is the result.
    NOT_RUN
        Ctrl-C had come before.

    Examples
    --------
    >>> from pymc_vi_ext.comparison import Status
    >>> Status("FINISHED")
    <Status.FINISHED: 'FINISHED'>
    """

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"
    """By Ctrl-C; what it had got by then is the result."""
    NOT_RUN = "NOT_RUN"
    """Ctrl-C had come before."""


@dataclass(frozen=True)
class MethodResult:
    """One run of one method with one seed.

    Attributes
    ----------
    label : str
        Name of the row in tables and figures; the method's unless the specification gives another.
    name : str
        Name of the method, one of :func:`pymc_vi_ext.comparison.runnable_names`.
    seed : int
    status : Status
    options : mapping of str
        All options of the method, defaults included.
    datatree : xarray.DataTree or None
        ``/posterior`` (chain, draw, ...) and ``/sample_stats``; None if the run failed, or was
        interrupted before there was anything to draw from.
    losses : numpy.ndarray, shape (steps,)
        Negative ELBO in nats at each step; empty for methods without one.
    compile_s, fit_s, sample_s : float
        Wall-clock seconds: until the first step or transition; optimising (NaN for a sampler); and
        drawing. A sampler's tuning counts as drawing. NUTS on JAX compiles while it draws, so there
        `sample_s` has the compilation in it.
    steps : int
        Optimisation steps taken; 0 for a sampler.
    backend : str
        What ran it: ``"jax"``, ``"numba"``, ``"c"``, or the name of the sampler.
    stop_reason : str
        Why an optimisation ended; empty for a sampler.
    reason : str
        Why it did not finish: the message of the exception, or that Ctrl-C came; else empty.
    error : str
        The traceback of a failed run, else empty.
    versions : mapping of str to str
        Of the packages that computed the result.
    warnings : sequence of str
        What the run warned of: a fit that did not converge, particles that collapsed.
    began : float
        When it began, in seconds since 1970; NaN of a run that did not.
    seconds : float
        Wall-clock seconds of all of it; NaN likewise.

    Examples
    --------
    >>> from pymc_vi_ext.comparison import MethodResult, Status
    >>> result = MethodResult("advi", "advi", 1, Status.FAILED, reason="ValueError: no.")
    >>> result.datatree is None, result.steps
    (True, 0)
    """

    label: str
    name: str
    seed: int
    status: Status
    options: Mapping[str, Any] = field(default_factory=dict)
    datatree: xr.DataTree | None = None
    losses: np.ndarray = field(default_factory=lambda: np.empty(0))
    compile_s: float = float("nan")
    fit_s: float = float("nan")
    sample_s: float = float("nan")
    steps: int = 0
    backend: str = ""
    stop_reason: str = ""
    reason: str = ""
    error: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    began: float = float("nan")
    seconds: float = float("nan")
