"""MLflow as the tracker.

Everything goes through ``MlflowClient`` by run id: the fluent interface keeps an active run per
thread and loses it in the worker threads of a flow.
"""

from __future__ import annotations

import os
import sys
import time
import uuid

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pymc_vi_ext._names import file_name
from pymc_vi_ext.tracking._reachable import check_folder, check_server, without_password
from pymc_vi_ext.tracking.tracker import Execution, RunStatus
from pymc_vi_ext.upstream import PARENT_RUN_TAG, image_prefix

_SERVERS = {"http", "https"}
# The experiment that every store has; its artifacts are in the working directory.
_DEFAULT = "Default"
# MLflow takes names of experiments of at most 500 characters, and in a request at most 1000 metrics
# and 100 params or tags.
_LONGEST = 500
_METRICS_AT_ONCE, _PARAMS_AT_ONCE = 900, 100
# By which runs are found that were begun and whose ids nobody has kept.
_TOKEN, _PLACE = "pymc_vi_ext.token", "pymc_vi_ext.place"
_RUNS_AT_MOST = 50_000
# Of the value of a tag, in characters.
_TAG_LENGTH = 5_000
# Where `mlflow ui` shows a database.
_SERVED = "http://127.0.0.1:5000"
_WAITING, _RUNNING = "SCHEDULED", "RUNNING"
_NOTE = "mlflow.note.content"
# What MLflow has places of its own for.
_NAMES = {
    "user": "mlflow.user",
    "source": "mlflow.source.name",
    "commit": "mlflow.source.git.commit",
}
# What MLflow takes an experiment for.
_KIND = {"mlflow.experimentKind": "custom_model_development"}


