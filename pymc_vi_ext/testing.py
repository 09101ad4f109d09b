"""Conformance: what every family and every method has to be, as checks that anybody can run.

The package's own tests run these over its tables; who adds a family or a method runs them on that:

>>> import pymc_vi_ext as vix
>>> vix.testing.check_method("dadvi")
>>> vix.testing.check_family("low_rank", rank=1)

Each check raises AssertionError, in a sentence that names what does not hold.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import tempfile
import time

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm

from pymc.variational.inference import KLqp
from pymc.variational.opvi import Approximation, Group

from pymc_vi_ext.approximations import FAMILIES, Family, OneGroup, family_of
from pymc_vi_ext.approximations.parameters import flat_parameters, moments
from pymc_vi_ext.callbacks import Checkpoint
from pymc_vi_ext.fitting import fit, resume
from pymc_vi_ext.inference import METHODS
from pymc_vi_ext.method import Method
from pymc_vi_ext.objectives import PathELBO
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.results import StopReason, to_datatree
from pymc_vi_ext.upstream import find_rng_nodes, reseed_rngs

MEANS, SDS = np.array([1.0, -2.0]), np.array([0.5, 2.0])
"""Of the Gaussian that is to be recovered, (2,)."""
# Draws behind a check, and how many standard errors they may be off.
_DRAWS, _ERRORS = 20_000, 5.0


@dataclass(frozen=True)
class MethodCase:
    """A method under test.

    Attributes
    ----------
    method : type of Method
    name : str
        Its row in the table of methods.
    options : mapping of str
        For its constructor.
    fit : mapping of str
        For the fit that recovers the Gaussian, ``obj_n_mc`` for instance.
    mean_tolerance : float
        Of the means, in standard deviations.
    sd_tolerance : float
        Of the standard deviations, relative.

    Examples
    --------
    >>> import pymc_vi_ext as vix
    >>> from pymc_vi_ext.testing import MethodCase, unknown_options_are_refused
    >>> unknown_options_are_refused(MethodCase(vix.ADVI, "advi"))
    """

    method: type[Method]
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    mean_tolerance: float = 0.1
    sd_tolerance: float = 0.1

    @cached_property
    def built(self) -> Any:
        """The method on the Gaussian; all checks that may share one object share this."""
        constructor: Any = self.method
        return constructor(model=gaussian_model(), random_seed=1, **self.options)

    def steps(self, n: int, **options: Any) -> Approximation:
        """Take exactly `n` steps of the shared object."""
        keywords: dict[str, Any] = {"method": self.built, "convergence": None, "progressbar": False}
        return fit(n if self.method.takes_steps else 0, **(keywords | options))

    @cached_property
    def default_fit(self) -> tuple[Approximation, float, Path]:
        """A fit by name that stops by itself: what it found, seconds on the clock, a checkpoint."""
        keywords: dict[str, Any] = {
            "method": self.name,
            "model": gaussian_model(),
            "random_seed": 1,
            "inf_kwargs": dict(self.options),
            "progressbar": False,
        }
        path = Path(tempfile.mkdtemp(), "fit.npz")
        if self.method.takes_steps:
            keywords["callbacks"] = [Checkpoint(path, every=5)]
        started = time.perf_counter()
        approx = fit(**(keywords | dict(self.fit)))
        return approx, time.perf_counter() - started, path


def gaussian_model() -> pm.Model:
    """Return a model whose posterior is N(MEANS, SDS^2), independent: in every family's reach.

    Returns
    -------
    pymc.Model
        Its free variable ``x``, (2,).

    Examples
    --------
    >>> from pymc_vi_ext.testing import gaussian_model
    >>> [v.name for v in gaussian_model().free_RVs]
    ['x']
    """
    with pm.Model() as model:
        pm.Normal("x", MEANS, SDS, shape=2)
    return model


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Collect the compilations that happen while the context is open.

    Yields
    ------
    list of str
        An entry for each: "xla" for a program of JAX, "pytensor" for a function of PyTensor.
    """
    import jax.monitoring
    import pytensor

    found: list[str] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append("xla")

    compile_function = pytensor.function

    def counted(*arguments: Any, **keywords: Any) -> Any:
        found.append("pytensor")
        return compile_function(*arguments, **keywords)

    jax.monitoring.register_event_duration_secs_listener(listen)
    pytensor.function = counted
    try:
        yield found
    finally:
        pytensor.function = compile_function
        jax.monitoring.unregister_event_duration_listener(listen)


