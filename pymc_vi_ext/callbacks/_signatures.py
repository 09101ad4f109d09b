"""How a user's function wants to be called."""

from __future__ import annotations

import inspect

from collections.abc import Callable
from typing import Any

_ARGUMENTS = {0: "()", 1: "(approx)", 3: "(approx, losses, i)"}


def number_of_arguments(function: Any, allowed: tuple[int, ...], what: str) -> int:
    """Tell how many of ``approx, losses, i`` a function takes, from its signature alone.

    Parameters
    ----------
    function : callable
    allowed : tuple of int
        Numbers to choose from; of those that fit, the first is taken.
    what : str
        What the function is, for messages.

    Raises
    ------
    TypeError
        If it is not callable, takes none of these numbers, or hides its signature.
    """
    counts, signature = _that_fit(function, allowed, what)
    if signature is None:
        raise TypeError(
            f"{what}, {function!r}, does not tell which arguments it takes: wrap it into a "
            f"function of {_forms(allowed)}, such as `lambda approx: ...`."
        )
    return counts[0]


def numbers_of_arguments(function: Any, allowed: tuple[int, ...], what: str) -> tuple[int, ...]:
    """Tell which of the `allowed` numbers of arguments a function may take, in that order.

    All of them, for one that hides its signature.

    Raises
    ------
    TypeError
        If it is not callable, or takes none of these numbers.
    """
    return _that_fit(function, allowed, what)[0]


def _that_fit(
    function: Any, allowed: tuple[int, ...], what: str
) -> tuple[tuple[int, ...], inspect.Signature | None]:
    if not callable(function):
        raise TypeError(f"{what} must be a function of {_forms(allowed)}, not {function!r}.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return allowed, None
    counts = tuple(count for count in allowed if _binds(signature, count))
    if not counts:
        raise TypeError(f"{what} must be a function of {_forms(allowed)}, not of {signature}.")
    return counts, signature


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _forms(allowed: tuple[int, ...]) -> str:
    return " or ".join(_ARGUMENTS[count] for count in allowed)


def call(function: Callable[..., Any], count: int, arguments: tuple[Any, ...]) -> Any:
    """Call `function` with the first `count` of the arguments."""
    return function(*arguments[:count])
