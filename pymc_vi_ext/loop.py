"""The loop of every fit: run some steps, call the callbacks, report.

Written once for all methods and engines. Behind :func:`pymc_vi_ext.fit`, and behind ``fit`` and
``refine`` of the package's own methods, so that ``pm.fit(method=vix.ADVI())`` takes it too.
"""

import contextlib
import functools
import logging
import math
import time

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pytensor

from pymc.progress_bar import default_progress_theme
from pymc.variational.inference import Inference, State
from pymc.variational.opvi import Approximation

from pymc_vi_ext import __version__
from pymc_vi_ext.engine import Loop, StepProgram, make_loop
from pymc_vi_ext.optimizers import AnnealedAdam
from pymc_vi_ext.progress import fit_progress
from pymc_vi_ext.results import FitReport, StopReason, Timings

logger = logging.getLogger(__name__)

Callback = Callable[[Approximation, np.ndarray | None, int], Any]

# Steps between two looks at the progress bar and the keyboard take about this long.
_SECONDS_PER_CALL = 0.1
_LONGEST_CALL = 1 << 20  # steps
_VERSIONS = ("pymc", "pytensor", "jax", "numpy")


@dataclass
class _Session:
    """What the last ``fit`` of an inference leaves for the next one and for ``refine``."""

    key: Any
    keywords: Mapping[str, Any]
    program: StepProgram
    loop: Loop
    optimizer: Any
    losses: np.ndarray | None
    steps: int = 0
    seed: int | None = None


_sessions: "WeakKeyDictionary[Inference, _Session]" = WeakKeyDictionary()


def fit_inference(
    inference: Inference,
    n: int,
    *,
    score: bool | None = None,
    callbacks: Sequence[Callback] | None = None,
    progressbar: bool = True,
    progressbar_theme: Any = default_progress_theme,
    backend: str | None = "auto",
    include_transformed: bool = False,
    random_seed: int | None = None,
    learning_rate: float | None = None,
    compile_kwargs: Mapping[str, Any] | None = None,
    **update_kwargs: Any,
) -> Approximation:
    """Fit `inference` from its present parameters, with a new optimizer state.

    A second call with the same options runs the program compiled by the first.

    Parameters
    ----------
    inference : pymc.Inference
    n : int
        Number of steps.
    score : bool, optional
        Whether to compute the loss; by default where the objective has one.
    callbacks : sequence of callable, optional
        Each is called as ``callback(approx, losses, i)`` after step ``i`` (from 1), `losses`
        being the ``i`` losses so far, in nats, or None. Every step, or every ``callback.every``
        steps.
    progressbar, progressbar_theme
        As in PyMC.
    backend : {"auto", "jax", "numba", "c"}, optional
    include_transformed : bool
        As in PyMC.
    random_seed : int, optional
        Seed of the draws; by default from the approximation's own generator.
    learning_rate : float, optional
        Of the default optimizer.
    compile_kwargs : mapping, optional
        For :func:`pytensor.function`.
    **update_kwargs
        `obj_n_mc`, `obj_optimizer`, `more_updates` and the others of
        :meth:`pymc.variational.opvi.ObjectiveFunction.updates`.

    Returns
    -------
    Approximation
        With ``hist`` (losses) and ``report`` (:class:`~pymc_vi_ext.results.FitReport`).
    """
    _check_steps(n)
    callbacks = _check_callbacks(callbacks)
    if update_kwargs.get("obj_optimizer") is None:
        update_kwargs.pop("obj_optimizer", None)
    elif learning_rate is not None:
        raise ValueError(
            "Give either `learning_rate`, which is the default optimizer's, or `obj_optimizer` "
            "with a rate of its own, not both."
        )
    scored = inference.objective.op.returns_loss and score is not False
    key = _freeze(
        (backend, scored, learning_rate, pytensor.config.floatX, compile_kwargs, update_kwargs)
    )
    session = _sessions.get(inference)
    timings = [0.0, 0.0]
    approx = inference.approx
    rng = getattr(approx, "rng", None) or approx.groups[0].rng
    seed = int(rng.randint(2**30)) if random_seed is None else random_seed
    if session is None or session.key != key:
        started = time.perf_counter()
        rate = {} if learning_rate is None else {"learning_rate": learning_rate}
        optimizer = update_kwargs.get("obj_optimizer") or AnnealedAdam(
            **rate, average=not approx.any_histograms
        )
        keywords = {**update_kwargs, "obj_optimizer": optimizer}
        program = StepProgram.from_inference(inference, score=scored, **keywords)
        timings[0] = time.perf_counter() - started
        program.restart(seed)
        loop = make_loop(program, backend, compile_kwargs)
        timings[1] = loop.compile_s
        session = _Session(key, keywords, program, loop, optimizer, None)
        _sessions[inference] = session
    else:
        session.program.restart(seed)
    session.seed = random_seed if random_seed is not None else getattr(inference, "seed", None)
    session.losses = np.empty(0) if scored else None
    session.steps = 0
    _run(inference, session, n, callbacks, progressbar, progressbar_theme, timings)
    for group in approx.groups:
        group.include_transformed = include_transformed
    return approx


