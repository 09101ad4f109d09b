"""The loop of every fit: run some steps, call the callbacks, report.

Written once for all methods and engines. Behind :func:`pymc_vi_ext.fit`, and behind ``fit`` and
``refine`` of the package's own methods, so that ``pm.fit(method=vix.ADVI())`` takes it too.
"""

import contextlib
import functools
import logging
import math
import time
import warnings

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
from pymc_vi_ext.approximations.parameters import set_parameters
from pymc_vi_ext.callbacks.checkpoint import Checkpoint, Saved
from pymc_vi_ext.callbacks.staged import StagedStop
from pymc_vi_ext.engine import Loop, StepProgram, make_loop
from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.optimizers import AnnealedAdam, WhitenedAdam
from pymc_vi_ext.progress import fit_progress
from pymc_vi_ext.results import NEGATIVE_ELBO, FitReport, StopReason, Timings
from pymc_vi_ext.state import FitState

logger = logging.getLogger(__name__)

Callback = Callable[[Approximation, np.ndarray | None, int], Any]

# Steps between two looks at the progress bar and the keyboard take about this long.
_SECONDS_PER_CALL = 0.1
_LONGEST_CALL = 1 << 20  # steps
# Ends at which the iterates' average is the best there is.
_ENDS_WITHOUT_RESULT = (StopReason.COMPLETED, StopReason.INTERRUPTED)
_VERSIONS = ("pymc", "pytensor", "jax", "numpy")


