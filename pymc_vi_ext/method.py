"""The contract of methods: all that the loop, `fit`, `compare` and configurations ask of one.

A method is a PyMC ``Inference`` with this class among its bases. What a fit runs is always the
same loop (:mod:`pymc_vi_ext.loop`); a method says what its steps are (:meth:`Method.prepare`),
which rule judges them (:meth:`Method.default_rule`), and how it ends (:meth:`Method.conclude`).
"""

from __future__ import annotations

import inspect
import math
import time

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pymc_vi_ext.callbacks import RULES, Rule
from pymc_vi_ext.engine import make_loop
from pymc_vi_ext.objectives import ELBO, Objective
from pymc_vi_ext.optimizers import Optimizer
from pymc_vi_ext.options import Options as AnyOptions
from pymc_vi_ext.options import documented, option, signature
from pymc_vi_ext.python_only import building, sample_alone
from pymc_vi_ext.results import NEGATIVE_ELBO, StopReason

if TYPE_CHECKING:
    import numpy as np

    from pymc.variational.opvi import Approximation

    from pymc_vi_ext.engine import Loop, Program
    from pymc_vi_ext.session import Session
    from pymc_vi_ext.upstream import ObjectiveFunction, State

# Of ObjectiveFunction.updates, besides those which `Request` names.
PYMC_OPTIONS = frozenset(
    {
        *("tf_n_mc", "test_optimizer", "more_obj_params", "more_tf_params"),
        *("more_updates", "more_replacements", "total_grad_norm_constraint"),
    }
)
_ARGUMENTS = ("model", "random_seed", "start")
_COMMON = """\
model : pymc.Model, optional
    By default the one on the context.
random_seed : int, optional
    Of the start, and of the draws where a fit is given no seed of its own."""
_START = """
start : dict of str to array, optional
    Starting means, by name of the variables."""


@dataclass(frozen=True)
class NoOptions(AnyOptions):
    """Options of a method that has none."""


@dataclass(frozen=True)
class EvaluationOptions(AnyOptions):
    """How a method without steps of its own evaluates the log density."""

    backend: Literal["auto", "jax", "numba", "c"] = option(
        "auto", "What evaluates; auto is JAX, or numba where JAX lacks an Op."
    )


@dataclass(frozen=True)
class StepOptions(AnyOptions):
    """How the steps of a method are taken; the same names as of :func:`pymc_vi_ext.fit`."""

    n: int = option(100_000, "Number of steps, at most; exactly, with convergence null.", ge=1)
    convergence: str | None = option(
        "default", "Rule that stops the fit before that; null is none.", choices=lambda: RULES
    )
    backend: Literal["auto", "jax", "numba", "c"] = option(
        "auto", "What runs the steps; auto is JAX, or numba where JAX lacks an Op."
    )


@dataclass(frozen=True)
class BatchOptions(StepOptions):
    """Options of steps on a batch of draws."""

    obj_n_mc: int | None = option(
        None, "Draws a step; null is the method's default.", ge=1, le=100_000
    )


@dataclass(frozen=True)
class GradientOptions(BatchOptions):
    """Options of steps along a gradient."""

    learning_rate: float | None = option(
        None, "First rate of the default optimizer; null is the method's default.", gt=0
    )


@dataclass(frozen=True)
class Request:
    """What a fit asks of the steps: all that makes them what they are.

    Attributes
    ----------
    backend : str or None
    scored : bool
        Whether they return losses.
    rule : Rule or None
        What will judge them; its `updates` belong to the step.
    obj_n_mc : int or None
        Draws a step.
    obj_optimizer : callable or None
        The user's; None is the method's own.
    learning_rate : float or None
        Of the method's own optimizer.
    compile_kwargs : mapping or None
        For :func:`pytensor.function`.
    devices : int, "all", sequence of jax.Device or None
        What shares the work of a step; None is the one device that JAX takes.
    more : mapping of str
        The other options of :meth:`pymc.variational.opvi.ObjectiveFunction.updates`.
    make_loop : callable
        What compiles a program: :func:`pymc_vi_ext.engine.make_loop`, or what takes its arguments.

    Examples
    --------
    >>> from pymc_vi_ext.method import Request
    >>> Request(backend="numba", obj_n_mc=4).scored
    True
    """

    backend: str | None = "auto"
    scored: bool = True
    rule: Rule | None = None
    obj_n_mc: int | None = None
    obj_optimizer: Any = None
    learning_rate: float | None = None
    compile_kwargs: Mapping[str, Any] | None = None
    devices: Any = None
    more: Mapping[str, Any] = field(default_factory=dict)
    make_loop: Callable[..., Loop] = make_loop


