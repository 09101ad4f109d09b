"""Single fits as runs of a tracker, for notebooks."""

from __future__ import annotations

import tempfile
import threading
import time

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pymc.variational.opvi import Approximation

from pymc_vi_ext.comparison.live import SECONDS_BETWEEN_LOOKS, Looking, Snapshot
from pymc_vi_ext.errors import warn
from pymc_vi_ext.results import NEGATIVE_ELBO, FitReport, StopReason, to_datatree
from pymc_vi_ext.traces import growing_blocks
from pymc_vi_ext.tracking.about import About
from pymc_vi_ext.tracking.backends import DEFAULT_URI, open_tracker
from pymc_vi_ext.tracking.report import TRACE, report_progress
from pymc_vi_ext.tracking.tracker import RunStatus, RunTracker
from pymc_vi_ext.watching import unwatch, watch

# Seconds that the end of a fit waits for a tracker that does not answer.
_PATIENCE_S = 10.0
_LETTERS = 200
_STATUS = {
    StopReason.INTERRUPTED: RunStatus.KILLED,
    StopReason.NOT_FINITE: RunStatus.FAILED,
    StopReason.FAILED: RunStatus.FAILED,
}


def autolog(
    uri: str = DEFAULT_URI, name: str = "fits", *, posterior: bool = False, disable: bool = False
) -> Autolog:
    """Make a run of each later fit: ``vix.fit``, and ``pm.fit`` of a method of this package.

    A run has what the fit was given, its ELBO while it runs (every two seconds, from a thread of
    its own), how it ended, and what it says of itself. A fit is the same bits with and without
    it, and goes on where the tracker goes away.

    ``pm.fit(method="advi")`` is PyMC's alone, and is not seen. Give it a callback:
    :class:`pymc_vi_ext.callbacks.TrackerLogger`, or fit by ``pm.fit(method=vix.ADVI())``.

    Parameters
    ----------
    uri : str
        As for :func:`open_tracker`.
    name : str
        What the runs lie under, in MLflow an experiment.
    posterior : bool
        Whether to keep 1,000 draws of each as ``posterior.nc``.
    disable : bool
        End it.

    Returns
    -------
    Autolog
        As a context it ends with the block. There is one at a time: another call ends this.

    Raises
    ------
    ValueError
        If no backend has this scheme.
    ConnectionError
        If the store cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with vix.tracking.autolog(f"jsonl:{tempfile.mkdtemp()}") as log, pm.Model():
    ...     x = pm.Normal("x")
    ...     approx = vix.fit(random_seed=1, progressbar=False)
    >>> len(log.run_ids)
    1
    """
    global _active
    if _active is not None:
        unwatch(_active)
        _active = None
    log = Autolog(uri, name, posterior)
    if not disable:
        log.check()
        _active = log
        watch(log)
    return log


_active: Autolog | None = None


class Autolog(Looking):
    """What makes runs of fits; :func:`autolog` makes it.

    Attributes
    ----------
    run_ids : list of str
        Runs so far, in the tracker.
    """

    def __init__(self, uri: str, name: str, posterior: bool):
        super().__init__()
        self._uri, self._name, self._posterior = uri, name, posterior
        self.run_ids: list[str] = []
        self._run: _Run | None = None

    @cached_property
    def _tracker(self) -> RunTracker:
        return open_tracker(self._uri)

    def check(self) -> None:
        """Raise ConnectionError if nothing can be written."""
        self._tracker.check()

    def __enter__(self) -> Autolog:
        return self

    def __exit__(self, *_: object) -> None:
        global _active
        unwatch(self)
        if _active is self:
            _active = None

    def fit_begins(self, given: Mapping[str, Any]) -> None:
        """Begin a run."""
        # Of several starts, and of `auto`, it is not known yet which losses are the result's.
        self.begin_anew(given.get("method") != "auto" and given.get("n_starts", 1) == 1)
        self._run = None
        run_id = self._tracker.begin(self._name, [], About(self._name).tags()).parent
        self.run_ids.append(run_id)
        shown = {key: repr(value)[:_LETTERS] for key, value in given.items() if key != "model"}
        self._tracker.log_params(run_id, shown)
        self._run = _Run(self._tracker, run_id)

    def publish(self) -> None:
        """Hand what is new over to the thread that writes."""
        if self._run is not None:
            self._run.show(self.snapshot)

    def fit_ends(self, approx: Approximation | None, error: BaseException | None) -> None:
        """Record how the fit ended, if the tracker is still there."""
        run, self._run = self._run, None
        if run is None:
            return
        try:
            run.end(approx, error, self._posterior)
        except Exception as problem:
            warn(
                f"The tracker does not have all of this fit: {type(problem).__name__}: {problem}. "
                "The result has it all the same; see that the tracker can be reached and written."
            )


