"""``map``: one model fitted to many sets of data, as one program."""

from __future__ import annotations

import copy
import time

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import pymc as pm
import xarray as xr

from arviz_base import from_dict
from pymc.initial_point import make_initial_point_fn
from pymc.variational.opvi import Approximation
from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext._show import ShortTable, seconds_shown
from pymc_vi_ext.alike import Alike, Template, groups_of, with_data
from pymc_vi_ext.approximations.parameters import flat_parameters, set_parameters
from pymc_vi_ext.callbacks import Rule
from pymc_vi_ext.diagnostics.pareto import GOOD_KHAT, NEARLY_EQUAL
from pymc_vi_ext.draws import draw, labels_of
from pymc_vi_ext.engine import Loop, StepProgram
from pymc_vi_ext.errors import ApproximationWarning, ConvergenceWarning, UnknownNameError, warn
from pymc_vi_ext.inference import METHODS
from pymc_vi_ext.interrupts import held
from pymc_vi_ext.loop import Call, fit_method
from pymc_vi_ext.method import Method
from pymc_vi_ext.minibatches import has_minibatches
from pymc_vi_ext.options import whole_number
from pymc_vi_ext.progress import ChainProgress, NoProgress, chain_progress
from pymc_vi_ext.python_only import building, python_only
from pymc_vi_ext.results import FitReport, StopReason, Timings
from pymc_vi_ext.session import Session
from pymc_vi_ext.upstream import layout

# Fits whose steps are taken at once, and the numbers that all of them may keep.
_WIDTH, _MOST_NUMBERS = 64, 2**26
# Programs that are compiled for data of different shapes.
_MOST_SHAPES = 8
# Methods whose steps are all that a fit takes, from a start that is the model's alone.
_METHODS = ("advi", "fullrank_advi")
# Fits that a warning names.
_NAMED = 5


@dataclass(frozen=True)
class _End:
    """What a fit has come to.

    Attributes
    ----------
    parameters : array of shape (size,)
    losses : array of shape (steps,)
    report : FitReport
    """

    parameters: np.ndarray
    losses: np.ndarray
    report: FitReport


