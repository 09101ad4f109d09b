"""One optimisation step of any PyMC inference as a pure function of its state."""

import math

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pymc as pm
import pytensor

from pymc.pytensorf import floatX
from pymc.variational.inference import Inference
from pytensor.compile.mode import Mode, get_mode
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.traversal import ancestors, graph_inputs
from pytensor.scan.op import Scan
from pytensor.tensor.random.type import RandomType
from pytensor.tensor.type import TensorType

from pymc_vi_ext.engine.differentiable import gradient_of
from pymc_vi_ext.engine.feed import Feed
from pymc_vi_ext.engine.quasi_noise import QuasiNoise
from pymc_vi_ext.engine.vectorize import vectorized
from pymc_vi_ext.native import Native
from pymc_vi_ext.probe import Probe
from pymc_vi_ext.python_only import python_only
from pymc_vi_ext.upstream import (
    CHECK_TO_INFINITY,
    REMOVE_CHECK,
    SLICES_OF_ONE,
    collect_default_updates,
    default_update,
    reseed_rngs,
)


class Program(Protocol):
    """What the loop, its callbacks and checkpoints know of the steps of any method."""

    @property
    def state(self) -> Sequence[SharedVariable]:
        """What a step changes: parameters, an optimizer's state, random generators."""

    @property
    def data(self) -> Sequence[SharedVariable]:
        """What a step only reads."""

    @property
    def rngs(self) -> Sequence[SharedVariable]:
        """Of `state`, the random generators."""

    @property
    def rate_scale(self) -> SharedVariable:
        """Scale of every move of the parameters: 1 at the start; at 0 a step only evaluates."""

    def restart(self, seed: int) -> None:
        """Put all but the parameters back to a start, and seed the random generators."""

    def restart_optimizer(self) -> None:
        """Put the optimizer's state back to its start."""