def refine_inference(inference: Inference, n: int, progressbar: bool, theme: Any) -> None:
    """Take `n` more steps where the last ``fit`` of `inference` stopped, compiling nothing."""
    session = _sessions.get(inference)
    if session is None:
        raise TypeError("Need to call `.fit` first")
    _check_steps(n)
    callbacks = inference.state.callbacks
    _run(inference, session, n, callbacks, progressbar, theme, [0.0, 0.0])


def _run(
    inference: Inference,
    session: _Session,
    n: int,
    callbacks: Sequence[Callback],
    progressbar: bool,
    theme: Any,
    timings: list[float],
) -> None:
    """Take `n` steps and leave everything that PyMC users read on `inference` and its approx."""
    approx = inference.approx
    if begin := getattr(session.optimizer, "begin", None):
        begin(n)
    compiled_before = session.loop.compile_s
    started = time.perf_counter()
    trace = _Trace(session.losses, session.steps, n)
    reason, stopped_by, evidence = StopReason.COMPLETED, None, ""
    error: Exception | None = None
    try:
        with fit_progress(n, progressbar, theme) as progress:
            _steps(session.loop, approx, trace, callbacks, progress)
    except StopIteration as stop:
        reason, stopped_by, evidence = StopReason.STOPPED, trace.caller, str(stop)
        logger.info("Stopped by %s at step %d: %s", stopped_by, trace.done, stop)
    except KeyboardInterrupt:
        reason, evidence = StopReason.INTERRUPTED, "keyboard interrupt"
        logger.info("Interrupted at step %d", trace.done)
    except FloatingPointError as failure:
        reason, evidence, error = StopReason.NOT_FINITE, str(failure), failure
    except Exception as failure:
        reason, evidence, error = StopReason.FAILED, repr(failure), failure
        stopped_by = trace.caller
        failure.add_note(
            (f"Raised by the callback {trace.caller}" if trace.caller else "Raised by the engine")
            + f" at step {trace.done}. The fit up to there is kept: this exception's `approx`, "
            "with `approx.hist` and `approx.report`."
        )
    session.loop.write_back()
    finish = getattr(session.optimizer, "finish", None)
    if finish and trace.done > session.steps and reason is not StopReason.NOT_FINITE:
        finish()
    run_s = time.perf_counter() - started - (session.loop.compile_s - compiled_before)
    taken = trace.done - session.steps
    session.losses, session.steps = trace.losses, trace.done
    if trace.losses is not None:
        new = trace.losses[len(trace.losses) - taken :]
        inference.hist = np.concatenate([inference.hist, new])
    inference.state = State(
        trace.done,
        step=functools.partial(_one_step, session.loop),
        callbacks=callbacks,
        score=trace.losses is not None,
    )
    approx.hist = inference.hist
    approx.report = FitReport(
        stop_reason=reason,
        stopped_by=stopped_by,
        steps=trace.done,
        evidence=evidence,
        timings=Timings(
            timings[0], timings[1] + session.loop.compile_s - compiled_before, max(run_s, 0.0)
        ),
        backend=session.loop.backend,
        seed=session.seed,
        versions=_versions(),
    )
    if error is not None:
        error.approx = approx  # type: ignore[attr-defined]
        raise error


class _Trace:
    """Steps done and their losses, in a buffer that grows once."""

    def __init__(self, losses: np.ndarray | None, done: int, n: int):
        self.done, self.end = done, done + n
        self.caller: str | None = None
        self._buffer = None if losses is None else np.concatenate([losses, np.empty(n)])

    @property
    def losses(self) -> np.ndarray | None:
        return None if self._buffer is None else self._buffer[: self.done]

    def extend(self, steps: int, losses: np.ndarray | None) -> None:
        if self._buffer is not None and losses is not None:
            self._buffer[self.done : self.done + len(losses)] = losses
        self.done += steps