@dataclass(frozen=True)
class Prepared:
    """Steps that are ready to be taken.

    Attributes
    ----------
    program : Program
        What a step changes and reads, as shared variables.
    loop : Loop
        What runs it.
    optimizer : Optimizer
    unit : float
        Nats of the full data in a unit of what PyMC calls the loss: total over batch where it is
        scaled to minibatches.
    """

    program: Program
    loop: Loop
    optimizer: Optimizer = field(default_factory=Optimizer)
    unit: float = 1.0


@dataclass
class Ending:
    """How the steps of a fit ended.

    Attributes
    ----------
    reason : StopReason
    stopped_by : str or None
        Name of the callback.
    evidence : str
    error : Exception or None
        What the fit will raise.
    outside : bool
        Whether some mass of the result has an infinite loss.
    has_result : bool
        Whether a callback set the parameters to the result.
    warnings : list of str
        What the fit will warn of at its very end.
    khat, weights_worth : float
        Of importance weights of the result, NaN where none are known: the shape of their tail, and
        the share of the draws that they are worth.

    Examples
    --------
    >>> from pymc_vi_ext.method import Ending
    >>> Ending().reason
    <StopReason.COMPLETED: 'completed'>
    """

    reason: StopReason = StopReason.COMPLETED
    stopped_by: str | None = None
    evidence: str = ""
    error: Exception | None = None
    outside: bool = False
    has_result: bool = False
    warnings: list[str] = field(default_factory=list)
    khat: float = math.nan
    weights_worth: float = math.nan


@dataclass(frozen=True)
class Conclusion:
    """What a method adds to the report at the end: evidence, what to warn of, and k-hat.

    Attributes
    ----------
    evidence : str
        What joins that of the report.
    warning : str
        What the fit warns of; empty for nothing.
    khat, weights_worth : float
        Of importance weights of the result; NaN where the method knows none.

    Examples
    --------
    >>> from pymc_vi_ext.method import Conclusion
    >>> Conclusion("1,000 draws").warning
    ''
    """

    evidence: str = ""
    warning: str = ""
    khat: float = math.nan
    weights_worth: float = math.nan


