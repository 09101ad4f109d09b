"""Options: one dataclass is the constructor's arguments, the configuration's keys, schema and docs.

A family, a method or a sampler has a dataclass of :class:`Options`. Its fields, made by
:func:`option`, carry a default, a sentence and bounds. Everything else that has to know them reads
them there: constructors (:meth:`Options.bind`), docstrings (:func:`documented`), configurations and
their JSON schema.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.upstream import ParametrizationError

# pydantic's names: a configuration passes them on.
_BOUNDS = ("ge", "gt", "le", "lt", "multiple_of")


def option(
    default: Any,
    description: str,
    *,
    choices: Callable[[], Iterable[str]] | None = None,
    **bounds: float,
) -> Any:
    """Return the field of an option.

    Parameters
    ----------
    default : object
        The value where none is given.
    description : str
        A sentence: units, and what None means.
    choices : callable, optional
        Returns the names that a string may be besides the default, where these are the rows of a
        table that others may add to.
    **bounds
        ``ge``, ``gt``, ``le``, ``lt`` or ``multiple_of``, of a number.

    Returns
    -------
    dataclasses.Field

    Raises
    ------
    TypeError
        If a bound has another name.

    Examples
    --------
    >>> from pymc_vi_ext.options import option
    >>> field = option(5, "Rank.", ge=1)
    >>> field.default, field.metadata["ge"]
    (5, 1)
    """
    if unknown := set(bounds) - set(_BOUNDS):
        raise TypeError(f"An option is bounded by {', '.join(_BOUNDS)}, not by {unknown.pop()}.")
    metadata = {"description": description, "choices": choices, **bounds}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """Base class of options; a subclass is a frozen dataclass whose fields :func:`option` makes.

    Field types are ``int``, ``float``, ``bool``, ``str``, ``Literal`` of names, unions of these
    with None, and ``Callable`` for objects that only Python can give, which a configuration leaves
    out.

    Raises
    ------
    ParametrizationError
        A ValueError: if a value is of another type or out of bounds, naming the option.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from pymc_vi_ext.options import Options, option
    >>> @dataclass(frozen=True)
    ... class RankOptions(Options):
    ...     rank: int | None = option(None, "Rank; None is 5.", ge=1)
    >>> RankOptions(rank=3).values()
    {'rank': 3}
    >>> RankOptions(rank=0)
    Traceback (most recent call last):
    pymc.variational.opvi.ParametrizationError: `rank` must be a whole number from 1, not 0.
    """

    def __post_init__(self) -> None:
        """Check the values."""
        hints = hints_of(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            try:
                checked = _checked(field, value, hints[field.name])
            except ValueError as error:
                raise ParametrizationError(str(error)) from None
            object.__setattr__(self, field.name, checked)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the options, in their order."""
        return tuple(field.name for field in dataclasses.fields(cls))

    @classmethod
    def bind(cls, owner: str, given: Sequence[Any], named: Mapping[str, Any]) -> Self:
        """Return the options of a constructor's arguments.

        Parameters
        ----------
        owner : str
            What is constructed, for messages.
        given : sequence
            Positional arguments, in the order of the fields.
        named : mapping of str

        Raises
        ------
        TypeError
            If an option is unknown, given twice, or one too many; it lists those there are.
        """
        names = cls.names()
        known = ", ".join(names) or "none"
        if len(given) > len(names):
            raise TypeError(f"{owner} takes {len(names)} options by position ({known}).")
        values = dict(zip(names, given, strict=False))
        for name, value in named.items():
            if name not in names:
                raise TypeError(f"{owner} has no option {name!r}: its options are {known}.")
            if name in values:
                raise TypeError(f"{owner} got the option {name!r} twice.")
            values[name] = value
        return cls(**values)

    def values(self) -> dict[str, Any]:
        """Return the values by name, defaults included."""
        return {name: getattr(self, name) for name in self.names()}


def hints_of(options: type[Options]) -> dict[str, Any]:
    """Return the types of the fields, by name."""
    return typing.get_type_hints(options)