class MappedFits(Sequence[Approximation]):
    """Fits of one model to many sets of data, as :func:`pymc_vi_ext.map` returns them.

    ``fits[i]`` is an approximation as :func:`pymc_vi_ext.fit` returns it, of ``models[i]``: with
    ``hist`` and ``report``, for :func:`pymc_vi_ext.to_datatree`, :func:`pymc_vi_ext.diagnose` and
    :func:`pymc_vi_ext.correct`. It is made when it is asked for, which takes a tenth of a second;
    `reports`, `table` and :meth:`to_datatree` do without.

    Parameters
    ----------
    method : str
    seeds : list of int
    ends : mapping of int to object
        Parameters, losses and report of each fit.
    groups : sequence of object
        What has fitted models of one shape.
    models : sequence of pymc.Model or None
        None where one model was given other data.
    seconds : float

    Attributes
    ----------
    reports : list of FitReport
        Of each fit. Its seconds are its share of all.
    seeds : list of int
        Of each fit: :func:`pymc_vi_ext.fit` of the model with that `random_seed` is the same fit,
        within rounding.
    seconds : float
        Of all fits, from the call of :func:`pymc_vi_ext.map` to its end.

    Examples
    --------
    >>> import numpy as np, pymc as pm, pymc_vi_ext as vix
    >>> with pm.Model() as model:
    ...     mu = pm.Normal("mu", 0.0, 10.0)
    ...     pm.Normal("y", mu, 1.0, observed=np.zeros(5))
    y
    >>> data = {"y": np.arange(15.0).reshape(3, 5)}
    >>> fits = vix.map(model, data=data, random_seed=1, progressbar=False)
    >>> [report.converged for report in fits.reports]
    [True, True, True]
    >>> tree = fits.to_datatree(draws=1_000, random_seed=1)
    >>> tree.posterior["mu"].mean(("chain", "draw")).round().values.tolist()
    [2.0, 7.0, 12.0]
    """

    def __init__(
        self,
        method: str,
        seeds: list[int],
        ends: Mapping[int, _End],
        groups: Sequence[_Group],
        models: Sequence[pm.Model] | None,
        seconds: float,
    ):
        self.seeds, self.seconds = seeds, seconds
        self.reports: list[FitReport] = [ends[i].report for i in range(len(seeds))]
        self._method, self._ends, self._groups, self._models = method, ends, groups, models
        self._made: dict[int, Approximation] = {}

    def __len__(self) -> int:
        return len(self.seeds)

    @overload
    def __getitem__(self, index: int) -> Approximation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Approximation]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        number = range(len(self))[index]
        if number not in self._made:
            self._made[number] = self._make(number)
        return self._made[number]

    def _make(self, number: int) -> Approximation:
        end = self._ends[number]
        if self._models is not None:
            model = self._models[number]
        else:
            [group] = self._groups
            template = group.alike.template()
            template.set(group.alike.values[number])
            model = template.model
        kind: Any = METHODS[self._method]
        approx: Approximation = kind(model=model, random_seed=self.seeds[number]).approx
        set_parameters(approx, end.parameters)
        approx.hist, approx.report = end.losses, end.report
        return approx

    def to_datatree(self, draws: int = 1000, random_seed: int | None = None) -> xr.DataTree:
        r"""Draw from all fits into one DataTree.

        Parameters
        ----------
        draws : int
            Of each fit, in one chain.
        random_seed : int, optional
            The draws of fit i depend on this and on i only.

        Returns
        -------
        DataTree
            ``posterior``: free variables and Deterministics, (chain, draw, fit, \*dims), with the
            model's dims and coords. ``fits`` (fit): ``converged``, ``stop_reason``, ``steps``,
            ``khat``, ``seed``.

        Raises
        ------
        ValueError
            If `draws` is not positive, or the variables of some models have other shapes.
        """
        draws = whole_number("draws", draws)
        entropy = np.random.SeedSequence(random_seed).entropy
        found: dict[int, dict[str, np.ndarray]] = {}
        for group in self._groups:
            for number, values in zip(group.alike.numbers, group.alike.values, strict=True):
                group.template.set(values)
                set_parameters(group.approx, self._ends[number].parameters)
                found[number] = draw(group.approx, draws, _spawned(entropy, number)).values
        posterior = {}
        for name in found[0]:
            rows = [found[number][name] for number in range(len(self))]
            if len({row.shape for row in rows}) > 1:
                raise ValueError(
                    f"`{name}` has other shapes in some models: make the DataTree of each, by "
                    "vix.to_datatree(fits[i])."
                )
            posterior[name] = np.stack(rows, axis=1)[None]
        # Dims and coords are those of a model, whose draws have no axis of fits.
        single = {name: values[:, :, 0] for name, values in posterior.items()}
        coords, dims = labels_of(self._groups[0].template.model, single)
        tree: xr.DataTree = from_dict(
            {"posterior": posterior},
            coords={**coords, "fit": np.arange(len(self))},
            dims={
                name: ["fit", *dims.get(name, ())]
                if name in dims or values.ndim == 3
                else ["fit", *(f"{name}_dim_{k}" for k in range(values.ndim - 3))]
                for name, values in posterior.items()
            },
        )
        tree["fits"] = xr.DataTree(self.table)
        return tree

    @cached_property
    def table(self) -> xr.Dataset:
        """How fits ended, (fit): ``converged``, ``stop_reason``, ``steps``, ``khat``, ``seed``."""
        columns = {
            "converged": [report.converged for report in self.reports],
            "stop_reason": [report.stop_reason.value for report in self.reports],
            "steps": [report.steps for report in self.reports],
            "khat": [report.khat for report in self.reports],
            "seed": self.seeds,
        }
        return xr.Dataset(
            {name: ("fit", column) for name, column in columns.items()},
            coords={"fit": np.arange(len(self))},
        )

    def _shown(self) -> ShortTable:
        reasons = Counter(report.outcome for report in self.reports)
        rows = [(reason, f"{count:,}") for reason, count in reasons.most_common()]
        title = f"{len(self):,} fits by {self._method}"
        return ShortTable(title, (), [*rows, ("time", seconds_shown(self.seconds))])

    def __repr__(self) -> str:
        return self._shown().text()

    def _repr_html_(self) -> str:
        return self._shown().html()


@dataclass(frozen=True)
class _Group:
    """Models of one shape, and what has fitted them."""

    alike: Alike
    template: Template
    approx: Approximation


