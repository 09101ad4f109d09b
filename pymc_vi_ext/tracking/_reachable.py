"""Whether a store can be written to, found out soon."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

_TIMEOUT_S = 2.0


def check_folder(folder: Path) -> None:
    """Raise ConnectionError if a folder, or the nearest above it that is there, is read-only.

    Parameters
    ----------
    folder : Path
        Nothing is made.

    Raises
    ------
    ConnectionError
        With a sentence that names the folder.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pymc_vi_ext.tracking import check_folder
    >>> check_folder(pathlib.Path(tempfile.mkdtemp(), "new"))
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConnectionError(f"The folder {there} cannot be written to: choose another.")


def check_server(uri: str) -> None:
    """Raise ConnectionError if a server of MLflow does not answer."""
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_TIMEOUT_S):
            return
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(
            f"The tracking server {without_password(uri)} does not answer ({reason}): start it, or "
            "choose another with --tracking-uri."
        ) from None


def without_password(uri: str) -> str:
    """Return a URI as it may be shown and stored, with ``***`` in place of a password.

    Parameters
    ----------
    uri : str

    Returns
    -------
    str

    Examples
    --------
    >>> from pymc_vi_ext.tracking import without_password
    >>> without_password("postgresql://me:secret@host/runs")
    'postgresql://me:***@host/runs'
    """
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))
