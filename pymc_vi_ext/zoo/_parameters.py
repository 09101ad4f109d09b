"""What the parameters of the models may be, as annotations of their factories."""

from __future__ import annotations

import inspect
import math
import numbers
import typing

from collections.abc import Callable, Mapping
from typing import Annotated, Any

Rows = Annotated[int, range(1, 1_000_001)]
"""Number of observations."""

Batch = Annotated[int, range(1, 100_001)]
"""Number of observations in a batch."""

Predictors = Annotated[int, range(1, 10_001)]
"""Number of predictors, of which each has a value in each row."""

Groups = Annotated[int, range(1, 100_001)]
"""Number of groups."""

Seed = Annotated[int, range(2**32)]
"""Seed of simulated data."""

_MOST_VALUES = 10_000_000


def check(name: str, factory: Callable[..., Any], parameters: Mapping[str, Any]) -> None:
    """Raise ValueError if a factory does not take `parameters`.

    Parameters
    ----------
    name : str
        Of the model, for messages.
    factory : callable
        What is annotated as one of the above is checked; anything else is left to it.
    parameters : mapping of str
    """
    known = inspect.signature(factory).parameters
    hints = typing.get_type_hints(factory, include_extras=True)
    for parameter, value in parameters.items():
        if parameter not in known:
            takes = ", ".join(known) or "none"
            raise ValueError(
                f"model {name!r} has no parameter {parameter!r}; its parameters: {takes}"
            )
        for allowed in getattr(hints.get(parameter), "__metadata__", ()):
            whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
            if not whole or int(value) not in allowed:
                raise ValueError(
                    f"{parameter} must be a whole number from {allowed.start:,} to "
                    f"{allowed.stop - 1:,}, not {value!r}"
                )
    table = [key for key in known if hints.get(key) in (Rows, Predictors)]
    cells = math.prod(int(parameters.get(key, known[key].default)) for key in table)
    if cells > _MOST_VALUES:
        raise ValueError(
            f"{' times '.join(table)} is {cells:,}, more than the {_MOST_VALUES:,} values that a "
            "simulated table may have"
        )
