"""Whether all is there that a comparison needs."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from pymc_vi_ext.tracking import open_tracker, without_password

_PACKAGE, _EXTRA = "pymc-vi-ext", "flows"
_ENOUGH_GB, _ANSWER_S = 1.0, 2.0


@dataclass(frozen=True)
class Finding:
    """What was looked at, whether it is as it should be, and a sentence."""

    what: str
    fine: bool
    said: str


def examine(uri: str, folder: Path) -> list[Finding]:
    """Look at versions, tracker, disk and Prefect's server.

    Parameters
    ----------
    uri : str
        Of the tracker, absolute.
    folder : Path
        The workspace.

    Returns
    -------
    list of Finding
    """
    return [_versions(), _tracker(uri), _disk(folder), _prefect(), _machine()]


def _versions() -> Finding:
    problems, fine = [], []
    for requirement in map(Requirement, requires(_PACKAGE) or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": _EXTRA}):
            continue
        if requirement.name == _PACKAGE:
            continue  # another of its extras
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{requirement.name} is missing")
            continue
        if requirement.specifier.contains(found, prereleases=True):
            fine.append(f"{requirement.name} {found}")
        else:
            problems.append(f"{requirement.name} {found} is not {requirement.specifier}")
    if problems:
        repair = f"pip install '{_PACKAGE}[{_EXTRA}]'"
        return Finding("versions", False, f"{', '.join(problems)}: {repair}")
    shown = [name for name in fine if re.match("pymc |pytensor |jax |prefect |mlflow ", name)]
    return Finding("versions", True, ", ".join(shown))


def _tracker(uri: str) -> Finding:
    try:
        tracker = open_tracker(uri)
        tracker.check()
    except (ConnectionError, ImportError) as error:
        return Finding("tracker", False, str(error))
    return Finding("tracker", True, f"{without_password(uri)} can be written to")


def _disk(folder: Path) -> Finding:
    # What does not exist yet is made in what does.
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"0")
    except OSError as error:
        return Finding("disk", False, f"{there} cannot be written to: {error.strerror}")
    free = shutil.disk_usage(there).free / 1e9
    return Finding("disk", free > _ENOUGH_GB, f"{free:.1f} GB are free in {there}")


def _prefect() -> Finding:
    from prefect.settings import PREFECT_API_URL, PREFECT_HOME

    url = PREFECT_API_URL.value()
    if not url:
        home = PREFECT_HOME.value()
        return Finding("Prefect", True, f"a server of its own at each command, in {home}")
    shown = without_password(url)
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=_ANSWER_S):
            return Finding("Prefect", True, f"the server at {shown} answers")
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = f"the server at {shown} (PREFECT_API_URL) does not answer: {error}"
        return Finding("Prefect", False, reason)


def _machine() -> Finding:
    import jax

    devices = ", ".join(sorted({device.device_kind for device in jax.devices()}))
    return Finding("machine", True, f"{os.cpu_count()} cores; JAX runs on {devices}")