def map(
    models: pm.Model | Iterable[pm.Model],
    n: int = 100_000,
    method: str = "advi",
    random_seed: int | None = None,
    *,
    data: Mapping[str, Any] | None = None,
    convergence: str | Rule | None = "default",
    obj_n_mc: int | None = None,
    learning_rate: float | None = None,
    progressbar: bool = True,
) -> MappedFits:
    r"""Fit many small models of one structure side by side, as one program.

    Each fit is that of :func:`pymc_vi_ext.fit`: the same start, the same random numbers, judged by
    a rule of its own. What it comes to does not depend on how many others there are, but for
    rounding. One that meets NaN ends, and the others go on.

    Models may differ in observed values, in ``pm.Data`` and in constants. Those whose data have the
    same shapes share a program; there may be eight of different shapes. To build a thousand models
    takes longer than to name their data: ``vix.map(model, data={"y": rows})``.

    Parameters
    ----------
    models : sequence of pymc.Model, or pymc.Model with `data`
        Of the same variables and the same graph.
    n : int
        Number of steps of each fit, at most; exactly, with ``convergence=None``.
    method : {"advi", "fullrank_advi"}
    random_seed : int, optional
        Fit i has a seed that follows from this and from i: ``fits.seeds[i]``.
    data : mapping of str to array of shape (sets, \*shape), optional
        By name of a ``pm.Data`` or of an observed variable: a row for each set.
    convergence : {"default", None}, name in `pymc_vi_ext.callbacks.RULES`, or Rule
        As of :func:`pymc_vi_ext.fit`, for each fit by itself.
    obj_n_mc : int, optional
        Draws a step.
    learning_rate : float, optional
        First rate.
    progressbar : bool
        Whether to show how many fits have ended.

    Returns
    -------
    MappedFits
        A sequence: ``fits[i]`` is the approximation of ``models[i]``. After Ctrl-C those that had
        ended are as they are; those that had begun hold the average so far, the others their
        start, and the report of each says ``INTERRUPTED``.

    Warns
    -----
    ConvergenceWarning
        If some fits have not converged, naming the first of them.
    ApproximationWarning
        If some have converged to what is far from the posterior.

    Raises
    ------
    ValueError
        If there are no models, one differs from the first in more than data, they have more than
        eight different shapes, or they observe minibatches; for another method; if `data` do not
        fit to the model.
    UnknownNameError
        A ValueError, if there is no such method or rule.
    TypeError
        If `models` are no models, or a model has no free variables.
    UnsupportedOpError
        If the model has an Op that JAX cannot run.

    Examples
    --------
    >>> import numpy as np, pymc as pm, pymc_vi_ext as vix
    >>> def model_of(y):
    ...     with pm.Model() as model:
    ...         mu = pm.Normal("mu", 0.0, 10.0)
    ...         pm.Normal("y", mu, 1.0, observed=y)
    ...     return model
    >>> rows = np.arange(10.0).reshape(2, 5)
    >>> fits = vix.map([model_of(y) for y in rows], random_seed=1, progressbar=False)
    >>> len(fits), fits[1].report.converged
    (2, True)
    >>> alone = vix.fit(model=model_of(rows[1]), random_seed=fits.seeds[1], progressbar=False)
    >>> bool(np.allclose(alone.params[0].get_value(), fits[1].params[0].get_value()))
    True
    """
    started = time.perf_counter()
    name = _known(method)
    given = None if isinstance(models, pm.Model) else list(models)
    alike = _alike(models if given is None else given, data)
    entropy: Any = np.random.SeedSequence(random_seed).entropy
    seeds = [_spawned(entropy, i) for i in range(sum(len(each.numbers) for each in alike))]
    options = {
        "convergence": convergence,
        "obj_n_mc": obj_n_mc,
        "learning_rate": learning_rate,
    }
    ends: dict[int, _End] = {}
    groups = []
    label = f"{len(seeds):,} fits by {name}"
    with held(), chain_progress(label, progressbar) as progress:
        for each in alike:
            many = _Many(name, each, n, options, [seeds[i] for i in each.numbers])
            many.run(ends, lambda: _say(progress, ends, len(seeds)))
            groups.append(_Group(each, many.template, many.method.approx))
        progress.finish(_outcomes(ends))
    seconds = time.perf_counter() - started
    fits = MappedFits(name, seeds, ends, groups, given, seconds)
    _warn_of(fits)
    return fits


