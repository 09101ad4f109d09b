"""Errors of the package that more than one room raises, and what they carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymc.variational.opvi import Approximation

INTERRUPT = "keyboard interrupt"
"""What reports and results say of Ctrl-C."""


class UnknownNameError(ValueError, KeyError):
    """A name that is none of those known; PyMC raises KeyError there, most others ValueError."""

    def __init__(self, kind: str, name: object, known: object):
        names = ", ".join(sorted(map(str, known)))  # type: ignore[call-overload]
        super().__init__(f"Unknown {kind} {name!r}: the known ones are {names}.")

    # KeyError shows the repr of its message.
    __str__ = ValueError.__str__


def fit_of(error: Exception) -> Approximation | None:
    """Return what the fit that `error` ended had got by then, None if no fit raised it."""
    approx: Approximation | None = vars(error).get("approx")
    return approx
