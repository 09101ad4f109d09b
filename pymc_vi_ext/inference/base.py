"""What the package's methods share: PyMC's ``fit`` and ``refine`` over the package's loop."""

from __future__ import annotations

import difflib
import inspect
import math

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pymc as pm

from pymc.model import modelcontext
from pymc.variational.inference import Inference, KLqp
from pymc.variational.operators import KL
from pymc.variational.opvi import Approximation, Group
from pymc.vartypes import discrete_types

from pymc_vi_ext.approximations import OneGroup
from pymc_vi_ext.approximations._algebra import refuse_dense
from pymc_vi_ext.callbacks import Rule, StagedStop
from pymc_vi_ext.draws import prepare_draws
from pymc_vi_ext.engine import GrowingLoop, GrowingProgram, Loop, QuasiNoise, StepProgram
from pymc_vi_ext.errors import warn
from pymc_vi_ext.gradient_check import check_gradient
from pymc_vi_ext.inference._start_values import check_start
from pymc_vi_ext.loop import Call, fit_method, refine_method
from pymc_vi_ext.method import PYMC_OPTIONS, Method, Prepared, Request
from pymc_vi_ext.minibatches import (
    doubtful_totals,
    has_minibatches,
    is_streamed,
    minibatch_scale,
    on_all_data,
    separate_batches,
    size_of_data,
)
from pymc_vi_ext.objectives import ELBO, Objective, PathELBO, Tempered
from pymc_vi_ext.optimizers import AnnealedAdam, Given, Optimizer, Together, WhitenedAdam
from pymc_vi_ext.probe import Probe, Probed
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.results import NEGATIVE_ELBO
from pymc_vi_ext.starting_points import set_gaussians
from pymc_vi_ext.upstream import (
    ObjectiveFunction,
    ParametrizationError,
    State,
    default_progress_theme,
)

# Numbers that minibatches are drawn from, up to which a step may read all of them (800 MB).
_MOST_NUMBERS = 100_000_000
# Dimensions up to which a covariance is written out to begin at.
_LARGEST_NARROW = 2_000


class LoopMethod(Method):
    """A method whose ``fit`` and ``refine`` are the package's loop, with PyMC's arguments.

    Parameters
    ----------
    model : pymc.Model, optional
    random_seed : int, optional
    start : dict of str to array, optional
        Of a subclass, besides its options.

    Attributes
    ----------
    default_convergence : str or None
        Of :meth:`fit`, where :func:`pymc.fit` calls it: None takes exactly `n` steps, as PyMC does.
    """

    default_convergence: ClassVar[str | None] = None

    def fit(
        self,
        n: int = 10_000,
        score: bool | None = None,
        callbacks: Sequence[Any] | None = None,
        progressbar: bool = True,
        progressbar_theme: Any = default_progress_theme,
        *,
        backend: str | None = "auto",
        include_transformed: bool = False,
        random_seed: int | None = None,
        **options: Any,
    ) -> Approximation:
        """Fit from the present parameters; see :func:`pymc_vi_ext.fit` for the options.

        A second call with the same options compiles nothing.
        """
        call = Call(
            callbacks=list(callbacks or ()),
            progressbar=progressbar,
            theme=progressbar_theme,
            include_transformed=include_transformed,
            random_seed=random_seed,
        )
        convergence = options.pop("convergence", self.default_convergence)
        names = [*inspect.signature(self.fit).parameters, "convergence"]
        options = known_options(options, names)
        return fit_method(
            self, n, call, score=score, backend=backend, convergence=convergence, **options
        )

    def refine(
        self, n: int, progressbar: bool = True, progressbar_theme: Any = default_progress_theme
    ) -> None:
        """Take `n` more steps from where the last fit stopped: same program, same callbacks."""
        refine_method(self, n, Call(progressbar=progressbar, theme=progressbar_theme))


