"""What is said of a configuration that cannot be used, which never repeats all of it."""

from __future__ import annotations

import reprlib

from collections.abc import Iterator, Sequence
from typing import Any

_OF_VALUE, _OF_SENTENCE = 60, 400
_MOST_SENTENCES, _OF_ALL = 20, 1_800
_repr = reprlib.Repr(
    maxlevel=3, maxdict=5, maxlist=8, maxstring=_OF_VALUE, maxlong=_OF_VALUE, maxother=_OF_VALUE
)


class ConfigError(ValueError):
    r"""A configuration that cannot be used; one sentence per problem, with its place in the YAML.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pymc_vi_ext.comparison import ConfigError, load_config
    >>> path = pathlib.Path(tempfile.mkdtemp(), "demo.yaml")
    >>> _ = path.write_text("{name: demo, model: gamma, methods: [{name: advi, n: -1}]}")
    >>> try:
    ...     load_config(path)
    ... except ConfigError as error:
    ...     print(str(error).partition("demo.yaml")[2])
    : methods[0].n: needs ...
    """


def shown(value: Any) -> str:
    """Return at most 60 characters of a value, as Python writes it.

    Examples
    --------
    >>> from pymc_vi_ext.comparison._sentences import shown
    >>> shown("two")
    "'two'"
    >>> len(shown("a" * 1_000))
    60
    """
    return cut(_repr.repr(value), _OF_VALUE)


def cut(text: str, most: int = _OF_SENTENCE) -> str:
    """Return a text in one line and of at most so many characters."""
    line = " ".join(part.strip() for part in text[: 2 * most].splitlines())
    return line if len(line) <= most and len(text) <= 2 * most else f"{line[: most - 3]}..."


def listed(place: object, problems: Sequence[str]) -> str:
    """Return a line for each of the first problems, and how many more there are.

    Parameters
    ----------
    place : object
        What each line begins with: where the configuration is.
    problems : sequence of str
        Sentences, at least one.
    """
    lines = list(_first(f"{place}: {cut(problem)}" for problem in problems[:_MOST_SENTENCES]))
    more = len(problems) - len(lines)
    return "\n".join([*lines, f"{place}: and {more} more."] if more else lines)


def _first(lines: Iterator[str]) -> Iterator[str]:
    """Yield lines until they fill a screen; the first in any case."""
    length = 0
    for line in lines:
        length += len(line)
        if length > _OF_ALL and length > len(line):
            return
        yield line