class StepProgram:
    """A step ``(state, data) -> (state, loss)`` as a PyTensor graph, for an engine to run.

    PyMC writes one step of a variational method as updates of shared variables. The program
    sorts these variables by role and knows nothing of the method, the family or the backend.

    Parameters
    ----------
    updates : mapping of SharedVariable to Variable
        The next value of everything that a step changes, random generators excepted: their
        updates are found in the graph.
    loss : Variable, optional
        Scalar loss of the step in nats (the negative ELBO for KL objectives), None for methods
        that have none.
    optimizer_state : iterable of SharedVariable
        Those of `updates` that :meth:`restart` puts back to their values of now. Counters of
        learning rate schedules (shared variables that update themselves) join them.
    check_bounds : bool
        Whether parameters outside their support give a log density of minus infinity (as
        ``pm.Model(check_bounds=...)``).
    rate_scale : SharedVariable, optional
        Multiplies every move of the parameters, whatever the optimizer: 1 at the start; at 0 a
        step only evaluates its loss. A new one by default.
    probe : Probe, optional
        What the gradient of the step is held against.
    quasi_noise : QuasiNoise, optional
        What may stand for the random numbers of the step's draws.
    watched : bool
        Whether callbacks may look at the steps.
    feed : Feed, optional
        What brings the batches that the step reads, where it reads some.
    particles : iterable of SharedVariable
        Those of `updates` with a row for each particle of an approximation that is made of them.
    draws : int
        Draws of the approximation that a step takes.

    Attributes
    ----------
    state : list of SharedVariable
        What a step carries: parameters, optimizer state, random generators.
    data : list of SharedVariable
        What a step only reads, ``pm.Data`` for instance.
    rngs, internals : collection of SharedVariable
        Of `state`, the random generators; these and the optimizer's state.

    Examples
    --------
    >>> import pytensor
    >>> from pymc_vi_ext.engine import StepProgram, make_loop
    >>> x = pytensor.shared(8.0, "x")
    >>> program = StepProgram({x: x / 2}, loss=x**2)
    >>> loop = make_loop(program, "jax")
    >>> loop.run(3).tolist()
    [64.0, 16.0, 4.0]
    >>> loop.write_back()
    >>> float(x.get_value())
    1.0
    """

    def __init__(
        self,
        updates: Mapping[SharedVariable, Variable],
        loss: Variable | None = None,
        *,
        optimizer_state: Iterable[SharedVariable] = (),
        check_bounds: bool = True,
        rate_scale: SharedVariable | None = None,
        probe: Probe | None = None,
        quasi_noise: QuasiNoise | None = None,
        watched: bool = True,
        feed: Feed | None = None,
        particles: Iterable[SharedVariable] = (),
        draws: int = 1,
    ):
        self.loss, self.watched = loss, watched
        self.particles, self.draws = frozenset(particles), draws
        self.probe = probe
        self.feed = Feed() if feed is None else feed
        self.quasi_noise = QuasiNoise() if quasi_noise is None else quasi_noise
        # A step that moves no parameters has none in it.
        self.rate_scale = new_rate_scale() if rate_scale is None else rate_scale
        updates = {**updates, **self.feed.updates}
        outputs = [*updates.values(), *self._loss]
        shared = [v for v in graph_inputs(outputs) if isinstance(v, SharedVariable)]
        counters: list[SharedVariable] = []
        for variable in shared:
            default = default_update(variable)
            if default is not None:
                updates.setdefault(variable, default)
                if not isinstance(variable.type, RandomType):
                    counters.append(variable)
        updates |= {
            rng: new
            for rng, new in collect_default_updates(inputs=[], outputs=outputs).items()
            if rng not in updates
        }
        self.updates = updates
        # What :func:`numbers_computed` has found, which copies share.
        self.counted: dict[bool, float] = {}
        self.check_bounds = check_bounds
        self.state = list(updates)
        self.data = [
            v
            for v in dict.fromkeys(graph_inputs(self.outputs))
            if isinstance(v, SharedVariable) and v not in updates
        ]
        self.rngs = [v for v in self.state if isinstance(v.type, RandomType)]
        self._optimizer_start = {v: v.get_value() for v in [*optimizer_state, *counters]}
        self.internals: Collection[SharedVariable] = {
            *self._optimizer_start,
            *self.feed.updates,
            *self.rngs,
        }

    @classmethod
    def from_inference(
        cls,
        inference: Inference,
        *,
        score: bool = True,
        probe: Probe | None = None,
        loss_scale: float = 1.0,
        whole: pm.Model | None = None,
        rate_scale: SharedVariable | None = None,
        quasi_noise: QuasiNoise | None = None,
        **kwargs: Any,
    ) -> "StepProgram":
        """Build the program of one step of `inference`.

        Parameters
        ----------
        inference : pymc.Inference
            ADVI, FullRankADVI, SVGD, ASVGD, or a ``KLqp``/``ImplicitGradient`` over any groups.
        score : bool
            Whether the step returns its loss. Ignored for objectives that have none.
        probe : Probe, optional
            Of the step. Where the step does not set its value and slope itself, the value is the
            loss and the slope that of the gradients that the optimizer is given.
        loss_scale : float
            Nats in a unit of the objective's loss, which PyMC scales to a minibatch.
        whole : pymc.Model, optional
            The model on all of its data, for steps on these and not on minibatches.
        rate_scale : SharedVariable, optional
            By default a new one.
        quasi_noise : QuasiNoise, optional
            What is to stand for the random numbers of the draws when it is asked to.
        **kwargs
            As :meth:`pymc.variational.opvi.ObjectiveFunction.updates`: `obj_n_mc`,
            `obj_optimizer`, `more_updates`, `more_replacements`, `total_grad_norm_constraint` ...

        Returns
        -------
        StepProgram

        Examples
        --------
        >>> import pymc as pm
        >>> from pymc_vi_ext.engine import StepProgram
        >>> with pm.Model():
        ...     x = pm.Normal("x")
        ...     program = StepProgram.from_inference(pm.ADVI(), obj_optimizer=pm.adam())
        >>> [variable.name for variable in program.state[:3]]
        [None, None, 'mu']
        """
        draws = kwargs.get("obj_n_mc")
        objective = vectorized(inference.objective, draws, whole, quasi_noise)
        if probe is not None and "obj_optimizer" in kwargs:
            norm = kwargs.pop("total_grad_norm_constraint", None)
            kwargs["obj_optimizer"] = probe.watching(kwargs["obj_optimizer"], norm)
        with python_only(), gradient_of(inference.approx.model):
            updates = objective.updates(**kwargs)
        if probe is not None:
            updates.setdefault(probe.value, updates.loss)
        rate_scale = new_rate_scale() if rate_scale is None else rate_scale
        for parameter in objective.obj_params:
            updates[parameter] = parameter + rate_scale * (updates[parameter] - parameter)
        loss = updates.loss
        if loss is not None and loss_scale != 1:
            loss = loss * floatX(loss_scale)
        if quasi_noise is not None:
            updates.update(quasi_noise.updates)
        owned_by_user = {
            *inference.approx.params,
            *objective.test_params,
            *(kwargs.get("more_updates") or ()),
            *(kwargs.get("more_obj_params") or ()),
            *(kwargs.get("more_tf_params") or ()),
            *(() if probe is None else (probe.value, probe.slope)),
        }
        scored = [loss] if score and loss is not None else []
        feed, outputs = Feed.of([*updates.values(), *scored])
        approx = inference.approx
        histograms = {_shape(p) for p in approx.params} if approx.all_histograms else ()
        return cls(
            dict(zip(updates, outputs, strict=False)),
            outputs[-1] if scored else None,
            optimizer_state=[v for v in updates if v not in owned_by_user],
            check_bounds=inference.approx.model.check_bounds,
            rate_scale=rate_scale,
            probe=probe,
            quasi_noise=quasi_noise,
            feed=feed,
            particles=[v for v in updates if _shape(v) in histograms],
            draws=1 if approx.all_histograms else draws or 1,
        )

    @property
    def _loss(self) -> list[Variable]:
        return [] if self.loss is None else [self.loss]

    @property
    def outputs(self) -> list[Variable]:
        """The next state, in the order of `state`, and then the loss where there is one."""
        return [*self.updates.values(), *self._loss]

    def mode(self, mode: Mode | str, *rewrites: str) -> Mode:
        """Return PyTensor's `mode` with PyMC's treatment of parameter checks, and `rewrites`."""
        check = CHECK_TO_INFINITY if self.check_bounds else REMOVE_CHECK
        base = get_mode(mode)
        # With lengths known, the gradient that reaches the first state of a loop is one element of
        # a slice read backwards, of which that rewrite takes another: a silently wrong posterior.
        query = base.provided_optimizer.including(check, *rewrites).excluding(SLICES_OF_ONE)
        return Mode(base.linker, query)

    def restart_optimizer(self) -> None:
        """Put the optimizer's state back to its start, in place."""
        for variable, value in self._optimizer_start.items():
            variable.set_value(np.copy(value))

    def restart(self, seed: int) -> None:
        """Put optimizer and batches back to their start, and seed the random generators."""
        self.restart_optimizer()
        self.feed.begin_at(0)
        self.rate_scale.set_value(floatX(1.0))
        if self.rngs:
            reseed_rngs(self.rngs, seed)