def check_method(
    method: str | type[Method],
    *,
    fit: Mapping[str, Any] | None = None,
    mean_tolerance: float = 0.1,
    sd_tolerance: float = 0.1,
    **options: Any,
) -> None:
    """Run all checks of a method.

    Parameters
    ----------
    method : str or type of Method
        A name in :data:`pymc_vi_ext.inference.METHODS`, or a class, which stands in that table
        while it is checked.
    fit : mapping of str, optional
        Options of :func:`pymc_vi_ext.fit` for the one that recovers a known Gaussian.
    mean_tolerance : float
        Of the recovered means, in standard deviations.
    sd_tolerance : float
        Of the recovered standard deviations, relative.
    **options
        For its constructor.

    Raises
    ------
    AssertionError
        Naming the method and what does not hold.
    """
    with method_case(
        method,
        fit=fit or {},
        mean_tolerance=mean_tolerance,
        sd_tolerance=sd_tolerance,
        options=options,
    ) as case:
        for check in METHOD_CHECKS:
            check(case)


@contextlib.contextmanager
def method_case(method: str | type[Method], **fields: Any) -> Iterator[MethodCase]:
    """Yield a method as a case, in the table of methods while the context is open."""
    if isinstance(method, str):
        yield MethodCase(METHODS[method], method, **fields)
        return
    name = method.__name__.lower()
    METHODS[name] = method
    try:
        yield MethodCase(method, name, **fields)
    finally:
        del METHODS[name]


def recovers_a_gaussian(case: MethodCase) -> None:
    """The default fit, stopping by itself, has the means and standard deviations."""
    approx, *_ = case.default_fit
    draws = np.asarray(to_datatree(approx, 4_000, random_seed=1)["posterior/x"])[0]
    # Monte Carlo errors of 4,000 draws: .016 sd and 1.1 %.
    off = np.abs(draws.mean(axis=0) - MEANS) / SDS
    _expect(case, off.max() < case.mean_tolerance, f"means are {off.max():.2g} sd off")
    ratio = np.abs(draws.std(axis=0) / SDS - 1)
    _expect(case, ratio.max() < case.sd_tolerance, f"standard deviations are {ratio.max():.0%} off")
    if case.method.takes_steps and case.fit.get("convergence", "default") is not None:
        _expect(case, approx.report.converged, f"it ended as {approx.report.stop_reason.value}")


def compiles_once(case: MethodCase) -> None:
    """A second fit of the same object, with the same options, compiles nothing."""
    if not case.method.takes_steps:
        return
    objectives = ["elbo"]
    [group] = case.built.approx.groups
    if isinstance(case.built.objective.op, PathELBO) and not family_of(group).stratified:
        objectives.append("renyi")
    for objective in objectives:
        case.steps(20, objective=objective)
        with compilations() as found:
            timings = case.steps(20, objective=objective).report.timings
        _expect(case, not found, f"its second fit of {objective!r} compiles: {found}")
        none = timings.graph_s == timings.compile_s == 0
        _expect(case, none, f"its second fit of {objective!r} reports {timings}")


def callbacks_have_their_rhythm(case: MethodCase) -> None:
    """A callback is called at multiples of its `every`, one without at each step."""
    if not case.method.takes_steps:
        _refuses(case, lambda: case.steps(3, callbacks=[print]), "callbacks")
        return
    seen: dict[str, list[int]] = {"each": [], "fifth": []}

    def each(approx: Approximation, losses: Any, i: int) -> None:
        seen["each"].append(i)

    def fifth(approx: Approximation, losses: Any, i: int) -> None:
        seen["fifth"].append(i)

    fifth.every = 5  # type: ignore[attr-defined]  # what a user writes
    case.steps(12, callbacks=[each, fifth])
    _expect(case, seen["each"] == list(range(1, 13)), f"callbacks came at {seen['each']}")
    _expect(case, seen["fifth"] == [5, 10], f"every=5 came at {seen['fifth']}")


