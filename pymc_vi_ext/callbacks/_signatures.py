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
    forms = " or ".join(_ARGUMENTS[count] for count in allowed)
    if not callable(function):
        raise TypeError(f"{what} must be a function of {forms}, not {function!r}.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise TypeError(
            f"{what}, {function!r}, does not tell which arguments it takes: wrap it into a "
            f"function of {forms}, such as `lambda: ...`."
        ) from None
    for count in allowed:
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count
    raise TypeError(f"{what} must be a function of {forms}, not of {signature}.")


def call(function: Callable[..., Any], count: int, arguments: tuple[Any, ...]) -> Any:
    """Call `function` with the first `count` of the arguments."""
    return function(*arguments[:count])
