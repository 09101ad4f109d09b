"""What a fit leaves on its method: compiled steps and losses, for a second fit or ``refine``."""

from __future__ import annotations

import functools

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytensor

from pymc.variational.opvi import Approximation

from pymc_vi_ext.callbacks import RULES, Callback, Rule
from pymc_vi_ext.errors import INTERRUPT, UnknownNameError
from pymc_vi_ext.gradient_check import check_gradient
from pymc_vi_ext.method import Method, Prepared, Request
from pymc_vi_ext.python_only import building
from pymc_vi_ext.results import FitReport, StopReason


@dataclass
class Session:
    """Steps of a method, and how far they have been taken.

    Attributes
    ----------
    key : hashable
        Equal for requests that mean the same steps.
    request : Request
        Of its options some are in `key` by their id only: this keeps them, and so their ids, alive.
    prepared : Prepared
    losses : array of shape (steps,) or None
        In nats, since the last ``fit``.
    steps : int
        Since the last ``fit``.
    seed : int or None
        Of the last ``fit``.
    options : mapping or None
        What a checkpoint needs to call :func:`pymc_vi_ext.fit` again.
    unit : float
        Nats in a unit of the losses.
    chunk : int
        Steps that fill a call of the engine, as measured last.
    """

    key: Any
    request: Request
    prepared: Prepared
    losses: np.ndarray | None = None
    steps: int = 0
    seed: int | None = None
    options: Mapping[str, Any] | None = None
    unit: float = 1.0
    # Few at first: a call cannot be interrupted, and how long a step takes is not known yet.
    chunk: int = 1


def open_session(
    method: Method, request: Request, convergence: str | Rule | None
) -> tuple[Session, bool]:
    """Return the session of `method` for `request`, and whether it was prepared just now.

    Parameters
    ----------
    method : Method
    request : Request
        Without its rule.
    convergence : str, Rule or None
        As of :func:`pymc_vi_ext.fit`.
    """
    own = convergence if not isinstance(convergence, Rule) else id(convergence)
    key = (_freeze(vars(request)), own, pytensor.config.floatX, id(method.objective))
    last = method.session
    if last is not None and last.key == key and _still_serves(last.request.rule, method):
        return last, False
    request = replace(request, rule=_rule(method, convergence))
    # One that is left behind frees its arrays before the next is made.
    method.session = None
    with building():
        prepared = method.prepare(request)
    check_gradient(method.approx, prepared.program, prepared.loop)
    method.session = Session(key, request, prepared)
    return method.session, True


def split_rule(
    callbacks: list[Callback], convergence: str | Rule | None
) -> tuple[list[Callback], str | Rule | None]:
    """Return the callbacks but the rule that is part of the step, and what then judges the fit.

    Raises
    ------
    ValueError
        If there are two such rules, or two callbacks of which one changes the learning rate and the
        other needs a constant one.
    """
    parts = [c for c in callbacks if isinstance(c, Rule) and c.part_of_step]
    if parts and (len(parts) > 1 or isinstance(convergence, Rule)):
        other = convergence if isinstance(convergence, Rule) else parts[1]
        raise ValueError(
            f"{parts[0].name} and {other.name} both judge the fit: give one of them, as "
            "`convergence=`."
        )
    left = [c for c in callbacks if c not in parts]
    constant = [c.name for c in left if c.needs_constant_rate]
    changing = [c.name for c in left if c.changes_rate]
    if constant and changing:
        raise ValueError(
            f"{constant[0]} needs a constant learning rate, and {changing[0]} changes it: use one "
            "of them."
        )
    return left, parts[0] if parts else convergence


def _rule(method: Method, convergence: str | Rule | None) -> Rule | None:
    if convergence is None or isinstance(convergence, Rule):
        return convergence
    if convergence == "default":
        return method.default_rule()
    if convergence not in RULES:
        raise UnknownNameError("stopping rule", convergence, ("default", None, *RULES))
    return RULES[convergence]()


def _still_serves(rule: Rule | None, method: Method) -> bool:
    return rule is None or rule.serves(method.approx)


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


def mark_interrupted(approx: Approximation, when: str = "after the last step") -> None:
    """Let the report of a fit say that Ctrl-C came, where that has ended nothing else."""
    report: FitReport = approx.report
    if report.stop_reason is not StopReason.INTERRUPTED:
        evidence = "; ".join(filter(None, [report.evidence, f"{INTERRUPT} {when}"]))
        approx.report = replace(report, stop_reason=StopReason.INTERRUPTED, evidence=evidence)