def errors_keep_the_fit(case: MethodCase) -> None:
    """What a callback raises carries the approximation so far, with losses and report."""
    if not case.method.takes_steps:
        return

    def broken(approx: Approximation, losses: Any, i: int) -> None:
        if i == 3:
            raise ZeroDivisionError("on purpose")

    try:
        case.steps(6, callbacks=[broken])
    except ZeroDivisionError as error:
        approx = vars(error).get("approx")
        _expect(case, approx is not None, "an exception of a callback has no `approx`")
        assert approx is not None
        report = approx.report
        _expect(case, report.stop_reason is StopReason.FAILED, f"its report says {report}")
        _expect(case, report.steps == 3, f"its report counts {report.steps} steps of 3")
        _expect(case, report.stopped_by == "broken", f"it names {report.stopped_by!r}")
        return
    raise AssertionError(f"{case.name}: an exception of a callback is lost.")


def interrupts_keep_the_fit(case: MethodCase) -> None:
    """Ctrl-C returns the approximation so far, called interrupted."""
    if not case.method.takes_steps:
        return

    def interrupt(approx: Approximation, losses: Any, i: int) -> None:
        if i == 3:
            raise KeyboardInterrupt

    report = case.steps(6, callbacks=[interrupt]).report
    _expect(case, report.stop_reason is StopReason.INTERRUPTED, f"its report says {report}")
    _expect(case, report.steps == 3, f"its report counts {report.steps} steps of 3")


def callbacks_can_stop_it(case: MethodCase) -> None:
    """StopIteration ends the fit, and the report says who and why."""
    if not case.method.takes_steps:
        return

    def enough(approx: Approximation, losses: Any, i: int) -> None:
        if i == 4:
            raise StopIteration("seen enough")

    report = case.steps(9, callbacks=[enough]).report
    _expect(case, report.stop_reason is StopReason.STOPPED, f"its report says {report}")
    found = (report.steps, report.stopped_by)
    _expect(case, found == (4, "enough"), f"steps and rule are {found}")
    _expect(case, "seen enough" in report.evidence, f"its evidence is {report.evidence!r}")


def unknown_options_are_refused(case: MethodCase) -> None:
    """Neither constructor nor fit takes an option that does not exist."""
    constructor: Any = case.method
    _refuses(case, lambda: constructor(model=gaussian_model(), obj_optimiser=3), "obj_optimiser")
    _refuses(case, lambda: case.steps(0, obj_optimiser=3), "obj_optimiser")
    _refuses(case, lambda: case.built.fit(0, obj_optimiser=3, progressbar=False), "obj_optimiser")


def options_have_one_source(case: MethodCase) -> None:
    """Signature, documentation and configuration know the declared options."""
    method = case.method
    shown = inspect.signature(method).parameters
    for option in dataclasses.fields(method.Options):
        known = option.name in shown and shown[option.name].default == option.default
        _expect(case, known, f"its signature does not show {option.name}={option.default!r}")
        _expect(
            case, option.name in (method.__doc__ or ""), f"its docstring is silent on {option.name}"
        )
        json.dumps(option.default)
    unknown = set(method.FitOptions.names()) - set(inspect.signature(fit).parameters)
    _expect(case, not unknown, f"`fit` has no {unknown}")


def checkpoints_go_on(case: MethodCase) -> None:
    """A fit that is resumed ends as one that was not interrupted, or refuses to be saved."""
    whole, _, path = case.default_fit
    if not case.method.takes_steps:
        _refuses(case, lambda: case.steps(3, callbacks=[Checkpoint(path)]), "callbacks")
        return
    again = resume(path, gaussian_model(), progressbar=False)
    _expect(case, np.array_equal(whole.hist, again.hist), "resumed, it has other losses")
    same = np.array_equal(flat_parameters(whole), flat_parameters(again))
    _expect(case, same, "resumed, it has other parameters")


def seconds_add_up(case: MethodCase) -> None:
    """The seconds of the report are those on the clock, construction included."""
    approx, passed, _ = case.default_fit
    timings = approx.report.timings
    told = timings.construct_s + timings.graph_s + timings.compile_s + timings.run_s
    # What `fit` does before it looks at the clock, and after: microseconds, on a busy machine.
    close = passed - max(0.1, 0.05 * passed) < told <= passed
    _expect(case, close, f"it tells of {told:.2f} s, and took {passed:.2f} s")