def new_rate_scale() -> SharedVariable:
    """Return a new scale of the learning rate, at 1."""
    return pytensor.shared(floatX(1.0), "rate_scale")


def _shape(variable: SharedVariable) -> tuple[int, ...]:
    return np.shape(variable.get_value(borrow=True))


def numbers_computed(program: StepProgram, *, in_loops: bool = False) -> float:
    """Return about how many numbers a step computes; infinite with a loop inside.

    Of all intermediate results whose shapes are known.

    Parameters
    ----------
    program : StepProgram
    in_loops : bool
        Whether to count those of loops too; infinite where a loop's number of rounds is not known,
        and where an operation is a function of JAX's own.

    Returns
    -------
    float

    Examples
    --------
    >>> import numpy as np, pytensor
    >>> from pymc_vi_ext.engine import StepProgram, numbers_computed
    >>> x = pytensor.shared(np.ones(1_000), "x", shape=(1_000,))
    >>> numbers_computed(StepProgram({x: x / 2})) >= 1_000
    True
    """
    counted = program.counted
    if in_loops not in counted:
        counted[in_loops] = _numbers_computed(program, in_loops)
    return counted[in_loops]


def _numbers_computed(program: StepProgram, in_loops: bool) -> float:
    nodes = {v.owner for v in ancestors(program.outputs) if v.owner is not None}
    loops = [node for node in nodes if isinstance(node.op, Scan)]
    if (loops and not in_loops) or any(isinstance(node.op, Native) for node in nodes):
        return math.inf
    return _numbers(nodes) + sum(_rounds(loop) * _numbers_of_a_round(loop) for loop in loops)


def _numbers(nodes: Iterable[Apply]) -> float:
    results = [v.type for node in nodes for v in node.outputs if isinstance(v.type, TensorType)]
    return float(sum(math.prod(n or 1 for n in kind.shape) for kind in results))


def _numbers_of_a_round(loop: Apply) -> float:
    nodes = loop.op.fgraph.apply_nodes
    inner = [node for node in nodes if isinstance(node.op, Scan)]
    return _numbers(nodes) + sum(_rounds(node) * _numbers_of_a_round(node) for node in inner)


def _rounds(loop: Apply) -> float:
    """Return how many rounds a loop takes at most; infinite where its lengths do not say."""
    if isinstance(loop.inputs[0], Constant):
        return float(loop.inputs[0].data)
    lengths = [v.type.shape[0] for v in loop.outputs if getattr(v.type, "shape", ())]
    known = [length for length in lengths if length is not None]
    return float(max(known)) if known else math.inf
