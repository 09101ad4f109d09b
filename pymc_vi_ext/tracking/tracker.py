"""What a comparison needs of a store of runs."""

from __future__ import annotations

import enum

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np


class RunStatus(enum.Enum):
    """How a run ended; the values are MLflow's."""

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
    """

    parent: str
    children: tuple[str, ...]


class Tracker(Protocol):
    """A store of runs, addressed by run id. Writing the same thing twice changes nothing."""

    def begin(self, comparison: str, children: Sequence[str], tags: Mapping[str, str]) -> Execution:
        """Create the parent run and one run per name in `children`."""

    def log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        """Record settings, as text."""

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Record final values, at step 0."""

    def log_series(self, run_id: str, key: str, steps: np.ndarray, values: np.ndarray) -> None:
        """Record a value for each of `steps`."""

    def log_image(self, run_id: str, key: str, image: np.ndarray) -> None:
        """Record an image, uint8 of shape (height, width, 3)."""

    def log_text(self, run_id: str, text: str, file: str) -> None:
        """Record a text file."""

    def log_file(self, run_id: str, path: Path) -> None:
        """Record a copy of a file under its own name."""

    def end(self, run_id: str, status: RunStatus) -> None:
        """Close a run."""
