"""The loop of every fit: take some steps, call the callbacks, report.

Written once for all methods and engines. Behind :func:`pymc_vi_ext.fit`, and behind ``fit`` and
``refine`` of the package's own methods, so that ``pm.fit(method=vix.ADVI())`` takes it too.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import time

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext import __version__
from pymc_vi_ext.approximations.parameters import flat_parameters, set_parameters
from pymc_vi_ext.callbacks import Callback, Rule
from pymc_vi_ext.callbacks.callback import Losses, OutOfTime, Unsettled, as_callbacks
from pymc_vi_ext.callbacks.checkpoint import Saved, describe_option
from pymc_vi_ext.diagnostics.pareto import GOOD_KHAT, NEARLY_EQUAL
from pymc_vi_ext.engine import GrowingProgram, Loop, StepProgram, make_loop
from pymc_vi_ext.errors import INTERRUPT, ApproximationWarning, ConvergenceWarning, warn
from pymc_vi_ext.interrupts import allowed, held
from pymc_vi_ext.khat_at_end import khat_at_end
from pymc_vi_ext.method import Ending, Method, Request
from pymc_vi_ext.progress import FitProgress, NoProgress, fit_progress, mean_at_end
from pymc_vi_ext.results import (
    NEGATIVE_ELBO,
    FitReport,
    StopReason,
    Timings,
)
from pymc_vi_ext.session import Session, mark_interrupted, open_session, split_rule
from pymc_vi_ext.state import FitState
from pymc_vi_ext.support import causes_of_infinity
from pymc_vi_ext.upstream import State, default_progress_theme, layout, storage
from pymc_vi_ext.watching import Shown, is_watched

logger = logging.getLogger(__name__)

# Draws of a result that is to have a density everywhere, and those of them where each reads all of
# a large data set.
_DRAWS, _FEW_PASSES = 300, 64
# Steps between two looks at the progress bar and the keyboard take about this long.
_SECONDS_PER_CALL = 0.1
_LONGEST_CALL = 1 << 20  # steps
_VERSIONS = ("pymc", "pytensor", "jax", "numpy")
_GO_ON = "`vix.correct(approx)` goes on from here to the posterior."
_OWN_OPTIONS = ("obj_n_mc", "obj_optimizer", "learning_rate", "compile_kwargs", "devices")


@dataclass
class Call:
    """How one call of the loop runs, whatever its steps are.

    Attributes
    ----------
    callbacks : sequence of callable
        The user's, as given; ``callback(approx, losses, i)`` after step ``i`` (from 1).
    progressbar : bool
    theme : rich.theme.Theme
    include_transformed : bool or None
        As in PyMC; None leaves it as it is.
    random_seed : int, optional
        Of the draws; by default from the approximation's own generator.
    options : mapping, optional
        What a checkpoint needs to call :func:`pymc_vi_ext.fit` again.
    saved : Saved, optional
        A checkpoint to go on from; `n` then counts the steps left.
    in_nats : bool
        Whether the losses recorded are in nats of the full data; otherwise in PyMC's unit, which is
        scaled to the minibatch.
    started : float, optional
        When the call began that seconds are counted from; by default now. Before it lies the
        construction of the method.
    warns : bool
        Whether to warn of what the report says; else it is the caller's to do.
    label : str
        Which of several fits of a method this is, for the progress bar.
    make_loop : callable
        What compiles the program of the steps.
    """

    callbacks: Sequence[Any] = ()
    progressbar: bool = True
    theme: Any = default_progress_theme
    include_transformed: bool | None = None
    random_seed: int | None = None
    options: Mapping[str, Any] | None = None
    saved: Saved | None = None
    in_nats: bool = False
    started: float = field(default_factory=time.perf_counter)
    warns: bool = True
    label: str = ""
    make_loop: Callable[..., Loop] = make_loop


@is_watched(lambda method, n, call, **options: {"n": n, **options})
def fit_method(
    method: Method,
    n: int,
    call: Call,
    *,
    score: bool | None = None,
    backend: str | None = "auto",
    convergence: str | Rule | None = None,
    **options: Any,
) -> Approximation:
    """Fit `method` from its present parameters, with a new optimizer state.

    A second call with the same options runs the program compiled by the first.

    Parameters
    ----------
    method : Method
    n : int
        Number of steps, at most.
    call : Call
    score : bool, optional
        Whether to compute the loss; by default where the objective has one.
    backend : {"auto", "jax", "numba", "c"}, optional
    convergence : {None, "default"}, name or Rule
        What stops the fit; see :func:`pymc_vi_ext.fit`.
    **options
        `obj_n_mc`, `obj_optimizer`, `learning_rate`, `compile_kwargs`, `devices`, and the others
        of :meth:`pymc.variational.opvi.ObjectiveFunction.updates`.

    Returns
    -------
    Approximation
        With ``hist`` (losses) and ``report`` (:class:`~pymc_vi_ext.results.FitReport`).
    """
    approx = method.approx
    with held(functools.partial(mark_interrupted, approx)):
        _fit(method, n, call, score, backend, convergence, options)
    return approx


def _fit(
    method: Method,
    n: int,
    call: Call,
    score: bool | None,
    backend: str | None,
    convergence: str | Rule | None,
    options: Mapping[str, Any],
) -> None:
    clock = _Clock(call.started - method.construct_s, call.saved)
    method.construct_s = 0.0
    check_steps(n)
    callbacks, rule = split_rule(as_callbacks(call.callbacks), convergence)
    if rule is not convergence and call.options is not None:
        # A file that is resumed has to know that this rule judges, and not the default.
        call = replace(call, options={**call.options, "convergence": describe_option(rule)})
    _check_options(method, {"callbacks": callbacks or None, **options})
    _check_tempering(method, n, rule, call.saved)
    given = {name: value for name, value in options.items() if value is not None}
    request = Request(
        backend=(backend or "auto").lower(),
        scored=method.scored and score is not False,
        **{name: given.pop(name) for name in _OWN_OPTIONS if name in given},
        more=given,
        make_loop=call.make_loop,
    )
    clock.construct_s = clock.spent()
    with _drawn(method, call) as progress:
        progress.say("compiling")
        try:
            session, new = open_session(method, request, rule)
        except KeyboardInterrupt:
            method.session = None
            clock.graph_s = clock.spent() - clock.construct_s
            end_before_steps(method, call, request.backend, clock.timings())
            progress.finish(method.approx.report, clock.spent())
            return
        prepared = session.prepared
        if new:
            clock.compile_s = prepared.loop.compile_s
            clock.graph_s = max(clock.spent() - clock.construct_s - clock.compile_s, 0.0)
        seed, beginning = call.random_seed, ""
        if call.saved is None:
            before = clock.spent()
            try:
                own = method.seed if seed is None else seed
                beginning = method.find_beginning(session.request, n, own)
            except KeyboardInterrupt:
                clock.construct_s += clock.spent() - before
                end_before_steps(method, call, prepared.loop.backend, clock.timings())
                progress.finish(method.approx.report, clock.spent())
                return
            clock.construct_s += clock.spent() - before
        rng = method.approx.groups[0].rng
        prepared.program.restart(int(rng.randint(2**30)) if seed is None else seed)
        session.seed = seed if seed is not None else method.seed
        session.losses = np.empty(0) if request.scored else None
        session.steps = 0
        session.options = call.options
        session.unit = 1.0 if call.in_nats else prepared.unit
        if session.request.rule is not None:
            session.request.rule.clear()
        _run(method, session, n, call, callbacks, clock, progress)
    if beginning:
        report: FitReport = method.approx.report
        evidence = "; ".join(filter(None, [report.evidence, beginning]))
        method.approx.report = replace(report, evidence=evidence)
    if call.warns:
        warn_of(method.approx)


def refine_method(method: Method, n: int, call: Call) -> None:
    """Take `n` more steps where the last ``fit`` of `method` stopped, compiling nothing."""
    if method.session is None or method.state is None:
        raise TypeError("Need to call `.fit` first")
    check_steps(n)
    call.callbacks = method.state.callbacks
    callbacks, _ = split_rule(as_callbacks(call.callbacks), None)
    with held(functools.partial(mark_interrupted, method.approx)):
        with _drawn(method, call, method.session.options) as progress:
            _run(method, method.session, n, call, callbacks, _Clock(call.started), progress)
        warn_of(method.approx)


def end_before_steps(method: Method, call: Call, backend: str | None, timings: Timings) -> None:
    """Report a fit that Ctrl-C ended before its first step: where it starts is its result.

    What was being compiled is gone; ``refine`` needs another ``fit``.
    """
    approx, method.state = method.approx, None
    approx.hist = method.hist
    if call.include_transformed is not None:
        for group in approx.groups:
            group.include_transformed = call.include_transformed
    approx.report = FitReport(
        stop_reason=StopReason.INTERRUPTED,
        stopped_by=None,
        steps=0,
        evidence=f"{INTERRUPT} before the first step",
        timings=timings,
        backend=backend or "auto",
        seed=method.seed if call.random_seed is None else call.random_seed,
        versions=versions(),
        method=_called(method, call.options),
    )


class _Clock:
    """Where the seconds of a fit went, those before a checkpoint that it goes on from included."""

    def __init__(self, started: float, saved: Saved | None = None):
        self._started = started
        # Files from before they had them do not say.
        unknown = dict.fromkeys(("construct_s", "graph_s", "compile_s", "run_s"), math.nan)
        seconds = {} if saved is None else saved.header.get("seconds", unknown)
        self._earlier = Timings(**seconds) if seconds else None
        self.construct_s = self.graph_s = self.compile_s = 0.0

    def spent(self) -> float:
        """Return all seconds until now."""
        return time.perf_counter() - self._started

    def timings(self) -> Timings:
        """Return the seconds, those of the steps being what is left of all until now."""
        before = self.construct_s + self.graph_s + self.compile_s
        run_s = max(self.spent() - before, 0.0)
        own = Timings(self.construct_s, self.graph_s, self.compile_s, run_s)
        return own if self._earlier is None else self._earlier + own


def _run(
    method: Method,
    session: Session,
    n: int,
    call: Call,
    callbacks: Sequence[Callback],
    clock: _Clock,
    progress: FitProgress | NoProgress,
) -> None:
    """Take `n` steps and leave everything that PyMC users read on `method` and its approx."""
    approx, rule, loop = method.approx, session.request.rule, session.prepared.loop
    n = n if method.takes_steps else 0
    compiled_before = loop.compile_s
    _begin(method, session, n, call, callbacks, clock)
    trace = _Trace(session.losses, session.steps, n, session.unit)
    before = session.steps
    progress.begin(before, n, is_bound=rule is not None)
    with _kept(trace) as kept:
        watching = approx.fit_state.callbacks
        looking = Shown(progress, approx, before)
        session.chunk = _steps(loop, approx, trace, watching, looking, session.chunk)
    ending = kept.ending
    approx.fit_state.sync()
    # PyMC keeps the loss of a step once its callbacks have returned: not where one of them ends it.
    recorded = trace.done - (trace.caller is not None and ending.error is None)
    trace.caller = None
    # A checkpoint of the last step has no steps left, and no result yet.
    if (trace.done > session.steps or call.saved is not None) and not ending.has_result:
        _set_result(session, approx)
    if rule is not None and ending.reason is StopReason.COMPLETED and n:
        ending.evidence = f"not converged: {rule.shortfall}"
        ending.warnings.append(
            f"The fit took all of its {n:,} steps before it converged ({rule.shortfall}). "
            "Raise `n`, or `refine`; `approx.report.evidence` keeps this."
        )
    if trace.losses is not None:
        method.hist = np.concatenate([method.hist, trace.losses[session.steps : recorded]])
    approx.hist = method.hist
    if ending.error is None:
        with _kept(trace, ending):
            _look_outside(session, approx, trace, ending)
    session.losses, session.steps = trace.losses, trace.done
    if ending.error is None:
        with _kept(trace, ending):
            _conclude(method, ending)
            _name_causes(approx, ending)
    if ending.reason is StopReason.CONVERGED and math.isnan(ending.khat):
        with _kept(trace, ending):
            ending.khat, ending.weights_worth = khat_at_end(method, session, approx.fit_state)
    method.state = State(
        trace.done,
        step=functools.partial(_one_step, loop),
        callbacks=call.callbacks,
        score=trace.losses is not None,
    )
    if call.include_transformed is not None:
        for group in approx.groups:
            group.include_transformed = call.include_transformed
    clock.compile_s += loop.compile_s - compiled_before
    approx.report = FitReport(
        stop_reason=ending.reason,
        stopped_by=ending.stopped_by,
        steps=trace.done,
        evidence=ending.evidence,
        timings=clock.timings(),
        backend=loop.backend,
        seed=session.seed,
        versions=versions(),
        loss="" if trace.losses is None else _loss_name(method, session.unit),
        warnings=tuple(ending.warnings),
        khat=ending.khat,
        weights_worth=ending.weights_worth,
        method=_called(method, session.options),
        mean_loss=mean_at_end(trace.losses),
        rule="" if rule is None else rule.name,
    )
    progress.finish(approx.report, clock.spent())
    if ending.error is not None:
        ending.error.approx = approx  # type: ignore[attr-defined]
        raise ending.error


def warn_of(approx: Approximation) -> None:
    """Warn of what the report of a fit says; nothing is lost by then, if warnings are errors."""
    report: FitReport = approx.report
    for message in report.warnings:
        warn(ConvergenceWarning(message, approx))
    # Of draws that were corrected it is where they come from that it judges; and a tail of weights
    # that are nearly equal has a shape too.
    far = report.khat > GOOD_KHAT and not report.weights_worth >= NEARLY_EQUAL
    if report.correction is None and far:
        warn(
            ApproximationWarning(
                "The fit has converged, to what is far from the posterior: k-hat of its importance "
                f"weights is {report.khat:.2f}, good below {GOOD_KHAT}. Go on to the posterior by "
                'vix.correct(approx), or fit by method="auto".',
                approx,
            )
        )


def _drawn(
    method: Method, call: Call, options: Mapping[str, Any] | None = None
) -> AbstractContextManager[FitProgress | NoProgress]:
    """Return what shows the progress of a call, under the name of its method."""
    name = _called(method, options or call.options)
    label = f"{name}, {call.label}" if call.label else name
    return fit_progress(label, call.progressbar, call.theme)


def _called(method: Method, options: Mapping[str, Any] | None) -> str:
    """Return what :func:`pymc_vi_ext.fit` was given, by name; else the class of the method."""
    given = {} if options is None else options
    return given["method"].lower() if isinstance(given.get("method"), str) else method.name


def _loss_name(method: Method, unit: float) -> str:
    """Say what the losses are, and in which unit where that is not nats of the full data."""
    return method.loss_name if unit == 1 else f"{method.loss_name} / {unit:g}"


def _begin(
    method: Method,
    session: Session,
    n: int,
    call: Call,
    callbacks: Sequence[Callback],
    clock: _Clock,
) -> None:
    """Let everybody know that `n` steps begin, those of a checkpoint where it was saved."""
    approx, rule, prepared, saved = (
        method.approx,
        session.request.rule,
        session.prepared,
        call.saved,
    )
    if saved is not None:
        session.steps, session.losses = saved.header["step"], saved.losses
        if saved.losses is not None:
            method.hist = saved.losses
    watching = sorted([*callbacks, *([rule] if rule else [])], key=lambda c: c.comes_last)
    approx.fit_state = FitState(
        approx,
        prepared.program,
        prepared.loop,
        prepared.optimizer,
        watching,
        session.steps + n,
        clock.timings,
        session.options,
        method.loss_name == NEGATIVE_ELBO,
        session.unit,
    )
    approx.fit_state.step = session.steps
    for callback in watching:
        callback.begin_steps()
    if rule is not None:
        rule.wait_until = method.tempered_steps
    if saved is not None:
        saved.restore(approx.fit_state)
        return
    if rule is not None:
        rule.begin(approx)
    prepared.optimizer.begin(n)


def _set_result(session: Session, approx: Approximation) -> None:
    """Set the parameters to averages: however a fit ends, they are better than its last iterate.

    After a NaN the average is that of the iterates before it, where the rule has one.
    """
    rule = session.request.rule
    average = None if rule is None or approx.any_histograms else rule.average()
    if average is not None and np.isfinite(average).all():
        set_parameters(approx, average)
    session.prepared.optimizer.finish()


def _look_outside(session: Session, approx: Approximation, trace: _Trace, ending: Ending) -> None:
    """Take back that a fit has converged where mass of its result has an infinite loss; say why."""
    state = approx.fit_state
    program = isinstance(state.program, StepProgram | GrowingProgram)
    if trace.losses is None or not (program and state.minimises_elbo):
        return
    rule = session.request.rule
    looked = rule is not None and rule.looks_outside and rule.name == ending.stopped_by
    if ending.reason is StopReason.CONVERGED and not looked:
        draws = _FEW_PASSES if state.reads_all_data else _DRAWS
        outside = ~np.isfinite(state.losses_at([flat_parameters(approx)], draws, 0))
        if outside.any():
            ending.reason, ending.outside = StopReason.STOPPED, True
            ending.evidence += f"; but {outside.mean():.2g} of the losses there are infinite"
            ending.warnings.append(f"The fit has not converged: {ending.evidence}. {_GO_ON}")
    elif ending.reason is StopReason.COMPLETED and rule is not None:
        ending.outside = bool(np.isinf(trace.losses[-_DRAWS:]).any())


def _name_causes(approx: Approximation, ending: Ending) -> None:
    """Add to evidence and warnings which variables and Potentials have no density at some draws."""
    causes = causes_of_infinity(approx) if ending.outside else []
    if causes:
        where = f"No density at some of its draws: {', '.join(causes)}."
        ending.evidence = f"{ending.evidence}. {where}"
        bound = "Where that is a bound, write it as the support of a prior, which is transformed."
        ending.warnings = [f"{warning} {where} {bound}" for warning in ending.warnings]


def _conclude(method: Method, ending: Ending) -> None:
    before = [(parameter, parameter.get_value()) for parameter in method.approx.params]
    try:
        # It may climb to a mode: Ctrl-C is not kept waiting.
        with allowed():
            conclusion = method.conclude(ending)
    except KeyboardInterrupt:
        for parameter, value in before:
            parameter.set_value(value)
        raise
    ending.evidence = "; ".join(filter(None, [ending.evidence, conclusion.evidence]))
    ending.warnings += [conclusion.warning] if conclusion.warning else []
    ending.khat, ending.weights_worth = conclusion.khat, conclusion.weights_worth


class _Trace:
    """Steps done and their losses, in a buffer that grows once."""

    def __init__(self, losses: Losses, done: int, n: int, unit: float):
        self.unit = unit
        self.done, self.end = done, done + n
        self.caller: Callback | None = None
        # The parameters and their storages before that callback was called.
        self.shown: list[Any] = []
        self.parameters: Sequence[Any] = ()
        self._buffer = None if losses is None else np.concatenate([losses, np.empty(n)])

    @property
    def losses(self) -> Losses:
        return None if self._buffer is None else self._buffer[: self.done]

    def extend(self, steps: int, losses: Losses) -> None:
        if self._buffer is not None and losses is not None:
            self._buffer[self.done : self.done + len(losses)] = losses / self.unit
        self.done += steps

    def call(self, callback: Callback, approx: Approximation) -> None:
        """Call a callback, and remember which and what it saw until it returns."""
        self.caller, self.parameters = callback, approx.params
        self.shown = _storages(self.parameters)
        callback(approx, self.losses, self.done)
        self.caller = None

    @property
    def result_was_set(self) -> bool:
        """Whether the callback that did not return has set a parameter."""
        now = _storages(self.parameters)
        return any(new is not old for new, old in zip(now, self.shown, strict=True))


@dataclass
class _Kept:
    ending: Ending


@contextlib.contextmanager
def _kept(trace: _Trace, ending: Ending | None = None) -> Iterator[_Kept]:
    """Turn whatever ends the block into an :class:`Ending`, so that the fit so far is kept."""
    kept = _Kept(Ending() if ending is None else ending)
    end = kept.ending
    try:
        yield kept
    except OutOfTime as stop:
        # In the middle of what another callback did: its parameters are no result.
        end.reason, end.stopped_by, end.evidence = StopReason.STOPPED, stop.callback.name, str(stop)
        logger.info("Stopped by %s at step %d: %s", end.stopped_by, trace.done, stop)
    except StopIteration as stop:
        caller = trace.caller
        # A callback that set the parameters has said what the result is.
        end.has_result = trace.result_was_set
        lost = isinstance(stop, Unsettled)
        end.outside = isinstance(stop, Unsettled) and stop.outside
        converged = caller is not None and caller.finds_convergence and not lost
        end.reason = StopReason.CONVERGED if converged else StopReason.STOPPED
        end.stopped_by, end.evidence = caller and caller.name, str(stop)
        if lost:
            end.warnings.append(f"The fit ended and has not converged: {stop}. {_GO_ON}")
        logger.info("Stopped by %s at step %d: %s", end.stopped_by, trace.done, stop)
    except KeyboardInterrupt:
        end.reason, end.evidence = StopReason.INTERRUPTED, INTERRUPT
        logger.info("Interrupted at step %d", trace.done)
    except FloatingPointError as failure:
        end.reason, end.evidence, end.error = StopReason.NOT_FINITE, str(failure), failure
    except Exception as failure:
        end.reason, end.evidence, end.error = StopReason.FAILED, repr(failure), failure
        end.stopped_by = trace.caller and trace.caller.name
        failure.add_note(
            (f"Raised by the callback {end.stopped_by}" if end.stopped_by else "Raised by the fit")
            + f" at step {trace.done}. The fit up to there is kept: this exception's `approx`, "
            "with `approx.hist` and `approx.report`."
        )


def _steps(
    loop: Loop,
    approx: Approximation,
    trace: _Trace,
    callbacks: Sequence[Callback],
    progress: Any,
    chunk: int,
) -> int:
    """Take the steps of `trace`; returns how many filled a call at the end."""
    first, state = trace.done, approx.fit_state
    while trace.done < trace.end:
        every, times = _plan(callbacks, trace.done, trace.end, chunk)
        began, before, seconds = trace.done, loop.run_s, 0.0
        with contextlib.closing(loop.intervals(every, times)) as intervals:
            for losses in intervals:
                seconds = seconds or loop.run_s - before
                trace.extend(every if losses is None else len(losses), losses)
                state.step = trace.done
                suspect = losses is None or np.isnan(losses[-1])
                due = [c for c in callbacks if not c.at_pauses and trace.done % c.every == 0]
                if due or suspect:
                    loop.write_back(internals=False)
                if suspect and (problem := _not_finite(approx, losses, trace.done)):
                    _recover(approx, trace, callbacks, problem)
                    continue
                state.pause()
                for callback in due:
                    trace.call(callback, approx)
                progress.update(trace.done - first, trace.losses, callbacks)
        for callback in [c for c in callbacks if c.at_pauses]:
            trace.call(callback, approx)
        if seconds < _SECONDS_PER_CALL / 2:
            chunk = min(chunk * 4, _LONGEST_CALL)
        elif seconds > 2 * _SECONDS_PER_CALL:
            # Steps that have become slow, on all data for instance, are few at once.
            fit = int((trace.done - began) * _SECONDS_PER_CALL / seconds)
            chunk = max(min(chunk // 2, fit), 1)
    return chunk


def _plan(callbacks: Sequence[Callback], done: int, end: int, chunk: int) -> tuple[int, int]:
    """Return how many steps to take, and how many times over, of about `chunk` in all.

    A run of steps ends where a callback may be due; several runs follow each other only where
    each ends so.
    """
    rhythms = [callback.every for callback in callbacks if not callback.at_pauses]
    if not rhythms:
        return min(chunk, end - done), 1
    rhythm = math.gcd(*rhythms)
    left = min(rhythm - done % rhythm, end - done)
    if left < rhythm or chunk < rhythm:
        return min(left, chunk), 1
    return rhythm, min(chunk, end - done) // rhythm


def _storages(parameters: Sequence[Any]) -> list[Any]:
    """Return the arrays that hold the parameters now: a parameter that is set gets a new one."""
    return [storage(parameter) for parameter in parameters]


def _not_finite(approx: Approximation, losses: Losses, i: int) -> str | None:
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
    approx: Approximation, trace: _Trace, callbacks: Sequence[Callback], problem: str
) -> None:
    """Let the first callback that can go back; raise FloatingPointError if none."""
    trace.parameters, trace.shown = approx.params, _storages(approx.params)
    for callback in callbacks:
        trace.caller = callback
        if callback.recover(approx, trace.losses, trace.done, problem):
            trace.caller = None
            return
    trace.caller = None
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
            for name, (where, _) in layout(group).items():
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


def _one_step(loop: Loop) -> float | None:
    """Take one step as PyMC's own compiled step functions do, for its ``Inference.refine``."""
    with held():
        losses = loop.run(1)
        loop.write_back()
    return None if losses is None else float(losses[0])