def pymc_can_fit_it(case: MethodCase) -> None:
    """``pm.fit(method=...)`` takes the same road."""
    approx = pm.fit(5, case.built, model=case.built.approx.model, progressbar=False)
    _expect(case, approx is case.built.approx, "pm.fit returns another approximation")
    # Fewer where it has its optimum before.
    steps = approx.report.steps
    _expect(case, steps in range(5 * case.method.takes_steps + 1), f"pm.fit reports {steps} steps")


METHOD_CHECKS: tuple[Callable[[MethodCase], None], ...] = (
    recovers_a_gaussian,
    compiles_once,
    callbacks_have_their_rhythm,
    errors_keep_the_fit,
    interrupts_keep_the_fit,
    callbacks_can_stop_it,
    unknown_options_are_refused,
    options_have_one_source,
    checkpoints_go_on,
    seconds_add_up,
    pymc_can_fit_it,
)
"""What :func:`check_method` runs."""


@dataclass(frozen=True)
class FamilyCase:
    """A family under test.

    Attributes
    ----------
    name : str
        Its row in the table of families.
    options : mapping of str
        Of its group.

    Examples
    --------
    >>> from pymc_vi_ext.testing import FamilyCase, parameters_have_names
    >>> parameters_have_names(FamilyCase("low_rank", {"rank": 1}))
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def built(self) -> tuple[Approximation, Family]:
        """Return an approximation of the Gaussian's model by this family, and the family."""
        model = gaussian_model()
        group = Group(model.free_RVs, vfam=self.name, model=model, random_seed=1, **self.options)
        return OneGroup(group), family_of(group)


def check_family(family: str | type[Family], **options: Any) -> None:
    """Run all checks of a family.

    Parameters
    ----------
    family : str or type of Family
        A name in :data:`pymc_vi_ext.approximations.FAMILIES`, or a class, which is added there.
    **options
        For its group.

    Raises
    ------
    AssertionError
        Naming the family and what does not hold.
    """
    if not isinstance(family, str):
        FAMILIES[family.group_type().short_name] = family
        family = str(family.group_type().short_name)
    for check in FAMILY_CHECKS:
        check(FamilyCase(family, options))


def parameters_have_names(case: FamilyCase) -> None:
    """Every parameter is a shared variable, known by its name."""
    approx, family = case.built()
    names = [parameter.name for parameter in approx.params]
    _expect(case, None not in names, "a parameter has no name")
    found = sorted(family.parameter_names)
    _expect(case, found == sorted(set(names)), f"it names {found}, and has {sorted(names)}")


def it_becomes_a_gaussian(case: FamilyCase) -> None:
    """Set to a Gaussian, it has that one's means and standard deviations."""
    approx, family = case.built()
    mean, sd = np.array([0.7, -1.0]), np.array([0.3, 1.5])
    family.set_gaussian(mean, np.diag(sd**2))
    z, _ = _draws_and_logq(approx)
    # Particles and components are scattered as draws of it, the few of a mixture far.
    near = 3.0 if family.stratified else 0.3
    off, ratio = np.abs(z.mean(axis=0) - mean) / sd, np.abs(z.std(axis=0) / sd - 1)
    _expect(case, off.max() < near, f"set to a Gaussian, its means are {off.max():.2g} sd off")
    _expect(case, ratio.max() < near, f"set to a Gaussian, its sds are {ratio.max():.0%} off")


def density_is_that_of_its_draws(case: FamilyCase) -> None:
    """E_q[p / q] = 1 for a Gaussian p inside of q, and log q by either road is the same."""
    approx, family = case.built()
    if not approx.has_logq:
        return
    z, logq = _draws_and_logq(approx)
    sd = 0.5 * z.std(axis=0)
    standard = (z - np.median(z, axis=0)) / sd
    logp = -0.5 * np.sum(standard**2 + np.log(2 * np.pi * sd**2), axis=1)
    weights = np.exp(logp - logq)
    error = float(weights.std()) / len(z) ** 0.5
    off = abs(float(weights.mean()) - 1)
    _expect(case, off < _ERRORS * error < 0.3, f"its density integrates to {weights.mean():.3f}")
    nodes = approx.set_size_and_deterministic([approx.symbolic_logq, family.path_logq()], 100, 0)
    logq, path = _evaluated(nodes)
    same = np.allclose(logq, path, rtol=1e-6, atol=1e-8)
    _expect(case, same, "`path_logq` is another density than `symbolic_logq`")


