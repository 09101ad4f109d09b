"""YAML that holds what JSON can hold, read within bounds.

Whoever writes a configuration may make mistakes, or mean harm: a few aliases of aliases stand for
more than any memory holds, a key that is there twice says two things, and ``yaml.safe_load`` makes
dates, sets and bytes of text. Here values are those of YAML 1.2's core schema, which editors check
too: ``1e-3`` is a number, and ``no`` and ``2026-01-31`` are text. Aliases count as what they stand
for. Nothing recurs, so that no depth is too deep to be refused.

References
----------
YAML Language Development Team (2021). YAML Ain't Markup Language, version 1.2.2, section 10.3.
"""

from __future__ import annotations

import copy
import math
import re
import stat

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pymc_vi_ext.comparison._sentences import cut, shown

_MOST_BYTES = 100_000
_MOST_DEEP = 20
_MOST_VALUES = 5_000
# Digits of a number, sign and all; Python refuses to read some thousand.
_MOST_DIGITS = 100

_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# The group: octal and hexadecimal.
_WHOLE = re.compile(r"[-+]?[0-9]+|(0o[0-7]+|0x[0-9a-fA-F]+)")
_DECIMAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# JSON could write them, and few others.
_NO_CHARACTERS = re.compile("[\x00\ud800-\udfff]")
_MERGE = "<<"


class YamlError(ValueError):
    """What is wrong with a text, in a sentence that says on which line."""