@dataclass
class _Session:
    """What the last ``fit`` of an inference leaves for the next one and for ``refine``."""

    key: Any
    # Of the options some are in `key` by their id only: this keeps them, and so their ids, alive.
    keywords: Mapping[str, Any]
    objective: Any
    program: StepProgram
    loop: Loop
    optimizer: Any
    rule: Any
    losses: np.ndarray | None = None
    steps: int = 0
    seed: int | None = None
    options: Mapping[str, Any] | None = None
    # Steps that fill a call of the engine, as measured last.
    chunk: int = 16


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
    convergence: str | None = None,
    compile_kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    saved: Saved | None = None,
    **update_kwargs: Any,
) -> Approximation:
    """Fit `inference` from its present parameters, with a new optimizer state.

    A second call with the same options runs the program compiled by the first.

    Parameters
    ----------
    inference : pymc.Inference
    n : int
        Number of steps, at most.
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
    convergence : {None, "default"}, optional
        "default" stops by :class:`~pymc_vi_ext.callbacks.staged.StagedStop`.
    options : mapping, optional
        What a checkpoint needs to call :func:`pymc_vi_ext.fit` again.
    saved : Saved, optional
        A checkpoint to go on from; `n` then counts the steps left.
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
    check_steps(n)
    callbacks = check_callbacks(callbacks)
    has_optimizer = getattr(inference, "has_optimizer", True)
    if not has_optimizer:
        given = {
            "obj_optimizer": update_kwargs.get("obj_optimizer"),
            "learning_rate": learning_rate,
        }
        if named := [name for name, value in given.items() if value is not None]:
            raise ValueError(
                f"{type(inference).__name__} has no learning rate: leave out {named[0]}."
            )
    if update_kwargs.get("obj_optimizer") is None:
        update_kwargs.pop("obj_optimizer", None)
    elif learning_rate is not None:
        raise ValueError(
            "Give either `learning_rate`, which is the default optimizer's, or `obj_optimizer` "
            "with a rate of its own, not both."
        )
    if convergence not in (None, "default"):
        raise UnknownNameError("stopping rule", convergence, ("default", None))
    _check_tempering(inference, n, convergence, saved)
    scored = inference.objective.op.returns_loss and score is not False
    key = _freeze(
        (
            (backend, scored, learning_rate, convergence, pytensor.config.floatX),
            (compile_kwargs, update_kwargs),
            id(inference.objective),
        )
    )
    session = _sessions.get(inference)
    timings = [0.0, 0.0]
    approx = inference.approx
    rng = getattr(approx, "rng", None) or approx.groups[0].rng
    seed = int(rng.randint(2**30)) if random_seed is None else random_seed
    if session is None or session.key != key:
        started = time.perf_counter()
        rate = {} if learning_rate is None else {"learning_rate": learning_rate}
        rule = None if convergence is None else _rule(inference)
        optimizer = update_kwargs.get("obj_optimizer")
        if not has_optimizer:
            pass
        elif optimizer is None and rule is not None:
            optimizer = WhitenedAdam(approx, **rate)
        elif optimizer is None:
            rate = rate or getattr(inference, "annealed_rate", {})
            optimizer = AnnealedAdam(**rate, average=not approx.any_histograms)
        keywords = {**update_kwargs, "obj_optimizer": optimizer}
        if rule is not None:
            keywords["more_updates"] = {
                **(update_kwargs.get("more_updates") or {}),
                **rule.updates(approx),
            }
        program = StepProgram.from_inference(inference, score=scored, **keywords)
        timings[0] = time.perf_counter() - started
        program.restart(seed)
        loop = make_loop(program, backend, compile_kwargs)
        timings[1] = loop.compile_s
        session = _Session(key, keywords, inference.objective, program, loop, optimizer, rule)
        _sessions[inference] = session
    else:
        session.program.restart(seed)
    session.seed = random_seed if random_seed is not None else getattr(inference, "seed", None)
    session.losses = np.empty(0) if scored else None
    session.steps = 0
    session.options = options
    if session.rule is not None:
        session.rule.clear()
    _run(inference, session, n, callbacks, progressbar, progressbar_theme, timings, saved)
    for group in approx.groups:
        group.include_transformed = include_transformed
    return approx


def refine_inference(inference: Inference, n: int, progressbar: bool, theme: Any) -> None:
    """Take `n` more steps where the last ``fit`` of `inference` stopped, compiling nothing."""
    session = _sessions.get(inference)
    if session is None:
        raise TypeError("Need to call `.fit` first")
    check_steps(n)
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
    saved: Saved | None = None,
) -> None:
    """Take `n` steps and leave everything that PyMC users read on `inference` and its approx."""
    approx = inference.approx
    rule = session.rule
    # What saves the others' states comes after them.
    if saved is not None:
        session.steps, session.losses = saved.header["step"], saved.losses
        if saved.losses is not None:
            inference.hist = saved.losses
    watching: list[Callback] = sorted(
        [*callbacks, *([] if rule is None else [rule])], key=lambda c: isinstance(c, Checkpoint)
    )
    approx.fit_state = FitState(
        approx,
        session.program,
        session.loop,
        session.optimizer,
        watching,
        session.steps + n,
        session.options,
        _loss_name(inference) == NEGATIVE_ELBO,
    )
    if saved is not None:
        saved.restore(approx.fit_state)
    elif rule is not None:
        rule.begin(approx)
    if rule is not None:
        rule.wait_until = getattr(inference.objective.op, "steps", 0)
    if saved is None and (begin := getattr(session.optimizer, "begin", None)):
        begin(n)
    compiled_before = session.loop.compile_s
    started = time.perf_counter()
    trace = _Trace(session.losses, session.steps, n)
    reason, stopped_by, evidence = StopReason.COMPLETED, None, ""
    error: Exception | None = None
    has_result = False
    try:
        with fit_progress(n, progressbar, theme) as progress:
            session.chunk = _steps(
                session.loop,
                approx,
                trace,
                watching,
                progress,
                session.chunk,
            )
    except StopIteration as stop:
        # A callback that set the parameters has said what the result is.
        has_result = any(
            new is not old for new, old in zip(_storages(approx), trace.shown, strict=False)
        )
        converged = getattr(trace.caller, "finds_convergence", False)
        reason = StopReason.CONVERGED if converged else StopReason.STOPPED
        stopped_by, evidence = _name(trace.caller), str(stop)
        logger.info("Stopped by %s at step %d: %s", stopped_by, trace.done, stop)
    except KeyboardInterrupt:
        reason, evidence = StopReason.INTERRUPTED, "keyboard interrupt"
        logger.info("Interrupted at step %d", trace.done)
    except FloatingPointError as failure:
        reason, evidence, error = StopReason.NOT_FINITE, str(failure), failure
    except Exception as failure:
        reason, evidence, error = StopReason.FAILED, repr(failure), failure
        stopped_by = None if trace.caller is None else _name(trace.caller)
        failure.add_note(
            (f"Raised by the callback {stopped_by}" if stopped_by else "Raised by the engine")
            + f" at step {trace.done}. The fit up to there is kept: this exception's `approx`, "
            "with `approx.hist` and `approx.report`."
        )
    approx.fit_state.sync()
    if rule is not None and reason in _ENDS_WITHOUT_RESULT and trace.done > session.steps:
        average = rule.average()
        if average is not None and np.isfinite(average).all() and not approx.any_histograms:
            set_parameters(approx, average)
    if rule is not None and reason is StopReason.COMPLETED and n:
        evidence = f"not converged: {rule.shortfall}"
        warnings.warn(
            f"The fit took all of its {n:,} steps before it converged ({rule.shortfall}). "
            "Raise `n`, or `refine`; `approx.report.evidence` keeps this.",
            stacklevel=4,
        )
    finish = getattr(session.optimizer, "finish", None)
    failed = reason is StopReason.NOT_FINITE
    if finish and trace.done > session.steps and not failed and not has_result:
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
    check = getattr(inference, "check_result", None)
    if check and taken and error is None:
        check()
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
        versions=versions(),
        loss="" if trace.losses is None else _loss_name(inference),
    )
    if error is not None:
        error.approx = approx  # type: ignore[attr-defined]
        raise error


class _Trace:
    """Steps done and their losses, in a buffer that grows once."""

    def __init__(self, losses: np.ndarray | None, done: int, n: int):
        self.done, self.end = done, done + n
        self.caller: Callback | None = None
        # The parameters' storages before that callback was called.
        self.shown: list[Any] = []
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
    chunk: int,
) -> int:
    """Take the steps of `trace`; returns how many filled a call at the end."""
    first = trace.done
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
                if suspect and (problem := _not_finite(approx, losses, trace.done)):
                    _recover(approx, trace, callbacks, problem)
                    continue
                for callback in due:
                    trace.caller, trace.shown = callback, _storages(approx)
                    callback(approx, trace.losses, trace.done)
                trace.caller = None
                progress.update(
                    trace.done - first, trace.losses, callbacks, last=trace.done == trace.end
                )
        if seconds < _SECONDS_PER_CALL / 2:
            chunk = min(chunk * 4, _LONGEST_CALL)
        elif seconds > 2 * _SECONDS_PER_CALL:
            chunk = max(chunk // 2, 1)
    return chunk


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


def _storages(approx: Approximation) -> list[Any]:
    """Return the arrays that hold the parameters now: a parameter that is set gets a new one."""
    return [parameter.container.storage[0] for parameter in approx.params]


def _not_finite(approx: Approximation, losses: np.ndarray | None, i: int) -> str | None:
    """Say where the loss or a parameter is NaN, naming variables and indices; None if nowhere."""
    bad = nan_parameters(approx)
    if not bad and (losses is None or not np.isnan(losses[-1])):
        return None
    where = "\n".join(bad) or "Every parameter is finite still: the log density itself is NaN."
    return (
        f"NaN occurred in optimization at step {i}.\n{where}\n"
        "Try a smaller learning rate, another start, or priors that keep the log density finite."
    )


def _recover(
    approx: Approximation, trace: "_Trace", callbacks: Sequence[Callback], problem: str
) -> None:
    """Let the first callback that can (``NonFinite``) go back; raise FloatingPointError if none."""
    for callback in callbacks:
        if recover := getattr(callback, "recover", None):
            trace.caller = callback
            recover(approx, trace.losses, trace.done, problem)
            trace.caller = None
            return
    raise FloatingPointError(problem)


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
def versions() -> Mapping[str, str]:
    """Return the versions of the packages that a fit depends on."""
    return {"pymc_vi_ext": __version__, **{name: version(name) for name in _VERSIONS}}


def _loss_name(inference: Inference) -> str:
    # Stein methods alone do without log q.
    return NEGATIVE_ELBO if inference.objective.op.require_logq else "KSD"


def _one_step(loop: Loop) -> float | None:
    """Take one step as PyMC's own compiled step functions do, for its ``Inference.refine``."""
    losses = loop.run(1)
    loop.write_back()
    return None if losses is None else float(losses[0])