def moments_are_those_of_its_draws(case: FamilyCase) -> None:
    """Means and standard deviations of flat parameters, where they have a closed form."""
    approx, _ = case.built()
    try:
        means, log_sds = moments(approx, flat_parameters(approx))
    except TypeError:
        return
    z, _ = _draws_and_logq(approx)
    sd = z.std(axis=0)
    limit = _ERRORS * sd / len(z) ** 0.5
    _expect(case, bool((np.abs(z.mean(axis=0) - means) < limit + 1e-9).all()), f"means {means}")
    # Of a squared deviation; heavy tails make it uncertain.
    squares = (z - z.mean(axis=0)) ** 2
    limit = _ERRORS * squares.std(axis=0) / len(z) ** 0.5
    off = np.abs(squares.mean(axis=0) - np.exp(2 * log_sds))
    _expect(case, bool((off < limit + 1e-9).all()), f"standard deviations {np.exp(log_sds)}")


def coordinates_stay(case: FamilyCase) -> None:
    """A step of nothing in natural coordinates leaves every parameter where it is."""
    _, family = case.built()
    for coordinates in family.coordinates():
        steps = [np.zeros(shape) for shape in coordinates.shapes]
        travels = [location * 0 for location in coordinates.locations]
        moved = _evaluated(list(coordinates.moved(steps, travels)))
        for parameter, value in zip(coordinates.parameters, moved, strict=True):
            still = np.allclose(value, parameter.get_value(), atol=1e-6)
            _expect(case, still, f"a step of nothing moves {parameter.name}")


def it_fits_a_gaussian(case: FamilyCase) -> None:
    """ADVI over it comes to the Gaussian."""
    approx, _ = case.built()
    if not approx.has_logq:
        return
    inference = KLqp(approx)
    inference.objective = PathELBO(approx)(None)
    steps: dict[str, Any] = {"convergence": None, "obj_n_mc": 8, "learning_rate": 0.02}
    fit(1_500, method=inference, random_seed=1, progressbar=False, **steps)
    z = np.asarray(to_datatree(approx, 4_000, random_seed=1)["posterior/x"])[0]
    off, ratio = np.abs(z.mean(axis=0) - MEANS) / SDS, np.abs(z.std(axis=0) / SDS - 1)
    _expect(case, off.max() < 0.2, f"fitted, its means are {off.max():.2g} sd off")
    _expect(case, ratio.max() < 0.2, f"fitted, its standard deviations are {ratio.max():.0%} off")


def unknown_family_options_are_refused(case: FamilyCase) -> None:
    """An option that does not exist is named."""
    family, model = FAMILIES[case.name], gaussian_model()
    if family.group_type() is not family:
        # PyMC's own groups take any.
        return
    _refuses(case, lambda: Group(model.free_RVs, vfam=case.name, model=model, rnak=3), "rnak")


FAMILY_CHECKS: tuple[Callable[[FamilyCase], None], ...] = (
    parameters_have_names,
    it_becomes_a_gaussian,
    density_is_that_of_its_draws,
    moments_are_those_of_its_draws,
    coordinates_stay,
    it_fits_a_gaussian,
    unknown_family_options_are_refused,
)
"""What :func:`check_family` runs."""


def _expect(case: MethodCase | FamilyCase, holds: Any, what: str) -> None:
    if not holds:
        raise AssertionError(f"{case.name}: {what}.")


def _refuses(case: MethodCase | FamilyCase, act: Callable[[], Any], named: str) -> None:
    """Raise unless `act` raises a ValueError or TypeError whose message has `named` in it."""
    try:
        act()
    except (TypeError, ValueError) as error:
        _expect(case, named in str(error), f"its refusal does not name {named}: {error}")
        return
    raise AssertionError(f"{case.name}: {named} is accepted.")


def _draws_and_logq(approx: Approximation) -> list[np.ndarray]:
    nodes = [approx.groups[0].symbolic_random]
    nodes += [approx.symbolic_logq] if approx.has_logq else [approx.groups[0].symbolic_random]
    return _evaluated(approx.set_size_and_deterministic(nodes, _DRAWS, 0))


def _evaluated(nodes: list[Any]) -> list[np.ndarray]:
    """Evaluate without compiling."""
    with python_only():
        function = pm.pytensorf.compile([], nodes, mode="FAST_COMPILE")
        reseed_rngs(find_rng_nodes(nodes), 1)
        values: list[np.ndarray] = function()
    return values
