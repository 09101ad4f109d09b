"""``fit``: names and defaults to objects."""

from __future__ import annotations

import inspect
import time

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pymc as pm

from pymc.model import modelcontext
from pymc.variational.inference import Inference
from pymc.variational.opvi import Approximation

from pymc_vi_ext.beginning_anew import fit_or_begin_anew
from pymc_vi_ext.callbacks import Rule
from pymc_vi_ext.callbacks.checkpoint import (
    CheckpointError,
    describe_option,
    option,
    read,
)
from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.inference import METHODS, GroupedADVI, method_of
from pymc_vi_ext.inference._start_values import check_start
from pymc_vi_ext.inference.base import known_options
from pymc_vi_ext.interrupts import held
from pymc_vi_ext.loop import Call, end_before_steps, fit_method, warn_of
from pymc_vi_ext.method import Method
from pymc_vi_ext.multistart import fit_several
from pymc_vi_ext.objectives import OBJECTIVES, Objective
from pymc_vi_ext.options import positive, whole_number
from pymc_vi_ext.python_only import building
from pymc_vi_ext.results import Timings
from pymc_vi_ext.session import mark_interrupted
from pymc_vi_ext.starting_points import StartingPoint, begin_at, is_point
from pymc_vi_ext.upstream import default_progress_theme
from pymc_vi_ext.watching import is_watched


def _given(*args: Any, **kwargs: Any) -> dict[str, Any]:
    return inspect.signature(fit).bind_partial(*args, **kwargs).arguments


