"""JSON lines in a folder as the tracker: no server, no database, files that anything reads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import time
import uuid

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pymc_vi_ext._names import file_name
from pymc_vi_ext.tracking._reachable import check_folder
from pymc_vi_ext.tracking.tracker import Execution, RunStatus

_EVENTS = "events.jsonl"
# What a name of a file cannot have: separators and what Windows forbids; a dot at its beginning, a
# dot or a blank at its end. Some names are devices there. Systems take 255 bytes, with an ending.
_UNSAFE = re.compile(r'^\.|[/\\:*?"<>|%\x00-\x1f]|[. ]$')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_MOST_BYTES = 200


class JsonlTracker:
    """Runs in a folder: ``<comparison>/<execution>/<child>``.

    Each run's folder has ``events.jsonl`` with an object a line, whose ``event`` is ``begin``,
    ``start``, ``param``, ``metric`` (``key``, ``step``, ``value``), ``tag``, ``data``, ``image``,
    ``file`` or ``end``; of tags, starts and ends the last one counts. Images lie in ``images``,
    files in ``files``. Run ids are the paths of runs within the folder. JSON has no
    NaN: values that are not finite are ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which
    ``float`` reads. Characters that a name of a file cannot have are written ``%2F``.

    Parameters
    ----------
    uri : str
        ``jsonl:relative/path`` or ``jsonl:///absolute/path``. The first run makes the folder.

    Raises
    ------
    ValueError
        If the URI names no folder; in any call, if there is no run by its id.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pymc_vi_ext.tracking import JsonlTracker
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> tracker = JsonlTracker(f"jsonl:{folder}")
    >>> run = tracker.begin("demo", ["advi"], {}).children[0]
    >>> tracker.log_metrics(run, {"diag/khat": float("inf")})
    >>> (folder / run / "events.jsonl").read_text().splitlines()[1]
    '{"event": "metric", "key": "diag/khat", "step": 0, "value": "Infinity"}'
    """

    def __init__(self, uri: str) -> None:
        self.uri = self.absolute_uri(uri)
        self._root = _folder(self.uri)

    @staticmethod
    def absolute_uri(uri: str) -> str:
        """Return the URI with the folder's absolute path."""
        return f"jsonl://{_folder(uri).as_posix()}"

    def check(self) -> None:
        """Raise ConnectionError if the folder cannot be written to."""
        check_folder(self._root)

    def has(self, run_id: str) -> bool:
        """Tell whether there is a folder of that run."""
        return (self._root / run_id / _EVENTS).exists()

    def children(self, run_id: str) -> tuple[str, ...]:
        """Return the ids of an execution's children."""
        found = sorted(self._run(run_id).glob(f"*/{_EVENTS}"))
        return tuple(file.parent.relative_to(self._root).as_posix() for file in found)

    def fetch(self, run_id: str, file: str, folder: Path) -> Path | None:
        """Copy a file of a run to a folder; None if it has none of that name."""
        path = self._run(run_id) / "files" / _safe(file)
        return Path(shutil.copy(path, folder)) if path.exists() else None

    def begin(
        self,
        comparison: str,
        children: Sequence[str],
        tags: Mapping[str, str],
        token: str | None = None,
    ) -> Execution:
        """Create the parent's folder and its children's in it."""
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        # Two may begin in one second.
        mark = hashlib.sha256((token or uuid.uuid4().hex).encode()).hexdigest()[:8]
        place = self._root / _safe(comparison)
        parent = next(place.glob(f"* {mark}"), place / f"{now.replace(':', '.')} {mark}")
        started = {"event": "begin", "time": now}
        runs = [(parent, {**started, "comparison": comparison, "tags": dict(tags)})]
        for number, child in enumerate(children):
            # Numbered: names may be the same, or that of a folder of the parent's own.
            event = {**started, "name": child, "tags": dict(tags)}
            runs.append((parent / f"{number:02d} {_safe(child)}", event))
        for folder, event in runs:
            folder.mkdir(parents=True, exist_ok=True)
            if "\n" not in _text(folder / _EVENTS):
                _append(folder, [event])
        parent_id, *child_ids = (run.relative_to(self._root).as_posix() for run, _ in runs)
        return Execution(parent_id, tuple(child_ids))

    def start(self, run_id: str) -> None:
        """Record that a run goes on."""
        _append_last(self._run(run_id), {"event": "start"}, ("start", "end"))

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Record tags, in place of what they were."""
        for key, value in tags.items():
            event = {"event": "tag", "key": key, "value": value}
            _append_last(self._run(run_id), event, ("tag",))

    def log_note(self, run_id: str, markdown: str) -> None:
        """Record a note as ``files/note.md``."""
        self.log_text(run_id, markdown, "note.md")

    def log_data(self, run_id: str, name: str, digest: str, data: Mapping[str, np.ndarray]) -> None:
        """Record what the data are, each variable with its type and shape."""
        kinds = {
            key: {"type": str(array.dtype), "shape": list(array.shape)}
            for key, array in data.items()
        }
        event = {"event": "data", "name": name, "digest": digest, "variables": kinds}
        _append(self._run(run_id), [event])

    def log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        """Record settings, as text."""
        events = ({"event": "param", "key": k, "value": str(v)} for k, v in params.items())
        _append(self._run(run_id), events)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Record final values, at step 0."""
        _append(self._run(run_id), (_metric(key, 0, value) for key, value in metrics.items()))

    def log_series(self, run_id: str, key: str, steps: np.ndarray, values: np.ndarray) -> None:
        """Record a value for each of `steps`."""
        points = zip(steps, values, strict=True)
        _append(self._run(run_id), (_metric(key, step, value) for step, value in points))

    def log_image(self, run_id: str, key: str, image: np.ndarray) -> None:
        """Record an image as ``images/<key>.png``."""
        from matplotlib.image import imsave

        path = self._place(run_id, "images", f"{key}.png", {"event": "image", "key": key})
        imsave(path, image, format="png")

    def log_text(self, run_id: str, text: str, file: str) -> None:
        """Record a text as ``files/<file>``."""
        path = self._place(run_id, "files", file, {"event": "file"})
        path.write_text(text, encoding="utf-8")

    def log_file(self, run_id: str, path: Path) -> None:
        """Record a copy of a file under its own name, in ``files``."""
        shutil.copyfile(path, self._place(run_id, "files", path.name, {"event": "file"}))

    def end(self, run_id: str, status: RunStatus, seconds: float | None = None) -> None:
        """Close a run."""
        event: dict[str, Any] = {"event": "end", "status": status.value}
        if seconds is not None:
            event["seconds"] = seconds
        _append_last(self._run(run_id), event, ("start", "end"))

    def dashboard(self) -> str:
        """Return the folder."""
        return str(self._root)

    def address(self, run_id: str) -> str:
        """Return the folder of a run."""
        return str(self._run(run_id))

    def _run(self, run_id: str) -> Path:
        folder = (self._root / run_id).resolve()
        if not folder.is_relative_to(self._root) or not (folder / _EVENTS).exists():
            raise ValueError(f"There is no run {run_id!r} in {self.uri}.")
        return folder

    def _place(self, run_id: str, kind: str, name: str, event: dict[str, Any]) -> Path:
        """Return the path for a file of a run, and record that it is there."""
        run = self._run(run_id)
        path = run.joinpath(kind, *map(_safe, name.split("/")))
        path.parent.mkdir(parents=True, exist_ok=True)
        _append(run, [{**event, "path": path.relative_to(run).as_posix()}])
        return path


