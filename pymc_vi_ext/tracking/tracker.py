"""What a comparison needs of a store of runs."""

from __future__ import annotations

import enum

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


class RunStatus(enum.Enum):
    """How a run ended; the values are MLflow's.

    Attributes
    ----------
    FINISHED
    FAILED
    KILLED
        Ended from outside; it may go on.

    Examples
    --------
    >>> from pymc_vi_ext.tracking import RunStatus
    >>> RunStatus("KILLED")
    <RunStatus.KILLED: 'KILLED'>
    """

    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass(frozen=True)
class Execution:
    """Identifiers of one execution of a comparison.

    Attributes
    ----------
    parent : str
        Run id of the execution.
    children : tuple of str
        Run ids of its (method, seed) pairs, in the order asked for.

    Examples
    --------
    >>> from pymc_vi_ext.tracking import Execution
    >>> Execution("a1", ("b2", "c3")).children
    ('b2', 'c3')
    """

    parent: str
    children: tuple[str, ...]


class RunTracker(Protocol):
    """A store of runs: a parent run for each execution of a comparison, a child for each method.

    Everything is addressed by run id, and an instance remembers nothing that another one opened at
    the same URI would not know: the tasks of a flow open their own. Writing the same thing twice
    changes nothing, so that a task may run again; :meth:`begin` alone makes new runs each time,
    unless it is given the same token. Tags, the note and whether a run goes on are what was written
    last.
    Numbers may be NaN or infinite; MLflow keeps the largest double for infinity. Names of
    comparisons and children are any text, keys of letters, digits, spaces and ``_-./``; neither
    leads out of the store.

    A backend is a class with these methods in a file of its own and a row in
    :data:`pymc_vi_ext.tracking.BACKENDS`. It opens at a URI and creates nothing before `begin`
    that its store could do without; what it depends on it imports when it is opened.

    Parameters
    ----------
    uri : str
        Of a scheme that the table has for this backend; a relative path in it counts from the
        working directory.

    Raises
    ------
    ValueError
        If the URI cannot be one of this backend's.
    ImportError
        If what the backend depends on is not installed; the message says what to install.
    """

    def __init__(self, uri: str) -> None: ...

    @staticmethod
    def absolute_uri(uri: str) -> str:
        """Return a URI that means the same from any working directory; open and write nothing.

        Raises
        ------
        ValueError
            If it cannot be one of this backend's.
        """

    def check(self) -> None:
        """Raise ConnectionError, in two seconds at most, if nothing can be written here now."""

    def has(self, run_id: str) -> bool:
        """Tell whether there is a run of that id, and it has not been deleted."""

    def children(self, run_id: str) -> tuple[str, ...]:
        """Return the ids of an execution's children, in any order; none of another run."""

    def fetch(self, run_id: str, file: str, folder: Path) -> Path | None:
        """Copy a file of that name, text or other, from a run to a folder; None if it has none."""

    def begin(
        self,
        comparison: str,
        children: Sequence[str],
        tags: Mapping[str, str],
        token: str | None = None,
    ) -> Execution:
        """Create a run for an execution of a comparison, and one run per name in `children`.

        The names of children need not differ; all runs have the `tags`. The parent goes on, the
        children wait until :meth:`start`. Runs that were begun with the same `token`, of letters
        and digits, are not created again: who began them was killed perhaps, and did not come to
        the last.
        """

    def start(self, run_id: str) -> None:
        """Record that a run goes on."""

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Record what a run is found by, or is at, in place of what these tags were.

        A store that has a place of its own for who ran it (``user``), from which file (``source``)
        of which state in git (``commit``) puts these there.
        """

    def log_note(self, run_id: str, markdown: str) -> None:
        """Record what a person should read first, in place of the note before."""

    def log_data(self, run_id: str, name: str, digest: str, data: Mapping[str, np.ndarray]) -> None:
        """Record which data a run is on: their names, types, shapes and digest, not themselves."""

    def log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        """Record settings, as text."""

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Record final values, at step 0."""

    def log_series(self, run_id: str, key: str, steps: np.ndarray, values: np.ndarray) -> None:
        """Record a value for each of `steps`, whole numbers; both of shape (points,)."""

    def log_image(self, run_id: str, key: str, image: np.ndarray) -> None:
        """Record an image, uint8 of shape (height, width, 3)."""

    def log_text(self, run_id: str, text: str, file: str) -> None:
        """Record a text as a file of that name, in UTF-8."""

    def log_file(self, run_id: str, path: Path) -> None:
        """Record a copy of a file under its own name."""

    def end(self, run_id: str, status: RunStatus, seconds: float | None = None) -> None:
        """Close a run, whose own work took so many seconds; None is all since it began."""

    def dashboard(self) -> str:
        """Return how a person opens what the store holds: a command, an address or a folder."""

    def address(self, run_id: str) -> str:
        """Return where a person finds a run, once that is open."""