class MlflowTracker:
    """Runs in an MLflow tracking store.

    A comparison is an experiment of its name (``Default``, which MLflow has already, is ``Default
    (comparison)``), an execution a parent run in it, a (method, seed) pair a child
    run. Metrics are stamped with the start of their run plus their step in milliseconds, so that
    writing them again changes nothing.

    Parameters
    ----------
    tracking_uri : str
        Such as ``sqlite:///runs/mlflow.db`` or ``http://localhost:5000``. A path to an SQLite file
        may be relative to the working directory; its folder is made, and artifacts go to
        ``mlartifacts`` beside it.

    Raises
    ------
    ValueError
        If the URI is a folder or ``file:``, which MLflow no longer writes to.
    ImportError
        Without mlflow.

    Examples
    --------
    >>> import tempfile
    >>> from pymc_vi_ext.tracking import MlflowTracker
    >>> tracker = MlflowTracker(f"sqlite:///{tempfile.mkdtemp()}/mlflow.db")
    >>> execution = tracker.begin("demo", ["advi seed 1"], {})
    >>> len(execution.children)
    1
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = self.absolute_uri(tracking_uri)
        try:
            from filelock import FileLock
            from mlflow import MlflowClient
        except ImportError as error:
            raise ImportError("Tracking needs mlflow: pip install 'pymc-vi-ext[flows]'.") from error
        database = _database(self.tracking_uri)
        lock: AbstractContextManager[Any] = nullcontext()
        if database is not None:
            database.parent.mkdir(parents=True, exist_ok=True)
            # Two that open a new one at once would both make its tables.
            lock = FileLock(database.with_name(f"{database.name}.lock"))
        with lock:
            self._client: Any = MlflowClient(self.tracking_uri)
        self._start_ms: dict[str, int] = {}

    @staticmethod
    def absolute_uri(uri: str) -> str:
        """Return the URI with the absolute path of an SQLite file.

        Examples
        --------
        >>> from pymc_vi_ext.tracking import MlflowTracker
        >>> MlflowTracker.absolute_uri("sqlite:////tmp/mlflow.db")
        'sqlite:////tmp/mlflow.db'
        """
        scheme = urlsplit(uri).scheme
        if scheme in {"", "file"} or len(scheme) == 1:  # a single letter is a drive
            raise ValueError(
                f"The tracking URI {uri!r} is a folder, and MLflow keeps no runs in folders any "
                "more: give a database, such as sqlite:///runs/mlflow.db, or a server, such as "
                "http://localhost:5000."
            )
        database = _database(uri)
        return uri if database is None else f"sqlite:///{database.resolve()}"

    def check(self) -> None:
        """Raise ConnectionError if the server does not answer, or the folder is read-only."""
        database = _database(self.tracking_uri)
        if database is not None:
            check_folder(database.parent)
        elif urlsplit(self.tracking_uri).scheme in _SERVERS:
            check_server(self.tracking_uri)

    def has(self, run_id: str) -> bool:
        """Tell whether there is a run of that id, and it has not been deleted."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return bool(found.info.lifecycle_stage == "active")

    def children(self, run_id: str) -> tuple[str, ...]:
        """Return the ids of an execution's children."""
        experiment = self._client.get_run(run_id).info.experiment_id
        of_parent = f"tags.`{PARENT_RUN_TAG}` = '{run_id}'"
        runs = self._client.search_runs([experiment], of_parent, max_results=_RUNS_AT_MOST)
        return tuple(run.info.run_id for run in runs)

    def fetch(self, run_id: str, file: str, folder: Path) -> Path | None:
        """Download a file of a run to a folder; None if it has none of that name."""
        if all(found.path != file for found in self._client.list_artifacts(run_id)):
            return None
        # A bar for each file would bury what the caller prints.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        return Path(self._client.download_artifacts(run_id, file, str(folder)))

    def begin(
        self,
        comparison: str,
        children: Sequence[str],
        tags: Mapping[str, str],
        token: str | None = None,
    ) -> Execution:
        """Create the parent run and its children."""
        experiment = self._experiment(_experiment_name(comparison))
        token = token or uuid.uuid4().hex
        found = self._client.search_runs(
            [experiment], f"tags.`{_TOKEN}` = '{token}'", max_results=_RUNS_AT_MOST
        )
        known: dict[str, str] = {run.data.tags[_PLACE]: run.info.run_id for run in found}
        named = _named(tags)

        def run(place: str, name: str, tags: Mapping[str, str], status: str) -> str:
            marks = {_TOKEN: token, _PLACE: place}
            if place not in known:
                made = self._client.create_run(experiment, run_name=name, tags={**tags, **marks})
                known[place] = made.info.run_id
                self._client.update_run(known[place], status)
            return known[place]

        parent = run("parent", time.strftime("%Y-%m-%d %H:%M:%S"), named, _RUNNING)
        of = {**named, PARENT_RUN_TAG: parent}
        waiting = (run(str(k), name, of, _WAITING) for k, name in enumerate(children))
        return Execution(parent, tuple(waiting))

    def start(self, run_id: str) -> None:
        """Show a run as running."""
        self._client.update_run(run_id, _RUNNING)

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags; those that MLflow has columns for by MLflow's names."""
        from mlflow.entities import RunTag

        entries = [RunTag(key, value[:_TAG_LENGTH]) for key, value in _named(tags).items()]
        for batch in _batches(entries, _PARAMS_AT_ONCE):
            self._client.log_batch(run_id, tags=batch)

    def log_note(self, run_id: str, markdown: str) -> None:
        """Set the description of a run."""
        self._client.set_tag(run_id, _NOTE, markdown)

    def log_data(self, run_id: str, name: str, digest: str, data: Mapping[str, np.ndarray]) -> None:
        """Record a dataset that the run takes."""
        from mlflow.data import from_numpy
        from mlflow.data.code_dataset_source import CodeDatasetSource
        from mlflow.entities import Dataset, DatasetInput

        source = CodeDatasetSource(tags={})
        taken = from_numpy(dict(data), source=source, name=name, digest=digest)
        self._client.log_inputs(run_id, [DatasetInput(Dataset(**taken.to_dict()))])

    def log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        """Record settings, as text."""
        from mlflow.entities import Param

        entries = [Param(key, str(value)) for key, value in params.items()]
        for batch in _batches(entries, _PARAMS_AT_ONCE):
            self._client.log_batch(run_id, params=batch)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Record final values, at step 0."""
        from mlflow.entities import Metric

        start = self._start(run_id)
        entries = [Metric(key, float(value), start, 0) for key, value in metrics.items()]
        self._client.log_batch(run_id, metrics=entries)

    def log_series(self, run_id: str, key: str, steps: np.ndarray, values: np.ndarray) -> None:
        """Record a value for each of `steps`."""
        from mlflow.entities import Metric

        start = self._start(run_id)
        entries = [
            Metric(key, float(value), start + int(step), int(step))
            for step, value in zip(steps, values, strict=True)
        ]
        for batch in _batches(entries, _METRICS_AT_ONCE):
            self._client.log_batch(run_id, metrics=batch)

    def log_image(self, run_id: str, key: str, image: np.ndarray) -> None:
        """Record an image at step 0, unless there is one by that key."""
        # MLflow puts a random part into the file's name, so the same image again is a second one.
        prefix = image_prefix(key, 0)
        stored = self._client.list_artifacts(run_id, "images")
        if not any(file.path.startswith(prefix) for file in stored):
            start, shown = self._start(run_id), _square(image)
            self._client.log_image(
                run_id, shown, key=key, step=0, timestamp=start, synchronous=True
            )

    def log_text(self, run_id: str, text: str, file: str) -> None:
        """Record a text file."""
        self._client.log_text(run_id, text, file)

    def log_file(self, run_id: str, path: Path) -> None:
        """Record a copy of a file under its own name."""
        self._client.log_artifact(run_id, str(path))

    def end(self, run_id: str, status: RunStatus, seconds: float | None = None) -> None:
        """Close a run."""
        # MLflow's runs begin when they are created, and this cannot be changed. All children of an
        # execution are created with it, so their end is what makes their duration that of the work.
        end = None if seconds is None else self._start(run_id) + round(1000 * seconds)
        self._client.set_terminated(run_id, status.value, end)

    def dashboard(self) -> str:
        """Return the server's address, or the command that starts one on the database."""
        if urlsplit(self.tracking_uri).scheme in _SERVERS:
            return without_password(self.tracking_uri)
        mlflow = Path(sys.executable).with_name("mlflow")
        if mlflow.is_relative_to(Path.cwd()):
            mlflow = mlflow.relative_to(Path.cwd())
        return f"{mlflow} ui --backend-store-uri {without_password(self.tracking_uri)}"

    def address(self, run_id: str) -> str:
        """Return the page of a run, among those on models that are trained."""
        known = urlsplit(self.tracking_uri).scheme in _SERVERS
        server = without_password(self.tracking_uri).rstrip("/") if known else _SERVED
        experiment = self._client.get_run(run_id).info.experiment_id
        return f"{server}/#/experiments/{experiment}/runs/{run_id}?workflowType=machine_learning"

    def _start(self, run_id: str) -> int:
        if run_id not in self._start_ms:
            self._start_ms[run_id] = self._client.get_run(run_id).info.start_time
        return self._start_ms[run_id]

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                place = self._artifacts(name)
                return str(self._client.create_experiment(name, place, tags=dict(_KIND)))
            except MlflowException:
                # Another process may have made it in between.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise ValueError(
                f"The experiment {name!r} in {without_password(self.tracking_uri)} was deleted: "
                f"restore it with `mlflow experiments restore -x {found.experiment_id}` or rename "
                "the comparison."
            )
        return str(found.experiment_id)

    def _artifacts(self, name: str) -> str | None:
        database = _database(self.tracking_uri)
        if database is None:
            return None  # a server knows where its artifacts go
        return (database.parent / "mlartifacts" / file_name(name)).as_uri()


def _experiment_name(comparison: str) -> str:
    """Return the name of a comparison's experiment: its own, where MLflow leaves it to us."""
    if comparison == _DEFAULT:
        return f"{comparison} (comparison)"
    long = len(comparison) > _LONGEST or not comparison.strip()
    return file_name(comparison) if long else comparison


def _database(tracking_uri: str) -> Path | None:
    prefix = "sqlite:///"
    return Path(tracking_uri.removeprefix(prefix)) if tracking_uri.startswith(prefix) else None


def _square(image: np.ndarray) -> np.ndarray:
    """Return a wide image with white below it.

    MLflow puts images in the middle of squares, of which its cards show the upper part.
    """
    height, width = image.shape[:2]
    below = ((0, max(0, width - height)), (0, 0), (0, 0))
    return np.pad(image, below, constant_values=255)


def _named(tags: Mapping[str, str]) -> dict[str, str]:
    named = {_NAMES.get(key, key): value for key, value in tags.items()}
    return named | ({"mlflow.source.type": "LOCAL"} if "source" in tags else {})


def _batches[T](entries: list[T], size: int) -> Iterator[list[T]]:
    for i in range(0, len(entries), size):
        yield entries[i : i + size]