def _known(method: str) -> str:
    name = method.lower() if isinstance(method, str) else method
    if not isinstance(name, str) or (name in METHODS and name not in _METHODS):
        raise ValueError(
            f"`map` fits by {' or '.join(_METHODS)}, not by {method!r}: fit by others in a loop of "
            "vix.fit."
        )
    if name not in _METHODS:
        raise UnknownNameError("method", method, _METHODS)
    return name


def _alike(models: Any, data: Mapping[str, Any] | None) -> list[Alike]:
    """Return models, or sets of data, by their shapes."""
    if isinstance(models, pm.Model):
        if data is None:
            raise TypeError(
                "`models` is one model: give `data`, a row for each fit by name, or a sequence of "
                "models."
            )
        found = [with_data(models, data)]
    else:
        if data is not None:
            raise TypeError("`data` is for one model: leave it out, the models have theirs.")
        if not models:
            raise ValueError("There are no models to fit.")
        for i, model in enumerate(models):
            if not isinstance(model, pm.Model):
                raise TypeError(f"models[{i}] is no pymc.Model but {type(model).__name__}.")
        found = groups_of(models)
    if len(found) > _MOST_SHAPES:
        raise ValueError(
            f"The data of the models have {len(found)} different shapes, and each takes a program "
            f"of its own: {_MOST_SHAPES} at most. Pad them to a few lengths, with weights of 0 in "
            "a Potential, or fit in a loop of vix.fit."
        )
    if has_minibatches(found[0].model):
        raise ValueError("The models observe minibatches: `map` is for small data, write them out.")
    return found


