"""What a comparison can run, as it sees it: options, and a function."""

from __future__ import annotations

import dataclasses

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pymc as pm

from pymc_vi_ext.options import Options

LONGEST = 100_000_000
"""Seconds that a limit may be at most: three years."""


class Run(Protocol):
    """Function that runs a method and returns the fields of a MethodResult that it knows."""

    def __call__(
        self,
        model: pm.Model,
        name: str,
        options: Mapping[str, Any],
        draws: int,
        seed: int,
        progressbar: bool,
        folder: Path | None,
    ) -> dict[str, Any]:
        """Run `name` on `model` with all its options.

        In `folder`, if there is one, it may keep what it needs to go on after it was killed.
        """


@dataclass(frozen=True)
class Runnable:
    """A method as a comparison sees it.

    Attributes
    ----------
    options : tuple of subclasses of Options
        All its options.
    run : Run
    require : callable
        Takes all options, and raises ImportError if what they need is not installed, ValueError if
        they do not go together.
    suit : callable
        Takes a model and all options, and raises ValueError or TypeError if it cannot run on it.
    """

    options: tuple[type[Options], ...]
    run: Run
    require: Callable[[Mapping[str, Any]], None] = lambda options: None
    suit: Callable[[pm.Model, Mapping[str, Any]], None] = lambda model, options: None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all options."""
        return tuple(name for options in self.options for name in options.names())

    @property
    def defaults(self) -> dict[str, Any]:
        """All options by name, at their defaults."""
        return {
            field.name: field.default
            for options in self.options
            for field in dataclasses.fields(options)
        }

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options by name, those not `given` at their defaults, checked.

        Raises
        ------
        ParametrizationError
            A ValueError: if a value is none that the option can have.
        """
        found: dict[str, Any] = {}
        for options in self.options:
            own = {name: value for name, value in given.items() if name in options.names()}
            found |= options(**own).values()
        return found