@is_watched(_given)
def fit(
    n: int = 100_000,
    method: str | Inference = "advi",
    model: pm.Model | None = None,
    random_seed: int | None = None,
    start: StartingPoint = None,
    start_sigma: Mapping[str, Any] | None = None,
    inf_kwargs: Mapping[str, Any] | None = None,
    *,
    backend: str | None = "auto",
    devices: int | str | Sequence[Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    convergence: str | Rule | None = "default",
    objective: Any = "elbo",
    obj_n_mc: int | None = None,
    obj_optimizer: Any = None,
    learning_rate: float | None = None,
    n_starts: int = 1,
    groups: Mapping[str, Sequence[str]] | None = None,
    progressbar: bool = True,
    progressbar_theme: Any = default_progress_theme,
    score: bool | None = None,
    include_transformed: bool = False,
    max_seconds: float | None = None,
    **pm_fit_kwargs: Any,
) -> Approximation:
    """Fit a variational approximation; takes the place of :func:`pymc.fit`.

    Parameters
    ----------
    n : int
        Number of steps, at most; exactly, with ``convergence=None``.
    method : str or pymc.Inference
        ``"auto"``: draws of the posterior with a verdict, by deterministic ADVI and
        :func:`pymc_vi_ext.correct`. Or the approximation of one family, and no more than that:
        ``"advi"``, ``"fullrank_advi"``, ``"lowrank_advi"``, ``"studentt_advi"``,
        ``"mixture_advi"``, ``"flow_advi"``, ``"bam"``, ``"dadvi"``, ``"laplace"``,
        ``"pathfinder"``, ``"svgd"``, ``"asvgd"`` in any case, or an inference
        object, PyMC's own (a ``KLqp`` over groups, say) included.
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
        The same seed gives the same losses on the same backend.
    start : mapping of str to array, str, DataTree or Approximation, optional
        Starting point by name of the variables, on the model's space; or where to find one:
        ``"prior"`` (a draw), ``"map"``, ``"laplace"``, ``"pathfinder"``, a posterior, or an
        earlier approximation of the same model, of any family. All but the first two give the
        starting scales too.
    start_sigma : mapping of str to array, optional
        Starting standard deviations on the unconstrained space, by name of the variables; for
        ``"advi"`` only.
    inf_kwargs : mapping, optional
        For the constructor of the method, ``{"n_particles": 1000}`` for ``"svgd"`` for instance.
    backend : {"auto", "jax", "numba", "c"}
        "auto" takes JAX, and numba, with a warning that names the Op, where JAX lacks one.
    devices : int, "all" or sequence of jax.Device, optional
        Devices of JAX that share the work of a step: its particles, else the draws of `obj_n_mc`,
        else the rows of the data. The result is that of one device but for rounding. By default
        the one that JAX takes; "all" includes those of other processes of ``jax.distributed``.
    callbacks : sequence of callable, optional
        Called as ``callback(approx, losses, i)`` after step ``i`` (from 1). One with an attribute
        `every` is called every that many steps, and the engine takes those in one call.
        ``raise StopIteration(reason)`` ends the fit.
    convergence : {"default", None}, name in `pymc_vi_ext.callbacks.RULES`, or Rule
        "default" ends the fit where averages of the iterates, at falling learning rates, have the
        same ELBO within .015 nat or so (:class:`pymc_vi_ext.callbacks.StagedStop`; ``"bam"`` and
        ``"dadvi"`` have rules of their own), warns where `n` steps do not suffice for that, and
        gives the average as result. A rule of your own options takes its place:
        ``StagedStop(tolerance=0.005)``. With None the fit takes exactly `n` steps. In all cases
        a callback may end it earlier.
    objective : {"elbo", "iwelbo", "renyi", "tempered"} or an object of `pymc_vi_ext.objectives`
        What a method of the ELBO minimises, with its defaults or options of its own:
        ``Renyi(alpha=0.3, K=16)``. ``"tempered"`` is for ``"svgd"`` and ``"asvgd"`` too.
    obj_n_mc : int, optional
        Draws a step for the gradient: by default 1, for ``"asvgd"`` 500, for ``"flow_advi"`` and
        ``"bam"`` 32.
    obj_optimizer : callable, optional
        Any of PyMC's optimizers. By default Adam in units of the approximation's own standard
        deviations (:class:`pymc_vi_ext.optimizers.WhitenedAdam`); with ``convergence=None`` Adam
        with a learning rate that falls over the `n` steps, and as result the average of the
        iterates of the second half (:class:`pymc_vi_ext.optimizers.AnnealedAdam`).
    learning_rate : float, optional
        First rate of the default optimizer: 0.1 if not given, 0.05 with ``convergence=None``
        (of ``"flow_advi"`` 0.003).
    n_starts : int
        Fits from so many starts, with one compiled program, keeps that of the highest ELBO and
        reports all: ``approx.report.starts``. Modes far apart need it.
    groups : mapping of str to sequence of str, optional
        A family for each block of variables, by name: ``{"full_rank": ["mu", "tau"],
        "mean_field": ["theta"]}``, in place of the one that ``method="advi"`` has.
    progressbar : bool
        Whether to show how far the fit is: steps, loss, steps per second, what the stopping rules
        measure, and the time left where the number of steps is known; in the end how it went. In a
        terminal, and in notebooks without widgets; elsewhere plain lines, after 10 seconds, every
        30, and at the end.
    progressbar_theme : rich.theme.Theme, optional
    score : bool, optional
        Whether to record the loss; by default where the method has one.
    include_transformed : bool
        As in :func:`pymc.fit`.
    max_seconds : float, optional
        Of ``method="auto"``, which ends with its best draws after so many: 120 if not given.
        ``callbacks=[WallTime(60)]`` ends a fit of the others.
    **pm_fit_kwargs
        The other options of :func:`pymc.fit`: `more_replacements`, `more_updates`,
        `total_grad_norm_constraint`, `compile_kwargs` ... A ``compile_kwargs["mode"]`` names the
        backend in place of `backend`.

    Returns
    -------
    Approximation
        PyMC's own, with two attributes more: ``hist``, the loss of each step (the negative ELBO
        in nats; of ``"svgd"`` and ``"asvgd"`` the kernelised Stein discrepancy), and ``report``, a
        :class:`~pymc_vi_ext.results.FitReport`. After Ctrl-C it is the approximation so far, the
        start if no step has been taken; while the method itself is constructed,
        KeyboardInterrupt is raised. As in PyMC, ``hist`` is without the step at which
        a rule or a callback ended the fit; ``report.steps`` counts it.

        That of ``"auto"`` is an :class:`~pymc_vi_ext.Empirical` over settled draws: ``draws`` holds
        them as :func:`pymc_vi_ext.correct` returns them, ``report.verdict`` says whether they are
        the posterior's, ``report.rungs`` what was done; CONVERGED is a PASS.

        However the fit ends, the parameters are the best there is: what the callback that ended it
        has set them to, if it did; else the average that the rule keeps, or the default optimizer
        of ``convergence=None`` (from half of the `n` steps on; before that it is the last iterate).

    Warns
    -----
    ConvergenceWarning
        If the steps did not suffice for the rule, or the result has another flaw.
    ApproximationWarning
        If the fit has converged and k-hat of its importance weights, where that comes at no price
        (see ``report.khat``), is above .7: it is far from the posterior.

    Raises
    ------
    UnknownNameError
        If there is no such method, start, backend, or variable to start at; a ValueError and a
        KeyError.
    TypeError
        If the model has no free variables, `method` is neither a name nor an inference, or there is
        no such keyword.
    ValueError
        If values of `start` or `start_sigma` are not of their variable's shape; if there are no
        such `devices`, or nothing that they could share.
    ParametrizationError
        If a free variable is discrete.
    UnsupportedOpError
        With ``backend="jax"`` or `devices`, if the model has an Op that JAX cannot run.
    FloatingPointError
        If the loss becomes NaN. Like any exception out of a callback it carries the approximation
        so far as ``approx``.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 0.0, 1.0)
    ...     pm.Normal("y", mu, 1.0, observed=[0.7, 1.5, 1.0])
    ...     approx = vix.fit(random_seed=1, progressbar=False)
    y
    >>> approx.report.stop_reason.value, len(approx.hist) == approx.report.steps - 1
    ('converged', True)
    >>> round(float(approx.mean.eval()[0]), 1), round(float(approx.std.eval()[0]), 1)
    (0.8, 0.5)
    """
    started = time.perf_counter()
    pm_fit_kwargs = known_options(pm_fit_kwargs, inspect.signature(fit).parameters)
    beginning = _Beginning(start, start_sigma, whole_number("n_starts", n_starts))
    # All that makes the steps what they are: a checkpoint keeps it.
    options = {
        "method": method,
        "random_seed": random_seed,
        "inf_kwargs": inf_kwargs,
        "groups": groups,
        "backend": backend,
        "devices": devices,
        "convergence": convergence,
        "objective": objective,
        "obj_n_mc": obj_n_mc,
        "obj_optimizer": obj_optimizer,
        "learning_rate": learning_rate,
        "score": score,
        "include_transformed": include_transformed,
        **pm_fit_kwargs,
    }
    call = Call(callbacks or (), progressbar, progressbar_theme, started=started)
    if not isinstance(method, str) or method.lower() != "auto":
        if max_seconds is not None:
            raise ValueError(
                '`max_seconds` is for method="auto": end another fit by '
                f"`callbacks=[WallTime({max_seconds:g})]`."
            )
        return _fit(n, model, beginning, options, call)
    # Imported on use, as `correct` is: fits of one method do without.
    from pymc_vi_ext.automatic import MAX_SECONDS, fit_automatically

    _refuse_for_auto({**options, "n": n, "callbacks": callbacks, **vars(beginning)})
    model = modelcontext(model)

    def fit_by(name: str, watching: Sequence[Any]) -> Approximation:
        rung = replace(call, callbacks=watching, started=time.perf_counter(), warns=False)
        return _fit(n, model, beginning, {**options, "method": name}, rung)

    approx = fit_automatically(
        fit_by,
        model,
        random_seed=random_seed,
        backend=backend,
        max_seconds=MAX_SECONDS if max_seconds is None else positive("max_seconds", max_seconds),
        started=started,
        progressbar=progressbar,
    )
    warn_of(approx)
    return approx


@dataclass(frozen=True)
class _Beginning:
    """Where a fit begins, as :func:`fit` is told."""

    start: StartingPoint = None
    start_sigma: Mapping[str, Any] | None = None
    n_starts: int = 1


# Options that a user may give to "auto".
_OF_AUTO = frozenset({"method", "random_seed", "backend"})


def _refuse_for_auto(given: Mapping[str, Any]) -> None:
    """Raise a ValueError for options of the fit that ``method="auto"`` chooses itself."""
    defaults = inspect.signature(fit).parameters
    for name, value in given.items():
        default = defaults[name].default if name in defaults else inspect.Parameter.empty
        if name in _OF_AUTO or (type(value) is type(default) and value == default):
            continue
        raise ValueError(
            f'method="auto" chooses by itself how to fit: leave out {name}, or name a method.'
        )


def _fit(
    n: int,
    model: pm.Model | None,
    beginning: _Beginning,
    options: Mapping[str, Any],
    call: Call,
) -> Approximation:
    """Fit by one method."""
    start, n_starts, seed = beginning.start, beginning.n_starts, options["random_seed"]
    point: Any = start if is_point(start) else None
    fitted = _method(
        options["method"],
        model,
        seed,
        point,
        beginning.start_sigma,
        options["inf_kwargs"],
        options["groups"],
    )
    if fitted.finds_start and (n_starts != 1 or not is_point(start)):
        name = "start" if n_starts == 1 else "n_starts"
        raise ValueError(
            f"{fitted.name} finds its optimum by itself: leave out {name}"
            f"{'; values by name of the variables can start DADVI' * (name == 'start')}."
        )
    _set_objective(fitted, options["objective"])
    run = partial(_run, fitted, n, options, call)
    # What the user has chosen stands: where the fit begins, and how its steps are taken.
    inf_kwargs = options["inf_kwargs"] or {}
    chosen = (
        start or beginning.start_sigma or inf_kwargs.get("start"),
        options["obj_optimizer"],
        options["convergence"] is None,
    )
    usual = isinstance(options["method"], str) and not any(chosen)
    approx = fitted.approx
    # From here on there is a result: Ctrl-C returns it.
    with held(partial(mark_interrupted, approx)):
        if not is_point(start) and not _begin_at(fitted, start, seed):
            spent = Timings(time.perf_counter() - call.started, 0.0, 0.0, 0.0)
            end_before_steps(fitted, _with_options(call, options), options["backend"], spent)
        elif n_starts == 1 and usual:
            fit_or_begin_anew(fitted, options["backend"], run)
        elif n_starts == 1:
            run()
        else:
            call.warns = False
            fit_several(fitted, n_starts, seed, run)
            warn_of(approx)
    return approx


def _begin_at(method: Method, start: Any, seed: int | None) -> bool:
    """Begin where `start` says; tell whether it was found before an interrupt."""
    before = [(parameter, parameter.get_value()) for parameter in method.approx.params]
    try:
        with building():
            begin_at(method.approx, start, seed)
    except KeyboardInterrupt:
        for parameter, value in before:
            parameter.set_value(value)
        return False
    return True


# Options of a fit that are not of its steps.
_NOT_OF_STEPS = (
    *("method", "random_seed", "inf_kwargs", "groups", "objective", "score"),
    "include_transformed",
)


def _run(
    method: Method,
    n: int,
    options: Mapping[str, Any],
    call: Call,
    started: float | None = None,
    label: str = "",
) -> Approximation:
    """Run the loop; `started` is for a start that is not the first, `label` says which it is."""
    of_steps = {name: value for name, value in options.items() if name not in _NOT_OF_STEPS}
    call = _with_options(call, options)
    call.started, call.label = call.started if started is None else started, label
    return fit_method(method, n, call, score=options["score"], **of_steps)


def _with_options(call: Call, options: Mapping[str, Any]) -> Call:
    """Return `call` with what it needs to know of the options of :func:`fit`."""
    built = isinstance(options["method"], Inference)
    return replace(
        call,
        # A method built by name has its seed.
        random_seed=options["random_seed"] if built else None,
        options={name: describe_option(value) for name, value in options.items()},
        include_transformed=options["include_transformed"],
        in_nats=True,
    )


def resume(
    path: str | Path,
    model: pm.Model | None = None,
    *,
    callbacks: Sequence[Any] | None = None,
    progressbar: bool = True,
    **options: Any,
) -> Approximation:
    """Go on with a fit that :class:`~pymc_vi_ext.callbacks.Checkpoint` saved.

    The fit ends with the same losses and parameters, bit for bit, as one that was not
    interrupted, on the same machine and versions.

    Parameters
    ----------
    path : str or Path
        Of the checkpoint.
    model : pymc.Model, optional
        The model of the fit, built anew; by default the one on the context.
    callbacks : sequence of callable, optional
        The same as before, in the same order; those that keep a state get theirs back. Without
        the `Checkpoint` no more are written: pass it again to go on saving.
    progressbar : bool
    **options
        Of :func:`fit`, where the file could not hold them: an optimizer that is no plain one of
        PyMC's, an inference object as `method`. Others are in the file.

    Returns
    -------
    Approximation
        As of :func:`fit`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        A ValueError: if the file is damaged, or of another model, method or list of callbacks;
        it names what differs.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import pymc as pm, pymc_vi_ext as vix
    >>> path = pathlib.Path(tempfile.mkdtemp(), "fit.npz")
    >>> save = vix.callbacks.Checkpoint(path, every=100)
    >>> options = {"convergence": None, "random_seed": 1, "progressbar": False}
    >>> with pm.Model() as model:
    ...     x = pm.Normal("x")
    ...     whole = vix.fit(250, callbacks=[save], **options)
    >>> again = vix.resume(path, model, progressbar=False)  # from step 200
    >>> bool((whole.hist == again.hist).all())
    True
    """
    saved = read(path)
    if saved.header.get("options") is None:
        raise CheckpointError(
            f"The checkpoint {path} was not written by `vix.fit`: it holds no options to go on "
            "with. Its parameters can be read with `numpy.load`."
        )
    described = saved.header["options"]
    all_options = {
        name: options[name] if name in options else option(name, value)
        for name, value in described.items()
    }
    if unknown := [name for name in options if name not in described]:
        raise CheckpointError(
            f"The fit saved in {path} was started without {', '.join(unknown)}; it cannot go on "
            "with it."
        )
    started = time.perf_counter()
    method = _method(
        all_options["method"],
        model,
        all_options["random_seed"],
        None,
        None,
        None if "method" in options else all_options["inf_kwargs"],
        all_options["groups"],
    )
    _set_objective(method, all_options["objective"])
    saved.refuse_another(method.approx)
    left = saved.header["end"] - saved.header["step"]
    call = Call(callbacks or (), progressbar, saved=saved, started=started)
    return _run(method, left, all_options, call)


def _set_objective(method: Method, objective: Any) -> None:
    """Let `method` minimise `objective`, a name or an object."""
    if isinstance(objective, str):
        if objective.lower() not in OBJECTIVES:
            raise UnknownNameError("objective", objective, OBJECTIVES)
        objective = OBJECTIVES[objective.lower()]
    if not isinstance(objective, Objective):
        raise TypeError(
            f"`objective` is one of {', '.join(OBJECTIVES)} or an object of "
            f"pymc_vi_ext.objectives, not {objective!r}."
        )
    method.minimise(objective)


def _method(
    method: str | Inference,
    model: pm.Model | None,
    random_seed: int | None,
    start: Mapping[str, Any] | None,
    start_sigma: Mapping[str, Any] | None,
    inf_kwargs: Mapping[str, Any] | None,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Method:
    given = {"start": start, "start_sigma": start_sigma, "groups": groups, **(inf_kwargs or {})}
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(method, Inference):
        if given:
            raise ValueError(
                f"{', '.join(given)}: options for building a method by name; the "
                f"{type(method).__name__} given is built already, pass them to it."
            )
        return method_of(method)
    if not isinstance(method, str):
        raise TypeError(
            f"`method` is a name (auto, {', '.join(METHODS)}) or an inference object, not "
            f"{method!r}."
        )
    name = method.lower()
    if name not in METHODS:
        raise UnknownNameError("method", method, ("auto", *METHODS))
    if start_sigma is not None and name != "advi":
        raise NotImplementedError('`start_sigma` is for method "advi" only.')
    if groups is not None and name != "advi":
        raise ValueError(
            f'`groups` gives each block of variables a family of ADVI\'s: use method="advi", '
            f"not {method!r}."
        )
    check_start(given.get("start"), modelcontext(model))
    # Each has a constructor of its own; all take these.
    kind: Any = METHODS[name] if groups is None else GroupedADVI
    built: Method = kind(model=model, random_seed=random_seed, **given)
    # The seconds of the fit began before it.
    built.construct_s = 0.0
    return built