def read_yaml(path: Path) -> Any:
    """Read a file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict, list, str, int, float, bool or None
        As :func:`parse_yaml` gives it.

    Raises
    ------
    YamlError
        If it is no file that can be read, or is not what `parse_yaml` takes.
    """
    try:
        mode = path.stat().st_mode
        # A device may have no end, and a pipe keeps whoever opens it waiting.
        if not stat.S_ISREG(mode):
            raise YamlError(f"is {'a folder, ' if stat.S_ISDIR(mode) else ''}not a file.")
        with path.open("rb") as file:
            found = file.read(_MOST_BYTES + 1)
    except YamlError:
        raise
    except OSError as error:
        raise YamlError(f"cannot be read: {error.strerror}.") from None
    except ValueError:  # a NUL in the name
        raise YamlError("cannot be read: it is no name of a file.") from None
    if len(found) > _MOST_BYTES:
        raise YamlError(f"has more than {_MOST_BYTES:,} bytes, which no configuration needs.")
    try:
        text = found.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise YamlError("is not UTF-8 text.") from None
    return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """Return what a text of YAML holds: dicts with text as keys, lists, text, numbers, None.

    Parameters
    ----------
    text : str

    Returns
    -------
    dict, list, str, int, float, bool or None
        None of no text. Nothing in it is there twice: aliases are copies.

    Raises
    ------
    YamlError
        If it is not YAML, or holds what JSON cannot, a key twice, a second document, more than
        5,000 values (aliases counted as what they stand for), or values more than 20 deep.
    """
    if len(text) > _MOST_BYTES:
        raise YamlError(f"has more than {_MOST_BYTES:,} characters, which no configuration needs.")
    reader = _Reader()
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            reader.take(event)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _wrong(line, f"the character {chr(error.character)!a} is none of YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(filter(None, [error.context, error.problem]))
        said += ": indent by spaces" if "\\t" in said else ""
        raise _wrong(_line(mark), f"is not YAML: {cut(said, 150)}") from None
    except (ValueError, OverflowError) as error:
        if isinstance(error, YamlError):
            raise
        # Of the parser itself: versions and escapes with numbers that are none.
        raise YamlError("is not YAML: an escape or a version in it is none.") from None
    return reader.root


@dataclass
class _Value:
    """A value, and what it counts for.

    Attributes
    ----------
    content : object
    count : int
        Of values: itself, its keys, and those in it. Long text counts for more than one.
    height : int
        Levels of lists and mappings, itself included.
    """

    content: Any
    count: int = 1
    height: int = 0


@dataclass
class _Open:
    """A list or a mapping that has not ended.

    Attributes
    ----------
    value : _Value
    line : int
    anchor : str, optional
    key : str, optional
        Of a mapping, whose value comes next.
    lines : dict of str to int
        Where the keys of a mapping are.
    merged : list of dict
        Mappings whose keys it has too, except where it has its own.
    """

    value: _Value
    line: int
    anchor: str | None
    key: str | None = None
    lines: dict[str, int] = field(default_factory=dict)
    merged: list[dict[str, Any]] = field(default_factory=list)


class _Reader:
    """Makes a value of the events of PyYAML's parser."""

    def __init__(self) -> None:
        self.root: Any = None
        self._open: list[_Open] = []
        self._anchors: dict[str, _Value | None] = {}
        self._count = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        """Take the next event."""
        line = _line(event.start_mark)
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise _wrong(line, "a second document begins, and a file is one")
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._begin(event, line)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._end()
            case yaml.ScalarEvent():
                self._scalar(event, line)
            case yaml.AliasEvent():
                self._alias(str(event.anchor), line)

    def _begin(self, event: yaml.CollectionStartEvent, line: int) -> None:
        _check_tag(event, line)
        if self._wants_key:
            raise _wrong(line, "a key is text, not a list or a mapping")
        self._add(line, 1, 1)
        content: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._open.append(_Open(_Value(content, height=1), line, event.anchor))
        if event.anchor:
            self._anchors[event.anchor] = None

    def _end(self) -> None:
        ended = self._open.pop()
        if isinstance(ended.value.content, dict):
            for more in ended.merged:
                for key, value in more.items():
                    ended.value.content.setdefault(key, value)
        self._put(ended.value, ended.anchor, ended.line)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        _check_tag(event, line)
        if found := _NO_CHARACTERS.search(event.value):
            raise _wrong(line, f"{found[0]!a} is no character of a text")
        content = _plain(event.value, line) if event.style is None else event.value
        count = 1 + len(event.value) // 100
        self._add(line, count)
        if self._wants_key:
            if not isinstance(content, str):
                raise _wrong(line, f"the key {shown(event.value)} is no text: write it in quotes")
            self._open[-1].value.count += count
            self._key(content, line)
            return
        self._put(_Value(content, count), event.anchor, line)

    def _key(self, key: str, line: int) -> None:
        mapping = self._open[-1]
        if key in mapping.lines:
            first = mapping.lines[key]
            raise _wrong(line, f"the key {shown(key)} is there twice, first in line {first}")
        mapping.lines[key] = line
        mapping.key = key

    def _alias(self, anchor: str, line: int) -> None:
        if anchor not in self._anchors:
            raise _wrong(line, f"there is no anchor {shown(f'&{anchor}')} before this alias")
        known = self._anchors[anchor]
        if known is None:
            raise _wrong(line, f"the alias {shown(f'*{anchor}')} stands for what it is in")
        if self._wants_key:
            raise _wrong(line, "a key is text, not an alias")
        self._add(line, known.count, known.height)
        self._put(_Value(copy.deepcopy(known.content), known.count, known.height), None, line)

    def _put(self, value: _Value, anchor: str | None, line: int) -> None:
        """Put a value where it belongs."""
        if anchor:
            self._anchors[anchor] = value
        if not self._open:
            self.root = value.content
            return
        around = self._open[-1]
        around.value.count += value.count
        around.value.height = max(around.value.height, value.height + 1)
        if isinstance(around.value.content, list):
            around.value.content.append(value.content)
        elif around.key == _MERGE:
            around.merged += _mappings(value.content, line)
        else:
            around.value.content[around.key] = value.content
        around.key = None

    def _add(self, line: int, count: int, height: int = 0) -> None:
        """Count values before they are made."""
        self._count += count
        if self._count > _MOST_VALUES:
            raise _wrong(line, f"more than {_MOST_VALUES:,} values, which no configuration needs")
        if len(self._open) + height > _MOST_DEEP:
            raise _wrong(line, f"values more than {_MOST_DEEP} deep, which no configuration needs")

    @property
    def _wants_key(self) -> bool:
        if not self._open:
            return False
        around = self._open[-1]
        return isinstance(around.value.content, dict) and around.key is None


def _line(mark: Any) -> int:
    """Return the line of one of PyYAML's marks."""
    return 1 if mark is None else int(mark.line) + 1


def _wrong(line: int, what: str) -> YamlError:
    return YamlError(f"line {line}: {what}.")


def _check_tag(event: Any, line: int) -> None:
    match event:
        case yaml.ScalarEvent(tag=str(tag)) | yaml.CollectionStartEvent(tag=str(tag)):
            raise _wrong(line, f"the tag {shown(tag)}: values are written without tags")


def _mappings(content: Any, line: int) -> Iterator[dict[str, Any]]:
    for mapping in content if isinstance(content, list) else [content]:
        if not isinstance(mapping, dict):
            raise _wrong(line, f"{_MERGE} takes the keys of mappings, not {shown(mapping)}")
        yield mapping


def _plain(text: str, line: int) -> Any:
    """Return what a text without quotes means."""
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_FINITE.fullmatch(text):
        raise _wrong(line, f"{text} is no finite number")
    whole, decimal = _WHOLE.fullmatch(text), _DECIMAL.fullmatch(text)
    if not (whole or decimal):
        return text
    if len(text) > _MOST_DIGITS:
        raise _wrong(line, f"a number of {len(text):,} characters")
    number = (int(text, 0) if whole[1] else int(text)) if whole else float(text)
    if not math.isfinite(number):
        raise _wrong(line, f"{text} is no finite number")
    return number