def configurable(options: type[Options]) -> dict[str, tuple[Any, Any, dict[str, Any]]]:
    """Return what a configuration may say of the options, objects of Python left out.

    Parameters
    ----------
    options : subclass of Options

    Returns
    -------
    dict of str to tuple
        By name, the type, the default, and description and bounds by pydantic's names.
    """
    plain: dict[str, tuple[Any, Any, dict[str, Any]]] = {}
    for field in dataclasses.fields(options):
        arms = [
            _literal(_words(field)) if arm is str and field.metadata["choices"] else arm
            for arm in _arms(hints_of(options)[field.name])
            if not _is_callable(arm)
        ]
        if arms:
            hint: Any = typing.Union[tuple(arms)]  # noqa: UP007, of a list of arms
            bounds = {k: v for k, v in field.metadata.items() if k != "choices"}
            plain[field.name] = (hint, field.default, bounds)
    return plain


def _literal(words: tuple[str, ...]) -> Any:
    return Literal[words]


def _words(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """Return the names that an option may be, its default first."""
    default = [field.default] if isinstance(field.default, str) else []
    return tuple(dict.fromkeys([*default, *field.metadata["choices"]()]))


def documented(options: type[Options]) -> str:
    """Return the numpydoc entries of the options, one below the other."""
    lines = []
    for field in dataclasses.fields(options):
        shown = _shown(hints_of(options)[field.name])
        lines += [
            f"{field.name} : {shown}, default {field.default!r}",
            f"    {field.metadata['description']}",
        ]
    return "\n".join(lines)


def signature(options: type[Options], *more: str) -> inspect.Signature:
    """Return the signature of a constructor of these options and keywords that default to None."""
    positional = [
        inspect.Parameter(
            field.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=field.default
        )
        for field in dataclasses.fields(options)
    ]
    keywords = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in more]
    return inspect.Signature([*positional, *keywords])


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Return `value` as an int, or raise a ValueError where it is not one from `least`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"`{name}` must be a whole number from {least}, not {value!r}.")
    return int(value)


def positive(name: str, value: Any) -> float:
    """Return `value` as a float, or raise a ValueError where it is not above zero and finite."""
    if not _is_number(value) or not 0 < value < np.inf:
        raise ValueError(f"`{name}` must be a positive number, not {value!r}.")
    return float(value)


def _checked(field: dataclasses.Field[Any], value: Any, hint: Any) -> Any:
    """Return `value` as the type that it is an instance of; raise ValueError where it is none."""
    name, bounds, arms = field.name, field.metadata, _arms(hint)
    if value is None and type(None) in arms:
        return None
    if any(_is_callable(arm) for arm in arms) and callable(value):
        return value
    words = [word for arm in arms if typing.get_origin(arm) is Literal for word in arm.__args__]
    words += _words(field) if bounds["choices"] else []
    if words:
        if isinstance(value, str) and value in words:
            return value
        raise UnknownNameError(name, value, words)
    if bool in arms:
        if isinstance(value, bool | np.bool_):
            return bool(value)
        raise ValueError(f"`{name}` must be True or False, not {value!r}.")
    if int in arms:
        number: float = whole_number(name, value, int(bounds.get("ge", 0)))
    elif float in arms:
        if not _is_number(value) or not np.isfinite(value):
            raise ValueError(f"`{name}` must be a number, not {value!r}.")
        number = float(value)
    else:
        return value
    for bound, holds, words_of in _COMPARISONS:
        if bound in bounds and not holds(number, bounds[bound]):
            limit = f"{words_of} {bounds[bound]:g}"
            limit = limit.replace("a multiple of 2", "even") if bounds[bound] == 2 else limit
            raise ValueError(f"`{name}` must be {limit}, not {value!r}.")
    return number


_COMPARISONS: tuple[tuple[str, Callable[[float, float], bool], str], ...] = (
    ("ge", lambda value, bound: value >= bound, "at least"),
    ("gt", lambda value, bound: value > bound, "above"),
    ("le", lambda value, bound: value <= bound, "at most"),
    ("lt", lambda value, bound: value < bound, "below"),
    ("multiple_of", lambda value, bound: value % bound == 0, "a multiple of"),
)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _arms(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _is_callable(arm: Any) -> bool:
    return typing.get_origin(arm) is Callable or arm is Callable


def _shown(hint: Any) -> str:
    shown = []
    for arm in _arms(hint):
        if typing.get_origin(arm) is Literal:
            shown.append("{" + ", ".join(f'"{word}"' for word in arm.__args__) + "}")
        elif _is_callable(arm):
            shown.append("callable")
        else:
            shown.append("None" if arm is type(None) else arm.__name__)
    return " or ".join(shown)