class _Many:
    """Fits of models of one shape.

    Parameters
    ----------
    name : str
        Of the method.
    alike : Alike
    n : int
    options : mapping
        Of the steps.
    seeds : list of int
    """

    def __init__(
        self, name: str, alike: Alike, n: int, options: Mapping[str, Any], seeds: list[int]
    ):
        self._alike, self._n, self._options, self._seeds = alike, n, options, seeds
        self.template = alike.template()
        self.template.set(alike.values[0])
        kind: Any = METHODS[name]
        self.method: Method = kind(model=self.template.model, random_seed=seeds[0])
        self._call = Call(
            progressbar=False,
            options={"method": name},
            in_nats=True,
            warns=False,
            make_loop=self._make_loop,
        )
        with building(), python_only():
            self._starts = make_initial_point_fn(
                model=self.template.model, jitter_rvs=set(), return_transformed=True
            )

    def _make_loop(self, program: StepProgram, **options: Any) -> Loop:
        # Imported on use, as all of JAX.
        from pymc_vi_ext.engine.jax_lanes import JaxLanes, LaneLoop

        size = sum(np.size(v.get_value(borrow=True)) for v in [*program.state, *program.data])
        fits = len(self._seeds)
        width = int(np.clip(_MOST_NUMBERS // max(size, 1), 1, min(fits, _WIDTH)))
        common = set(self.template.model.data_vars) - set(self.template.data)
        self._lanes = JaxLanes(program, width, common)
        return LaneLoop(self._lanes, 0)

    def run(self, ends: dict[int, _End], say: Callable[[], None]) -> None:
        """Fit all; `ends` is filled by number of the model, those not begun included."""
        from pymc_vi_ext.side_by_side import SideBySide

        method = self.method
        approx = method.approx
        self._first = flat_parameters(approx)
        say()
        # No step: the program is compiled, and its gradient looked at.
        fit_method(method, 0, self._call, backend="jax", **self._options)
        session = method.session
        assert session is not None
        program = session.prepared.program
        variables = dict.fromkeys([*program.state, *program.data, *self.template.data])
        attributes = [
            *((approx, name) for name in ("hist", "report", "fit_state")),
            *((method, name) for name in ("hist", "state", "session", "seed")),
        ]
        not_begun = replace(
            approx.report,
            stop_reason=StopReason.INTERRUPTED,
            evidence="interrupted before the first step",
            timings=Timings(0.0, 0.0, 0.0, 0.0),
        )

        def fit_one(job: int, loop: Any) -> None:
            started = time.thread_time()
            self._begin(job, session, loop)
            try:
                fit_method(method, self._n, self._call, backend="jax", **self._options)
            except FloatingPointError:
                # The report says it.
                pass
            spent = time.thread_time() - started + loop.run_s
            report = replace(approx.report, timings=Timings(0.0, 0.0, 0.0, spent))
            number = self._alike.numbers[job]
            ends[number] = _End(flat_parameters(approx), approx.hist, report)

        lanes = self._lanes
        parts = [lanes, lanes.twin()] if len(self._seeds) > lanes.width else [lanes]
        fits = SideBySide(parts, list(variables), attributes)
        fits.run(len(self._seeds), fit_one, say)
        for job, number in enumerate(self._alike.numbers):
            if number not in ends:
                self._set_start(job)
                report = replace(not_begun, seed=self._seeds[job])
                ends[number] = _End(flat_parameters(approx), np.empty(0), report)

    def _begin(self, job: int, session: Session, loop: Loop) -> None:
        """Set all to the beginning of a fit, as if its method had just been constructed."""
        method = self.method
        prepared = session.prepared
        program: Any = copy.copy(prepared.program)
        program.quasi_noise = program.quasi_noise.twin()
        rule = session.request.rule
        method.session = replace(
            session,
            request=replace(session.request, rule=copy.copy(rule)),
            prepared=replace(prepared, program=program, loop=loop),
            # As long as it can be: no callback asks for the keyboard.
            chunk=1 << 14,
        )
        method.hist = np.empty(0)
        method.seed = self._seeds[job]
        self._set_start(job)

    def _set_start(self, job: int) -> None:
        """Set data and parameters to those of a fit's first step."""
        self.template.set(self._alike.values[job])
        [group] = self.method.approx.groups
        group.rng = np.random.RandomState(self._seeds[job])
        point = self._starts(group.rng.randint(2**30, dtype=np.int64))
        set_parameters(self.method.approx, self._first)
        mean: SharedVariable = group.params_dict["mu"]
        values = mean.get_value()
        for name, (where, _) in layout(group).items():
            values[where] = np.ravel(point[name])
        mean.set_value(values)


def _spawned(entropy: Any, number: int) -> int:
    """Return the seed of a number, whatever others there are."""
    return int(np.random.SeedSequence(entropy, spawn_key=(number,)).generate_state(1)[0])


def _say(progress: ChainProgress | NoProgress, ends: Mapping[int, _End], fits: int) -> None:
    progress.say(f"{len(ends):,} of {fits:,} have ended" if ends else "compiling")


def _outcomes(ends: Mapping[int, _End]) -> str:
    counts = Counter(end.report.outcome for end in ends.values())
    return ", ".join(f"{count:,} {outcome}" for outcome, count in counts.most_common())


def _warn_of(fits: MappedFits) -> None:
    """Warn once of all fits that have not converged, and of all that are far from the posterior."""
    reports = fits.reports
    bad = [i for i, report in enumerate(reports) if report.warnings or not _is_sound(report)]
    if bad:
        first = reports[bad[0]]
        warn(
            ConvergenceWarning(
                f"{len(bad):,} of {len(fits):,} fits ended before they converged, or have another "
                f"flaw: {_named(bad)}. The first of them: {first.evidence.splitlines()[0]}. "
                "`fits.reports` tells of each.",
                fits[bad[0]],
            )
        )
    far = [
        i
        for i, report in enumerate(reports)
        if report.khat > GOOD_KHAT and not report.weights_worth >= NEARLY_EQUAL
    ]
    if far:
        worst = max(reports[i].khat for i in far)
        warn(
            ApproximationWarning(
                f"{len(far):,} of {len(fits):,} fits have converged to what is far from the "
                f"posterior, {_named(far)}: k-hat of their importance weights is up to "
                f"{worst:.2f}, good below {GOOD_KHAT}. vix.correct(fits[i]) goes on to it.",
                fits[far[0]],
            )
        )


def _is_sound(report: FitReport) -> bool:
    return report.stop_reason not in (StopReason.NOT_FINITE, StopReason.FAILED)


def _named(numbers: Sequence[int]) -> str:
    some = ", ".join(f"fits[{i}]" for i in numbers[:_NAMED])
    return some + ", ..." * (len(numbers) > _NAMED)
