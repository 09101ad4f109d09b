"""The stores of runs there are, by the scheme of their URIs."""

from __future__ import annotations

import os

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.tracking._reachable import without_password
from pymc_vi_ext.tracking.tracker import RunTracker

DEFAULT_URI = "sqlite:///runs/mlflow.db"
"""Where runs are kept unless the user says otherwise."""

URI_VARIABLE = "MLFLOW_TRACKING_URI"
"""Environment variable that the command line takes the URI from."""


@dataclass(frozen=True)
class Backend:
    """A row of the table of backends.

    Attributes
    ----------
    module, name : str
        Where the class is, a :class:`RunTracker`; imported when a URI asks for it.
    what : str
        What such a URI stands for, with an example.
    is_local : bool
        Whether its path is that of a file or folder on this machine.

    Examples
    --------
    >>> from pymc_vi_ext.tracking import BACKENDS
    >>> BACKENDS["jsonl"].load().__name__
    'JsonlTracker'
    """

    module: str
    name: str
    what: str
    is_local: bool = False

    def load(self) -> type[RunTracker]:
        """Import the class."""
        backend: type[RunTracker] = getattr(import_module(self.module), self.name)
        return backend


def _mlflow(what: str, is_local: bool = False) -> Backend:
    return Backend("pymc_vi_ext.tracking.mlflow_tracker", "MlflowTracker", what, is_local)


BACKENDS: dict[str, Backend] = {
    "sqlite": _mlflow("MLflow in a file, sqlite:///runs/mlflow.db", is_local=True),
    "http": _mlflow("a server of MLflow, http://localhost:5000"),
    "https": _mlflow("a server of MLflow"),
    "postgresql": _mlflow("MLflow in a database, postgresql://user@host/name"),
    "mysql": _mlflow("MLflow in a database"),
    "mssql": _mlflow("MLflow in a database"),
    "jsonl": Backend(
        "pymc_vi_ext.tracking.jsonl_tracker",
        "JsonlTracker",
        "a folder of JSON lines, jsonl:runs/jsonl",
        is_local=True,
    ),
}
"""Backends by scheme; that of a database may name its driver too, ``mysql+pymysql``."""


def open_tracker(uri: str) -> RunTracker:
    """Open the store of runs at a URI.

    Parameters
    ----------
    uri : str
        Its scheme, the part before the colon, chooses the backend in :data:`BACKENDS`.

    Returns
    -------
    RunTracker

    Raises
    ------
    UnknownNameError
        A ValueError: no backend has this scheme.
    ValueError
        If the backend has no use for the rest of the URI.
    ImportError
        If what the backend depends on is not installed.

    Examples
    --------
    >>> import tempfile
    >>> from pymc_vi_ext.tracking import RunStatus, open_tracker
    >>> tracker = open_tracker(f"jsonl:{tempfile.mkdtemp()}")
    >>> execution = tracker.begin("demo", ["advi seed 1"], {})
    >>> tracker.log_metrics(execution.children[0], {"diag/elbo": -1.5})
    >>> tracker.end(execution.children[0], RunStatus.FINISHED)
    """
    return _backend(uri)(uri)


def absolute_uri(uri: str) -> str:
    """Return a tracking URI that means the same from any working directory.

    Parameters
    ----------
    uri : str
        As for :func:`open_tracker`; nothing is opened.

    Returns
    -------
    str

    Raises
    ------
    UnknownNameError
        A ValueError: no backend has this scheme.
    ValueError
        If the backend has no use for the rest of the URI.

    Examples
    --------
    >>> from pymc_vi_ext.tracking import absolute_uri
    >>> absolute_uri("jsonl:/tmp/runs/../jsonl")
    'jsonl:///tmp/jsonl'
    """
    return _backend(uri).absolute_uri(uri)


def folder_beside(uri: str) -> Path:
    """Return the folder that a store is in: what belongs to its runs may lie there too.

    Parameters
    ----------
    uri : str
        As for :func:`open_tracker`.

    Returns
    -------
    Path
        ``runs`` in the working directory, of a store that is no file or folder.

    Examples
    --------
    >>> from pymc_vi_ext.tracking import folder_beside
    >>> folder_beside("sqlite:////tmp/mlflow.db").as_posix()
    '/tmp'
    """
    parts = urlsplit(absolute_uri(uri))
    if not _row(uri).is_local:
        return Path("runs")
    return Path(f"/{parts.path.lstrip('/')}").parent


def tracker_uri(shown: str) -> str:
    """Return the URI of which one is shown without its password: it is in the environment.

    Parameters
    ----------
    shown : str
        What :func:`without_password` makes of a URI.

    Returns
    -------
    str
        That of the environment variable ``MLFLOW_TRACKING_URI``, where it is the same but for the
        password; else `shown`.

    Examples
    --------
    >>> from pymc_vi_ext.tracking.backends import tracker_uri
    >>> tracker_uri("sqlite:////tmp/mlflow.db")
    'sqlite:////tmp/mlflow.db'
    """
    known = os.environ.get(URI_VARIABLE, "")
    return known if known and without_password(known) == shown else shown


def _backend(uri: str) -> type[RunTracker]:
    return _row(uri).load()


def _row(uri: str) -> Backend:
    scheme, colon, _ = uri.partition(":")
    found = BACKENDS.get(scheme.partition("+")[0].lower()) if colon else None
    if found is None:
        known = [f"{scheme}: ({backend.what})" for scheme, backend in BACKENDS.items()]
        raise UnknownNameError("scheme of the tracking URI", without_password(uri), known)
    return found