class EngineMethod(LoopMethod):
    """A method whose step PyMC writes as a graph, which the package's engines run.

    Stands before the PyMC class among the bases. What it minimises is PyMC's ``objective``, whose
    ``updates`` are the step.

    Parameters
    ----------
    model : pymc.Model, optional
    random_seed : int, optional
    start : dict of str to array, optional
        Of a subclass, besides its options.

    Attributes
    ----------
    has_optimizer : bool
        Whether the step follows a gradient.
    annealed_rate : float
        Learning rate at the first of exactly `n` steps.
    """

    accepts: ClassVar[frozenset[str]] = PYMC_OPTIONS | {
        *("callbacks", "obj_n_mc", "obj_optimizer", "learning_rate", "compile_kwargs", "devices")
    }
    has_optimizer: ClassVar[bool] = True
    annealed_rate: ClassVar[float] = 0.05
    # What it minimises by itself, and in place of that, by the object that said so.
    _own_objective: ObjectiveFunction | None = None
    _objectives: Mapping[Objective, ObjectiveFunction] | None = None

    @property
    def loss_name(self) -> str:
        """The negative ELBO; of Stein methods, which do without log q, the discrepancy."""
        return NEGATIVE_ELBO if self.objective.op.require_logq else "KSD"

    @property
    def scored(self) -> bool:
        """Whether PyMC's operator returns a loss."""
        return bool(self.objective.op.returns_loss)

    def default_rule(self) -> Rule:
        """Return stages of falling rate until averages agree."""
        return StagedStop()

    def prepare(self, request: Request) -> Prepared:
        """Write the step as a program, and compile it.

        A model on minibatches, and a rule that is part of the step, make two programs, of which the
        second takes its steps on all data: the noise of batches hides what is still to gain. Data
        that are read from disk are fed to one program, whose rule judges by passes over them.
        """
        model = self.approx.model
        in_batches = has_minibatches(model)
        if in_batches:
            for sentence in doubtful_totals(model) + separate_batches(model):
                warn(sentence)
        of_elbo = self.objective.op.require_logq
        scaled = in_batches and of_elbo and self.approx.scale_cost_to_minibatch
        unit = minibatch_scale(model) if scaled else 1.0
        options = dict(request.more)
        draws = self.default_draws if request.obj_n_mc is None else request.obj_n_mc
        if draws is not None:
            options["obj_n_mc"] = draws
        if request.rule is not None:
            more = options.get("more_updates") or {}
            options["more_updates"] = {**more, **request.rule.updates(self.approx)}
        options |= {
            "score": request.scored,
            "probe": self._probe(),
            "loss_scale": unit,
        }

        judged = request.rule is not None and request.rule.part_of_step

        def step(**more: Any) -> tuple[StepProgram, Optimizer]:
            optimizer = self._optimizer(request) if self.has_optimizer else Optimizer()
            if self.has_optimizer:
                more["obj_optimizer"] = optimizer
            if judged:
                more["quasi_noise"] = QuasiNoise()
            return StepProgram.from_inference(self, **options, **more), optimizer

        program, optimizer = step()
        compiled = partial(
            request.make_loop,
            backend=request.backend,
            compile_kwargs=request.compile_kwargs,
            devices=request.devices,
        )
        loop = compiled(program, meanwhile=partial(prepare_draws, self.approx))
        grows = in_batches and judged and not is_streamed(model)
        if not (grows and size_of_data(model) <= _MOST_NUMBERS):
            return Prepared(program, loop, optimizer, unit)
        whole, second = step(whole=on_all_data(model), rate_scale=program.rate_scale)
        growing = GrowingProgram(program, whole)

        def compile_whole() -> Loop:
            made = compiled(whole)
            check_gradient(self.approx, whole, made)
            return made

        both = GrowingLoop(growing, loop, compile_whole)
        return Prepared(growing, both, Together(optimizer, second), unit)

    def begin_near(self, point: np.ndarray, sd: float) -> bool:
        """Set the families to the narrow Gaussian, where all can be one."""
        if len(point) > _LARGEST_NARROW:
            return False
        try:
            set_gaussians(self.approx, point, np.eye(len(point)) * sd**2)
        except NotImplementedError:
            return False
        return True

    def _probe(self) -> Probe | None:
        """Return what the step's gradient is held against; None for Stein methods of PyMC's own."""
        op = self.objective.op
        if isinstance(op, Probed):
            return op.probe
        # PyMC's own gradients of the ELBO are those of the loss.
        return Probe(self.approx.params) if isinstance(op, KL) else None

    def _optimizer(self, request: Request) -> Optimizer:
        given, rate = request.obj_optimizer, request.learning_rate
        if given is not None:
            optimizer = given if isinstance(given, Optimizer) else Given(given)
            if optimizer.decays and request.rule is not None and request.rule.part_of_step:
                raise ValueError(
                    f"{request.rule.name} lowers the learning rate itself, and judges by iterates "
                    "that move: a rate that falls by itself would look like convergence. Give an "
                    "optimizer of constant rate, or convergence=None."
                )
            return optimizer
        if request.rule is not None:
            return WhitenedAdam(self.approx, **({} if rate is None else {"learning_rate": rate}))
        return AnnealedAdam(
            self.annealed_rate if rate is None else rate, average=not self.approx.any_histograms
        )

    def minimise(self, objective: Objective) -> None:
        """Take `objective` in place of its own; the same object again is the same program."""
        own = self._own_objective or self.objective
        self._own_objective = own
        self.tempered_steps = objective.steps if isinstance(objective, Tempered) else 0
        if objective == ELBO():
            self.objective = own
            return
        made = dict(self._objectives or {})
        if objective not in made:
            made[objective] = self._objective_of(objective, own)
        self._objectives = made
        self.objective = made[objective]

    def _objective_of(self, objective: Objective, own: ObjectiveFunction) -> ObjectiveFunction:
        if not isinstance(own.op, PathELBO):
            super().minimise(objective)
        return objective.operator(self.approx)(None)