def _steps(
    loop: Loop,
    approx: Approximation,
    trace: _Trace,
    callbacks: Sequence[Callback],
    progress: Any,
) -> None:
    first = trace.done
    chunk = 16
    while trace.done < trace.end:
        every, times = _plan(callbacks, trace.done, trace.end, chunk)
        started = time.perf_counter()
        seconds = 0.0
        with contextlib.closing(loop.intervals(every, times)) as intervals:
            for losses in intervals:
                seconds = seconds or time.perf_counter() - started
                trace.extend(every if losses is None else len(losses), losses)
                suspect = losses is None or np.isnan(losses[-1])
                due = [c for c in callbacks if trace.done % getattr(c, "every", 1) == 0]
                if due or suspect:
                    loop.write_back(internals=False)
                if suspect:
                    _raise_if_not_finite(approx, losses, trace.done)
                for callback in due:
                    trace.caller = _name(callback)
                    callback(approx, trace.losses, trace.done)
                trace.caller = None
                progress.update(trace.done - first, trace.losses, last=trace.done == trace.end)
        if seconds < _SECONDS_PER_CALL / 2:
            chunk = min(chunk * 4, _LONGEST_CALL)
        elif seconds > 2 * _SECONDS_PER_CALL:
            chunk = max(chunk // 2, 1)


def _plan(callbacks: Sequence[Callback], done: int, end: int, chunk: int) -> tuple[int, int]:
    """Return how many steps to take, and how many times over, of about `chunk` in all.

    A run of steps ends where a callback may be due; several runs follow each other only where
    each ends so.
    """
    if not callbacks:
        return min(chunk, end - done), 1
    rhythm = math.gcd(*(int(getattr(callback, "every", 1)) for callback in callbacks))
    left = min(rhythm - done % rhythm, end - done)
    if left < rhythm or chunk < rhythm:
        return min(left, chunk), 1
    return rhythm, min(chunk, end - done) // rhythm


def _raise_if_not_finite(approx: Approximation, losses: np.ndarray | None, i: int) -> None:
    """Raise FloatingPointError, naming variables and indices, if the loss or a parameter is NaN."""
    bad = nan_parameters(approx)
    if not bad and (losses is None or not np.isnan(losses[-1])):
        return
    where = "\n".join(bad) or "Every parameter is finite still: the log density itself is NaN."
    raise FloatingPointError(
        f"NaN occurred in optimization at step {i}.\n{where}\n"
        "Try a smaller learning rate, another start, or priors that keep the log density finite."
    )


def nan_parameters(approx: Approximation) -> list[str]:
    """Name the variables and flat indices whose variational parameters are NaN.

    Parameters
    ----------
    approx : Approximation

    Returns
    -------
    list of str
        A sentence per variable, of at most ten indices each.
    """
    sentences = []
    for group in approx.groups:
        for parameter in group.params:
            nan = np.isnan(parameter.get_value(borrow=True))
            if not nan.any():
                continue
            if nan.shape[-1:] != (group.ddim,):
                sentences.append(f"The parameter `{parameter.name}` of {group} has NaNs.")
                continue
            columns = nan.reshape(-1, group.ddim).any(axis=0)
            for name, where, *_ in group.ordering.values():
                indices = np.flatnonzero(columns[where])
                if len(indices):
                    shown = ", ".join(map(str, indices[:10])) + ", ..." * (len(indices) > 10)
                    sentences.append(
                        f"The current approximation of RV `{name}`.ravel()[{shown}] is NaN "
                        f"(its `{parameter.name}`)."
                    )
    return sentences


@functools.cache
def _versions() -> Mapping[str, str]:
    return {"pymc_vi_ext": __version__, **{name: version(name) for name in _VERSIONS}}


def _one_step(loop: Loop) -> float | None:
    """Take one step as PyMC's own compiled step functions do, for its ``Inference.refine``."""
    losses = loop.run(1)
    loop.write_back()
    return None if losses is None else float(losses[0])


def _check_steps(n: int) -> None:
    if not isinstance(n, int | np.integer) or n < 0:
        raise ValueError(f"The number of steps `n` must be a whole number from 0, not {n!r}.")


def _check_callbacks(callbacks: Sequence[Callback] | None) -> Sequence[Callback]:
    callbacks = list(callbacks or ())
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(
                f"A callback is called as f(approx, losses, i); {callback!r} cannot be."
            )
        every = getattr(callback, "every", 1)
        if not isinstance(every, int | np.integer) or every < 1:
            raise ValueError(
                f"{_name(callback)}.every must be a whole number of steps from 1, not {every!r}."
            )
    return callbacks


def _name(callback: Callback) -> str:
    return getattr(callback, "__name__", type(callback).__name__)


def _freeze(value: Any) -> Any:
    """Return a hashable stand-in that is equal for options that mean the same program."""
    if isinstance(value, functools.partial):
        return ("partial", value.func, _freeze(value.args), _freeze(value.keywords))
    if isinstance(value, Mapping):
        return tuple((k, _freeze(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_freeze, value))
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value