class _Run:
    """A run and the thread that writes to it while its fit goes on."""

    def __init__(self, tracker: RunTracker, run_id: str):
        self._tracker, self._run_id = tracker, run_id
        self._began = time.perf_counter()
        self._snapshot: Snapshot | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def show(self, snapshot: Snapshot) -> None:
        # Lists that grow: a copy does not.
        self._snapshot = Snapshot(snapshot.status, [*snapshot.steps], [*snapshot.elbo])

    def end(
        self, approx: Approximation | None, error: BaseException | None, posterior: bool
    ) -> None:
        seconds = time.perf_counter() - self._began
        self._stop.set()
        self._thread.join(_PATIENCE_S)
        if self._thread.is_alive():
            raise TimeoutError(f"it did not answer for {_PATIENCE_S:g} s")
        report: FitReport | None = None if approx is None else vars(approx).get("report")
        status = RunStatus.FINISHED if error is None else RunStatus.FAILED
        if isinstance(error, KeyboardInterrupt):
            status = RunStatus.KILLED
        if approx is not None and report is not None:
            status = _STATUS.get(report.stop_reason, status)
            _report_fit(self._tracker, self._run_id, approx, report)
            if posterior and error is None:
                _report_posterior(self._tracker, self._run_id, approx)
        elif error is not None:
            self._tracker.log_note(self._run_id, f"**Failed**: {type(error).__name__}: {error}")
        self._tracker.end(self._run_id, status, seconds)

    def _write(self) -> None:
        written = 0
        while not self._stop.wait(SECONDS_BETWEEN_LOOKS):
            snapshot = self._snapshot
            if snapshot is None:
                continue
            try:
                report_progress(self._tracker, self._run_id, snapshot, written)
            except Exception:  # what is at the end says why
                return
            written = max(snapshot.steps, default=0)


def _report_fit(tracker: RunTracker, run_id: str, approx: Approximation, report: FitReport) -> None:
    """Record what a fit says of itself."""
    if report.loss == NEGATIVE_ELBO and len(approx.hist):
        tracker.log_series(run_id, TRACE, *growing_blocks(approx.hist))
    metrics = {
        "fit/steps": float(report.steps),
        "diag/khat": report.khat,
        "diag/warnings": float(len(report.warnings)),
        "time/compile_s": report.timings.before_s,
        "time/run_s": report.timings.run_s,
    }
    tracker.log_metrics(run_id, metrics)
    tags = {
        "method": report.method,
        "outcome": report.stop_reason.value,
        "progress": f"{report.steps:,} steps",
    }
    lines = [f"**{report.stop_reason.value.capitalize()}**: {report.evidence}", *report.warnings]
    diagnosis = report.correction
    if diagnosis is not None:
        tags["verdict"] = diagnosis.verdict.value
        lines.append(f"```\n{diagnosis}\n```")
    tracker.log_params(
        run_id,
        {"ran_on": report.backend, **{f"version/{k}": v for k, v in report.versions.items()}},
    )
    tracker.log_tags(run_id, tags)
    tracker.log_note(run_id, "\n\n".join(lines))


def _report_posterior(tracker: RunTracker, run_id: str, approx: Approximation) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "posterior.nc")
        to_datatree(approx, 1_000).to_netcdf(file, engine="h5netcdf")
        tracker.log_file(run_id, file)
