"""What is known of a run while it goes on: a file beside where its result will be."""

from __future__ import annotations

import contextlib
import json
import time

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pymc.variational.opvi import Approximation

from pymc_vi_ext.comparison.storage import write_json
from pymc_vi_ext.traces import growing_blocks
from pymc_vi_ext.watching import Watcher

LIVE = "live.json"
"""Name of the file, in the folder of a run."""
SECONDS_BETWEEN_LOOKS = 2.0
"""Nothing is written, or read, more often."""


@dataclass
class Snapshot:
    """A run that goes on.

    Attributes
    ----------
    status : str
        Steps, and what rules measure against their thresholds.
    steps : list of int
        Ends of the blocks of steps that are complete,
        of :func:`pymc_vi_ext.traces.growing_blocks`.
    elbo : list of float
        Mean ELBO over each, in nats.
    """

    status: str = "begins"
    steps: list[int] = field(default_factory=list)
    elbo: list[float] = field(default_factory=list)

    def after(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return steps and ELBO of the blocks behind a step."""
        steps, elbo = np.array(self.steps, int), np.array(self.elbo, float)
        return steps[steps > step], elbo[steps > step]


class Looking(Watcher):
    """Keeps a :class:`Snapshot` of the fit that runs, at most every two seconds.

    Parameters
    ----------
    traced : bool
        Whether the losses of the first steps that begin are those of the result: not so where the
        fit is one of several.
    """

    def __init__(self, traced: bool = True):
        self.begin_anew(traced)

    def begin_anew(self, traced: bool) -> None:
        """Forget what was seen: another fit begins."""
        self.snapshot = Snapshot()
        self._traced = traced
        self._beginnings = 0
        self._looked = 0.0

    def steps_begin(self, approx: Approximation) -> None:
        """Take the losses of this fit, where they are ELBOs, and it is the first."""
        self._beginnings += 1
        state = approx.fit_state
        elbos = state.minimises_elbo and state.unit == 1
        # What begins anew has other losses at the same steps.
        self._traced = self._traced and elbos and self._beginnings == 1

    def look(self, losses: np.ndarray | None, steps: int, status: str) -> None:
        """Take over what is new, unless that was just done."""
        if time.perf_counter() - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        if losses is not None and self._traced:
            done = self.snapshot.steps[-1] if self.snapshot.steps else 0
            ends, elbo = growing_blocks(losses, after=done, whole=True)
            self.snapshot.steps += ends.tolist()
            self.snapshot.elbo += elbo.tolist()
        self.snapshot.status = "; ".join(filter(None, [f"{steps:,} steps", status]))
        self.publish()
        self._looked = time.perf_counter()

    def publish(self) -> None:
        """Let others know of a new snapshot."""


class LiveFile(Looking):
    """Writes the snapshot of a run to its folder.

    Parameters
    ----------
    folder : Path
    traced : bool
        As for :class:`Looking`.
    """

    def __init__(self, folder: Path, traced: bool):
        super().__init__(traced)
        self._file = folder / LIVE
        self.publish()

    def publish(self) -> None:
        """Write the snapshot, if that can be."""
        # A full disk is told by what cannot do without it.
        with contextlib.suppress(OSError):
            write_json(self._file, vars(self.snapshot))


def load_snapshot(folder: Path) -> Snapshot | None:
    """Return what is known of a run that goes on; None if there is nothing."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Snapshot(**json.loads((folder / LIVE).read_text(encoding="utf-8")))
    return None