def _folder(uri: str) -> Path:
    path = uri.removeprefix("jsonl:")
    if path.startswith("//") and not path.startswith("///"):
        raise ValueError(
            f"The tracking URI {uri!r} names a host, not a folder: write jsonl:relative/path or "
            "jsonl:///absolute/path."
        )
    if not path.strip("/"):
        raise ValueError(f"The tracking URI {uri!r} names no folder, as jsonl:runs/jsonl does.")
    folder = Path(path.removeprefix("//")).resolve()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"The tracking URI {uri!r} names a file, not a folder.")
    return folder


def _safe(name: str) -> str:
    """Return a name of one file or folder, another for every other name."""
    safe = _UNSAFE.sub(lambda found: _escaped(found[0]), name)
    if _DEVICE.match(safe):
        safe = _escaped(safe[0]) + safe[1:]
    if len(safe.encode()) > _MOST_BYTES:
        # Nothing above ends so.
        return f"{file_name(name)}%"
    return safe or "%"


def _escaped(character: str) -> str:
    return f"%{ord(character):02X}"


def _metric(key: str, step: int, value: float) -> dict[str, Any]:
    number = float(value)
    written = number if math.isfinite(number) else json.dumps(number)
    return {"event": "metric", "key": key, "step": int(step), "value": written}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _append(run: Path, events: Iterable[Mapping[str, Any]]) -> None:
    """Add the events that the run does not have yet."""
    there = set(_lines(run))
    lines = dict.fromkeys(map(_line, events))
    _write(run, [line for line in lines if line not in there])


def _append_last(run: Path, event: Mapping[str, Any], kinds: Sequence[str]) -> None:
    """Add an event unless it is the last one of these kinds, of its key where it has one."""
    same = (
        there
        for there in map(_event, reversed(_lines(run)))
        if there.get("event") in kinds and there.get("key") == event.get("key")
    )
    if next(same, None) != event:
        _write(run, [_line(event)])


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, allow_nan=False)


def _event(line: str) -> dict[str, Any]:
    """Return the event of a line, an empty one where its writer was killed at it."""
    with contextlib.suppress(ValueError):
        event: dict[str, Any] = json.loads(line)
        return event
    return {}


def _lines(run: Path) -> list[str]:
    # Not by splitlines, which takes more for the end of a line than JSON does. A line that has none
    # was being written when the disk was full, or the process was killed.
    return _text(run / _EVENTS).split("\n")[:-1]


def _write(run: Path, lines: Sequence[str]) -> None:
    path = run / _EVENTS
    whole, end, torn = _text(path).rpartition("\n")
    if torn:
        os.truncate(path, len(f"{whole}{end}".encode()))
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))
