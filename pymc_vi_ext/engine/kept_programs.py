"""Compiled programs in a folder of the user's, for the next process that needs the same ones."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import re
import stat

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import jax
import numpy as np

from jax.experimental.serialize_executable import deserialize_and_load, serialize
from platformdirs import user_cache_path

logger = logging.getLogger(__name__)

VARIABLE = "PYMC_VI_EXT_CACHE"
"""Environment variable: a folder for compiled programs, ``off``, or ``on`` as without it."""
_ON, _OFF = "on", ("", "off")
# Of all files together; a program of a small model has a third of a megabyte.
_MOST_BYTES = 500_000_000
_SUFFIX = ".program"
# Functions outside of a program that it calls, and those of LAPACK among them.
_CALLED, _LAPACK = re.compile(r'custom_call_target="([^"]+)"'), "lapack_"


def folder() -> Path | None:
    """Return where compiled programs are kept; None where they are not.

    Among one's caches, unless ``PYMC_VI_EXT_CACHE`` says otherwise. What lies there is run: others
    may neither own it nor write to it.
    """
    given = os.environ.get(VARIABLE, _ON).strip()
    if given.lower() in _OFF:
        return None
    on = given.lower() == _ON
    place = user_cache_path("pymc_vi_ext") if on else Path(given).expanduser()
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = place.stat()
    except OSError as error:
        logger.info("Compiled programs are not kept: %s", error)
        return None
    others = stat.S_IWGRP | stat.S_IWOTH
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & others):
        logger.info("Compiled programs are not kept: others may write to %s.", place)
        return None
    return place


def load(key: str | None) -> tuple[Callable[..., Any], list[np.ndarray]] | None:
    """Return a compiled function and the large constants that it takes; None if there is none.

    Parameters
    ----------
    key : str or None
        What :func:`~pymc_vi_ext.engine.fingerprint.fingerprint` says of the program.
    """
    file = _file(key)
    if file is None or not file.is_file():
        return None
    try:
        # The folder is the user's own.
        (program, inputs, outputs), *others = pickle.loads(file.read_bytes())
        constants, needs_lapack = others
        if needs_lapack:
            _find_lapack()
        # One device of however many there are, as it was compiled for.
        one = list(jax.device_put(0).devices())
        function = deserialize_and_load(program, inputs, outputs, execution_devices=one)
        os.utime(file)  # as used last
    except Exception as error:  # whatever is wrong with it, it can be made anew
        logger.info("%s could not be read, and is made anew: %s", file, error)
        return None
    return function, constants


def keep(key: str | None, function: Any, constants: Sequence[np.ndarray]) -> None:
    """Keep a compiled function, where it can be; the ones used longest ago make room.

    Parameters
    ----------
    key : str or None
    function : jax.stages.Compiled
    constants : sequence of array
    """
    file = _file(key)
    if file is None:
        return
    try:
        called = set(_CALLED.findall(function.as_text()))
        # In another process nobody need have made ready what they are.
        if not all(name.startswith(_LAPACK) for name in called):
            return
        content = pickle.dumps((serialize(function), list(constants), bool(called)))
        _write(file, content)
        _make_room(file.parent)
    except Exception as error:  # a full disk, a platform that cannot: the fit goes on
        logger.info("A compiled program could not be kept: %s", error)


@functools.cache
def _find_lapack() -> None:
    """Let JAX find the functions of LAPACK, as it does when it lowers a call of one.

    A program that is loaded calls them unasked: without this, at the address 0.
    """
    jax.jit(jax.numpy.linalg.cholesky).lower(np.eye(1))


def _file(key: str | None) -> Path | None:
    place = folder() if key is not None else None
    return None if place is None else place / f"{key}{_SUFFIX}"


def _write(file: Path, content: bytes) -> None:
    """Write all of a file or nothing, whoever else writes it."""
    with NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
        try:
            part.write(content)
            part.close()
            os.replace(part.name, file)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise


def _make_room(place: Path) -> None:
    files = {file: file.stat() for file in place.glob(f"*{_SUFFIX}")}
    too_many = sum(status.st_size for status in files.values()) - _MOST_BYTES
    for file, status in sorted(files.items(), key=lambda item: item[1].st_mtime):
        if too_many <= 0:
            return
        # Another process may have been quicker.
        with contextlib.suppress(OSError):
            file.unlink()
        too_many -= status.st_size