class _Timed(ABCMeta):
    """Metaclass whose instances know how long their construction took."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        with building():
            made = super().__call__(*args, **kwargs)
            sample_alone(made.approx)
        made.construct_s = time.perf_counter() - started
        return made


def _signature(method: type[Method], more: Sequence[str]) -> inspect.Signature:
    """Return the constructor's signature, with its options in place of ``*given, **options``."""
    own = list(inspect.signature(method.__init__).parameters.values())[1:]
    kinds = {parameter.kind for parameter in own}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        return inspect.Signature(own)
    made = list(signature(method.Options, *more).parameters.values())
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        made = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in made]
    names = {parameter.name for parameter in made}
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in own
        if parameter.name not in names
        and parameter.kind
        in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    ]
    first = [p for p in plain if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    last = [p for p in plain if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return inspect.Signature([*first, *made, *last])


class Method(metaclass=_Timed):
    """A variational method that the package's loop can fit.

    A subclass is a PyMC ``Inference`` too, which gives it `approx`, `objective`, `hist` and
    `state`. Its docstring may hold ``{parameters}``, where the options it declares are written out.

    Attributes
    ----------
    Options : subclass of Options
        What its constructor takes besides `model`, `random_seed` and `start`.
    FitOptions : subclass of Options
        Those of the options of :func:`pymc_vi_ext.fit` that make sense for it, for configurations.
    accepts : frozenset of str
        Options of a fit that it takes, of `obj_n_mc`, `obj_optimizer`, `learning_rate`,
        `compile_kwargs`, `callbacks` and :data:`PYMC_OPTIONS`.
    refusal : str
        Why it does not take the others; completes "BaM ...: leave out learning_rate".
    takes_steps : bool
        Whether there are steps to count, and to call callbacks after.
    takes_start : bool
        Whether its constructor has a `start`.
    needs_all_data : bool
        Whether it refuses models with minibatches.
    unfit_rules : frozenset of str
        Names of :data:`pymc_vi_ext.callbacks.RULES` that cannot judge it; configurations refuse
        them.
    finds_start : bool
        Whether its result does not depend on where it starts: another start or several are refused.
    default_draws : int or None
        Draws a step where a fit does not say; None is PyMC's default.
    options : Options
        As constructed.
    seed : int or None
    construct_s : float
        Seconds its construction took; a fit counts them once.
    tempered_steps : int
        First steps during which the objective itself changes.
    session : Session or None
        What the last fit leaves for the next one.
    """

    Options: ClassVar[type[AnyOptions]] = NoOptions
    FitOptions: ClassVar[type[AnyOptions]] = GradientOptions
    accepts: ClassVar[frozenset[str]] = frozenset()
    refusal: ClassVar[str] = "does not take it"
    takes_steps: ClassVar[bool] = True
    takes_start: ClassVar[bool] = True
    needs_all_data: ClassVar[bool] = False
    unfit_rules: ClassVar[frozenset[str]] = frozenset()
    finds_start: ClassVar[bool] = False
    default_draws: int | None = None

    approx: Approximation
    objective: ObjectiveFunction
    hist: np.ndarray
    state: State | None
    options: AnyOptions
    seed: int | None = None
    construct_s: float = 0.0
    tempered_steps: int = 0
    session: Session | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class the signature and the documentation of its options."""
        super().__init_subclass__(**kwargs)
        more = _ARGUMENTS if cls.takes_start else _ARGUMENTS[:2]
        if "__signature__" not in vars(cls):
            # What `inspect`, and with it help and the API pages, take for the constructor's own.
            cls.__signature__ = _signature(cls, more)  # type: ignore[attr-defined]
        if cls.__doc__ and "{parameters}" in cls.__doc__:
            entries = "\n".join(filter(None, [documented(cls.Options), _COMMON]))
            entries += _START if cls.takes_start else ""
            indented = entries.replace("\n", "\n    ")
            cls.__doc__ = cls.__doc__.replace("{parameters}", indented)

    @property
    def name(self) -> str:
        """What messages call it."""
        return type(self).__name__

    @property
    def loss_name(self) -> str:
        """What `hist` holds, empty where it stays empty."""
        return NEGATIVE_ELBO

    @property
    def scored(self) -> bool:
        """Whether its steps have losses."""
        return True

    @abstractmethod
    def prepare(self, request: Request) -> Prepared:
        """Write the steps that `request` asks for, and compile them.

        The present parameters are where they begin; :meth:`Program.restart` puts everything else
        back to a start, so that a second fit with the same request runs what this returned.
        """

    def default_rule(self) -> Rule | None:
        """Return a new rule of those behind ``convergence="default"``; None if it needs none."""
        return None

    def find_beginning(self, request: Request, n: int, seed: int | None) -> str:
        """Put the parameters where the steps had better begin, and say where that is.

        Called before the first step of a fit, unless that goes on from a checkpoint.

        Parameters
        ----------
        request : Request
            What the steps were prepared for.
        n : int
            Number of these steps, at most.
        seed : int, optional

        Returns
        -------
        str
            What joins the evidence of the report; empty where the parameters are as they were.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C; where the parameters are by then is the result.
        """
        return ""

    def conclude(self, ending: Ending) -> Conclusion:
        """Finish the approximation after the last step, and say what there is to say about it.

        Parameters
        ----------
        ending : Ending
            `has_result` says that a callback has set the parameters: they stay.
        """
        return Conclusion()

    def begin_near(self, point: np.ndarray, sd: float) -> bool:
        """Begin the next fit at a Gaussian around `point`; tell whether that can be done.

        Parameters
        ----------
        point : array of shape (d,)
            All elements of the free variables, on the unconstrained space.
        sd : float
            Its standard deviation in every direction.
        """
        return False

    def minimise(self, objective: Objective) -> None:
        """Minimise `objective` in place of its own, which the plain ELBO stands for.

        Raises
        ------
        ValueError
            If the method minimises something else.
        """
        if objective == ELBO():
            return
        raise ValueError(
            f"{self.name} does not minimise an ELBO: `objective` is for the methods that end in "
            'advi ("tempered" for svgd and asvgd too).'
        )
