"""Errors of the package that more than one room raises."""


class UnknownNameError(ValueError, KeyError):
    """A name that is none of those known; PyMC raises KeyError there, most others ValueError."""

    def __init__(self, kind: str, name: object, known: object):
        names = ", ".join(sorted(map(str, known)))  # type: ignore[call-overload]
        super().__init__(f"Unknown {kind} {name!r}: the known ones are {names}.")

    # KeyError shows the repr of its message.
    __str__ = ValueError.__str__