def check_steps(n: int) -> None:
    """Raise a ValueError if `n` is no number of steps."""
    if not isinstance(n, int | np.integer) or n < 0:
        raise ValueError(f"The number of steps `n` must be a whole number from 0, not {n!r}.")


def _check_options(method: Method, options: Mapping[str, Any]) -> None:
    """Raise where an option is none of this method's."""
    refused = [
        name for name, value in options.items() if value is not None and name not in method.accepts
    ]
    if refused:
        raise ValueError(f"{method.name} {method.refusal}: leave out {refused[0]}.")
    if options.get("learning_rate") is not None and options.get("obj_optimizer") is not None:
        raise ValueError(
            "Give either `learning_rate`, which is the default optimizer's, or `obj_optimizer` "
            "with a rate of its own, not both."
        )
    draws = options.get("obj_n_mc")
    if draws is not None and not draws >= 1:
        raise ValueError(f"`obj_n_mc` counts draws a step, at least 1, not {draws!r}.")


def _check_tempering(
    method: Method, n: int, convergence: str | Rule | None, saved: Saved | None
) -> None:
    """Raise where a tempered objective would end, or be averaged, before it is the posterior's."""
    steps = method.tempered_steps
    # Without a stopping rule the iterates of the second half are averaged.
    needed = steps + 1 if convergence else 2 * steps
    if steps and saved is None and n < needed:
        raise ValueError(
            f"The objective is tempered for its first {steps:,} steps, and n={n:,} ends too soon: "
            f"take at least {needed:,}, or Tempered(steps=...) with fewer."
        )