def known_options(options: Mapping[str, Any], arguments: Iterable[str]) -> dict[str, Any]:
    """Return the keywords of a fit by their present names.

    Parameters
    ----------
    options : mapping of str
        Keywords that the fit's signature does not name.
    arguments : iterable of str
        Those it names.

    Raises
    ------
    TypeError
        If a keyword is unknown, naming the nearest there is.

    Warns
    -----
    DeprecationWarning
        If it has PyMC's old name.
    """
    renamed = dict(options)
    old = renamed.pop("fn_kwargs", None)
    if old is not None:
        if renamed.get("compile_kwargs") is not None:
            raise TypeError("`fn_kwargs` is the old name of `compile_kwargs`: leave it out.")
        warn("`fn_kwargs` is deprecated: use `compile_kwargs`.", DeprecationWarning)
        renamed["compile_kwargs"] = old
    known = EngineMethod.accepts
    for name in renamed:
        if name not in known:
            near = difflib.get_close_matches(name, sorted({*known, *arguments}), n=1)
            raise TypeError(
                f"A fit has no option {name!r}: "
                + (f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known))}.")
            )
    return renamed


class FamilyMethod(EngineMethod, KLqp):
    """ADVI over one group of a family: minimises the negative ELBO.

    A subclass names its options and how they make the group.

    Parameters
    ----------
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
    start : dict of str to array, optional
        Starting means, by name of the variables.
    """

    def __init__(
        self,
        *given: Any,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        start: Any = None,
        **options: Any,
    ):
        self.options = type(self).Options.bind(self.name, given, options)
        model = continuous_model(model, self.name, start)
        with python_only():
            group = self.group(model.free_RVs, model, random_seed, start)
            super().__init__(OneGroup(group))
        self.objective = PathELBO(self.approx)(None)
        self.seed = random_seed

    def group(self, variables: Any, model: pm.Model, random_seed: int | None, start: Any) -> Group:
        """Return the group of all `variables`, for the options of this method."""
        raise NotImplementedError


