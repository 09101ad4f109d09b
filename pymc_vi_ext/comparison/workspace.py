"""The folder in which comparisons keep what they have, so that nothing is done twice or lost."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import uuid

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pymc_vi_ext._names import readable
from pymc_vi_ext.comparison.processes import Run
from pymc_vi_ext.comparison.storage import result_status, write_json
from pymc_vi_ext.comparison.types import Status

if TYPE_CHECKING:
    import pymc as pm

# Whose versions a result depends on.
_PACKAGES = (
    "pymc-vi-ext", "pymc", "pytensor", "numpy", "jax", "jaxlib", "numba",
    "nutpie", "numpyro", "blackjax", "pymc-extras",
)  # fmt: skip
_IDS, _BEGUN, _TABLE, _STOP = "runs.json", "begun.json", "table.json", "stop"


@dataclass(frozen=True)
class Workspace:
    """Results of runs, and executions of comparisons, in a folder.

    A result lies in ``results``, under a name that says all that it depends on: model, parameters,
    code outside the zoo, method, label, options, seed, draws and the versions of the packages. It
    serves every comparison that asks for the same. An execution lies in ``executions``: its runs
    in the tracker, its table, and how much of it the tracker has.

    Parameters
    ----------
    root : Path
        Made on use.
    """

    root: Path

    def result(self, run: Run, token: str = "") -> Path:
        """Return the folder of a run's result.

        Parameters
        ----------
        run : Run
        token : str
            Results with another token are others.
        """
        return self.root / "results" / f"{readable(run.spec.label)}-{run.seed}-{_key(run, token)}"

    def execution(
        self, name: str, runs: Sequence[Run], reference: Any, uri: str, token: str = ""
    ) -> ExecutionFolder:
        """Return the folder of the execution of these runs in this order, kept at a URI."""
        folders = tuple(self.result(run, token) for run in runs)
        keys = [*(folder.name for folder in folders), repr(reference), uri, name]
        path = self.root / "executions" / f"{readable(name)}-{_digest(keys)}"
        return ExecutionFolder(path, folders)

    def results(self) -> list[Path]:
        """Return the folders of all results."""
        return sorted(self.root.glob("results/*"))

    def executions(self) -> list[ExecutionFolder]:
        """Return all executions that have runs in a tracker."""
        found = []
        for file in sorted(self.root.glob(f"executions/*/{_IDS}")):
            if (ids := _read(file)) is not None:
                folders = tuple(self.root / "results" / name for name in ids["results"])
                found.append(ExecutionFolder(file.parent, folders))
        return found


@dataclass(frozen=True)
class ExecutionFolder:
    """What is kept of one execution.

    Attributes
    ----------
    path : Path
    results : tuple of Path
        Folders of the results of its runs, in their order.
    """

    path: Path
    results: tuple[Path, ...]

    @property
    def stop(self) -> Path:
        """A file that asks all its runs to stop, wherever they are, while it is there."""
        return self.path / _STOP

    @property
    def finished(self) -> tuple[bool, ...]:
        """Which runs have finished."""
        return tuple(is_finished(folder) for folder in self.results)

    @property
    def ended(self) -> bool:
        """Whether all runs have come to an end, be it that they failed."""
        ends = {Status.FINISHED, Status.FAILED}
        return all(result_status(folder) in ends for folder in self.results)

    @property
    def done(self) -> bool:
        """Whether all runs have finished, and the tracker has everything."""
        return all(self.finished) and self.is_tracked(None) and self.table is not None

    @property
    def ids(self) -> dict[str, Any] | None:
        """The runs in the tracker, ``parent`` and ``children``; None before there are any."""
        return _read(self.path / _IDS)

    @property
    def table(self) -> list[dict[str, Any]] | None:
        """The rows of the table; None before there is one."""
        found = _read(self.path / _TABLE)
        return None if found is None else found["rows"]

    def begin_token(self) -> str:
        """Return the token to begin runs in the tracker with; the same until their ids are kept.

        Those that were begun before a flow was killed are found by it.
        """
        begun, ids = _read(self.path / _BEGUN), self.ids or {}
        if begun is None or begun["token"] == ids.get("token"):
            begun = {"token": uuid.uuid4().hex}
            write_json(self.path / _BEGUN, begun)
        return str(begun["token"])

    def keep_ids(self, ids: dict[str, Any]) -> None:
        """Write the runs in the tracker, which has nothing of them yet."""
        for mark in self.path.glob("tracked-*"):
            mark.unlink()
        names = [folder.name for folder in self.results]
        write_json(self.path / _IDS, {**ids, "results": names})

    def keep_table(self, rows: list[dict[str, Any]]) -> None:
        """Write the rows of the table."""
        write_json(self.path / _TABLE, {"rows": rows})

    def is_tracked(self, run: int | None) -> bool:
        """Tell whether the tracker has a run, or, of None, the comparison of all."""
        return self._mark(run).exists()

    def mark_tracked(self, run: int | None) -> None:
        """Remember that the tracker has a run, or, of None, the comparison of all."""
        self._mark(run).touch()

    def _mark(self, run: int | None) -> Path:
        return self.path / f"tracked-{'all' if run is None else run}"


def fingerprint(model: pm.Model) -> str:
    """Return a digest of a model's graph and of all data in it, wherever these came from.

    Parameters
    ----------
    model : pymc.Model

    Returns
    -------
    str
        The same for a model that is built again from the same data.
    """
    from pytensor.compile.sharedvalue import SharedVariable
    from pytensor.graph.basic import Constant
    from pytensor.graph.traversal import ancestors
    from pytensor.tensor.random.type import RandomType

    digest = hashlib.sha256()
    for variable in ancestors([model.logp(), *model.deterministics]):
        if isinstance(variable.type, RandomType):
            continue
        digest.update(str(variable.type).encode())
        if variable.owner is not None:
            digest.update(type(variable.owner.op).__name__.encode())
        data = None
        if isinstance(variable, Constant):
            data = variable.data
        elif isinstance(variable, SharedVariable):
            data = variable.get_value(borrow=True)
        numbers = isinstance(data, np.ndarray) and data.dtype != object
        digest.update(np.ascontiguousarray(data).tobytes() if numbers else repr(data).encode())
    return digest.hexdigest()[:16]


def is_finished(folder: Path) -> bool:
    """Tell whether a result is there, and not that of a run that failed or was interrupted."""
    return result_status(folder) is Status.FINISHED


def _read(path: Path) -> dict[str, Any] | None:
    # One that is damaged is written anew.
    with contextlib.suppress(FileNotFoundError, ValueError):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    return None


def _key(run: Run, token: str) -> str:
    spec, model = run.spec, str(run.config["model"])
    known = {
        "label": spec.label,
        "model": model,
        "code": _code(model, Path(run.path)),
        "parameters": run.config.get("parameters", {}),
        "data": _data(run),
        "method": spec.name,
        "options": spec.all_options,
        "seed": run.seed,
        "draws": run.draws,
        "versions": _versions(),
        "token": token,
    }
    return _digest(json.dumps(known, sort_keys=True, default=str))


def _data(run: Run) -> dict[str, Any]:
    """Return where data come from, and what is there now."""
    # Not above: it needs pydantic.
    from pymc_vi_ext.comparison.data import file_digest

    folder = Path(run.path).parent
    return {
        name: [source, file_digest(folder / str(source.get("file")))]
        for name, source in run.config.get("data", {}).items()
    }


def _code(model: str, path: Path) -> str:
    """Return a digest of the file that a model outside the zoo is in."""
    place, colon, _ = model.rpartition(":")
    if not colon:
        return ""
    if place.endswith(".py"):
        file = path.parent / place
    else:
        try:
            found = importlib.util.find_spec(place)
        except ImportError:
            return ""
        file = Path(found.origin) if found is not None and found.origin else Path()
    return _digest(file.read_bytes().hex()) if file.is_file() else ""


@functools.cache
def _versions() -> dict[str, str]:
    # In a checkout the version stays while the code changes.
    sources = sorted(Path(__file__).parents[1].rglob("*.py"))
    found = {"source": _digest([hashlib.sha256(file.read_bytes()).hexdigest() for file in sources])}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
