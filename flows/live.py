"""Runs in the tracker while they go on."""

from __future__ import annotations

import threading
import time

from collections.abc import Mapping
from typing import Any

from pymc_vi_ext.comparison.live import LIVE, SECONDS_BETWEEN_LOOKS, load_snapshot
from pymc_vi_ext.comparison.storage import RESULT
from pymc_vi_ext.comparison.workspace import ExecutionFolder
from pymc_vi_ext.tracking import RunTracker, report_progress

from .executions import tracker_at

# Seconds until a tracker that was away is tried again, and for which its answer is waited for.
_AWAY_S, _PATIENCE_S = 30.0, 2.0


class Live:
    """Follows the files of runs from a thread of its own, as a context.

    Fits have no part in it. What comes too late, or not at all, the record of the result brings.

    Parameters
    ----------
    execution : ExecutionFolder
    ids : mapping
        Its runs in the tracker.
    """

    def __init__(self, execution: ExecutionFolder, ids: Mapping[str, Any]):
        self._execution, self._ids = execution, ids
        self._written: dict[int, int] = {}
        self._ended: set[int] = set()
        self._writing, self._stop = threading.Lock(), threading.Event()
        self._began = time.time()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Live:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_PATIENCE_S)

    def leave(self, number: int) -> None:
        """Write nothing more of a run: its result is recorded now."""
        self._ended.add(number)
        if self._stop.is_set():
            return
        if self._writing.acquire(timeout=_PATIENCE_S):
            self._writing.release()
        else:  # it hangs, and is not waited for again
            self._stop.set()

    def _follow(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            wait = SECONDS_BETWEEN_LOOKS
            try:
                self._look()
            except Exception:  # the flow says why a tracker cannot be written to
                wait = _AWAY_S

    def _look(self) -> None:
        running = [number for number in range(len(self._ids["children"])) if self._runs(number)]
        if not running:
            return
        tracker = tracker_at(self._ids["uri"])
        if not self._written:
            # One that was interrupted goes on.
            tracker.start(self._ids["parent"])
        for number in running:
            with self._writing:
                if self._runs(number):
                    self._write(tracker, number)

    def _write(self, tracker: RunTracker, number: int) -> None:
        run_id = self._ids["children"][number]
        if number not in self._written:
            tracker.start(run_id)
            self._written[number] = 0
        snapshot = load_snapshot(self._execution.results[number])
        if snapshot is not None:
            report_progress(tracker, run_id, snapshot, self._written[number])
            self._written[number] = max(snapshot.steps, default=0)

    def _runs(self, number: int) -> bool:
        folder = self._execution.results[number]
        if number in self._ended or self._stop.is_set() or (folder / RESULT).exists():
            return False
        try:
            # One that was killed before leaves its file behind.
            return (folder / LIVE).stat().st_mtime >= self._began - 1
        except OSError:
            return False