class PyMCMethod(EngineMethod):
    """One of PyMC's own inference objects, a ``KLqp`` over groups for instance, as a method.

    Parameters
    ----------
    inference : pymc.Inference
    """

    takes_start = False

    def __init__(self, inference: Inference):
        refuse_trees(inference.approx.model)
        self.inference = inference
        # Methods of PyMC's that want many draws say so in the signature of their own `fit`.
        draws = inspect.signature(inference.fit).parameters.get("obj_n_mc")
        self.default_draws = None if draws is None else draws.default

    @property
    def name(self) -> str:
        """Name of PyMC's class."""
        return type(self.inference).__name__

    @property
    def approx(self) -> Approximation:
        """The approximation of the inference."""
        return self.inference.approx

    @property
    def objective(self) -> ObjectiveFunction:
        """What the inference minimises."""
        return self.inference.objective

    @objective.setter
    def objective(self, objective: ObjectiveFunction) -> None:
        self.inference.objective = objective

    @property
    def hist(self) -> np.ndarray:
        """Losses of all fits of the inference."""
        hist: np.ndarray = self.inference.hist
        return hist

    @hist.setter
    def hist(self, hist: np.ndarray) -> None:
        self.inference.hist = hist

    @property
    def state(self) -> State | None:
        """What PyMC's ``refine`` goes on from."""
        return self.inference.state

    @state.setter
    def state(self, state: State | None) -> None:
        self.inference.state = state


def method_of(inference: Inference) -> Method:
    """Return what the package fits `inference` by: itself, or what adopts one of PyMC's own.

    Parameters
    ----------
    inference : pymc.Inference
        The package's, or one of PyMC's own.

    Returns
    -------
    Method

    Examples
    --------
    >>> import pymc as pm
    >>> from pymc_vi_ext.inference import Method, method_of
    >>> with pm.Model():
    ...     x = pm.Normal("x")
    ...     method = method_of(pm.ADVI(random_seed=1))
    >>> isinstance(method, Method), method.takes_steps
    (True, True)
    """
    if isinstance(inference, Method):
        return inference
    if "_adopted" not in vars(inference):
        inference._adopted = PyMCMethod(inference)
    adopted: Method = inference._adopted
    return adopted


def continuous_model(
    model: pm.Model | None, method: str, start: Any = None, *, dense: bool = False
) -> pm.Model:
    """Return `model`, or the one on the context, if `method` can fit it from `start`.

    Parameters
    ----------
    model : pymc.Model, optional
    method : str
    start : mapping, optional
    dense : bool
        Whether the method holds a covariance of all variables.

    Raises
    ------
    TypeError
        If the model has no free variables.
    ParametrizationError
        If a free variable is discrete, or of BART, naming it.
    ValueError
        If `start` names no variable of the model, or gives one another shape, or the model is too
        large for a method that is dense.
    """
    model = modelcontext(model)
    if not model.free_RVs:
        raise TypeError(
            f"{method} has nothing to fit: the model has no free variables (all are observed, or "
            "none was added)."
        )
    discrete = [rv.name for rv in model.free_RVs if rv.type.dtype in discrete_types]
    if discrete:
        raise ParametrizationError(
            f"Discrete variables are not supported by VI: {', '.join(discrete)}. {method} needs "
            "continuous ones: marginalise (pymc_extras.marginalize) or use pm.sample."
        )
    refuse_trees(model)
    check_start(start, model)
    if dense:
        refuse_dense(_size_of(model))
    return model


def _size_of(model: pm.Model) -> int:
    """Return how many unconstrained elements the variables of a model have."""
    shapes = [model.rvs_to_values[rv].type.shape for rv in model.free_RVs]
    if any(None in shape for shape in shapes):
        with python_only():
            return sum(np.size(value) for value in model.initial_point().values())
    return sum(math.prod(shape) for shape in shapes)


def refuse_trees(model: pm.Model) -> None:
    """Raise a ParametrizationError if a free variable is a sum of trees (pymc-bart's BART).

    The log density that is written for one is zero everywhere: its prior is over trees, which only
    a sampler of its own moves.
    """
    trees = [
        rv.name
        for rv in model.free_RVs
        if any(base.__module__.startswith("pymc_bart") for base in type(rv.owner.op).__mro__)
    ]
    if trees:
        raise ParametrizationError(
            f"{', '.join(trees)} is a BART variable, whose prior is over trees and no density: a "
            "fit would leave it without any prior. Use pm.sample, which moves the trees."
        )