def _check_tempering(
    inference: Inference, n: int, convergence: str | None, saved: Saved | None
) -> None:
    """Raise where a tempered objective would end, or be averaged, before it is the posterior's."""
    steps = getattr(inference.objective.op, "steps", 0)
    # Without a stopping rule the iterates of the second half are averaged.
    needed = steps + 1 if convergence else 2 * steps
    if steps and saved is None and n < needed:
        raise ValueError(
            f"The objective is tempered for its first {steps:,} steps, and n={n:,} ends too soon: "
            f"take at least {needed:,}, or Tempered(steps=...) with fewer."
        )


def check_steps(n: int) -> None:
    """Raise a ValueError if `n` is no number of steps."""
    if not isinstance(n, int | np.integer) or n < 0:
        raise ValueError(f"The number of steps `n` must be a whole number from 0, not {n!r}.")


def check_callbacks(callbacks: Sequence[Callback] | None) -> Sequence[Callback]:
    """Return `callbacks` as a list; raise where one cannot be called or two do not go together."""
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
    constant = [c for c in callbacks if getattr(c, "needs_constant_rate", False)]
    changing = [c for c in callbacks if getattr(c, "changes_rate", False)]
    if constant and changing:
        raise ValueError(
            f"{_name(constant[0])} needs a constant learning rate, and {_name(changing[0])} "
            "changes it: use one of them."
        )
    return callbacks


def _rule(inference: Inference) -> Any:
    """Return the rule that ends a fit of `inference` by itself."""
    own = getattr(inference, "stopping_rule", None)
    return StagedStop() if own is None else own()


def _name(callback: Callback | None) -> str:
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
