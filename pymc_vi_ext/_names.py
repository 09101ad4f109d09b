"""Names of files, folders and keys, made of names that may be any text."""

from __future__ import annotations

import hashlib
import re


def readable(name: str, most: int = 40) -> str:
    """Return a part of a name of a file or folder that no system objects to."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:most]


def file_name(name: str, most: int = 60) -> str:
    """Return a name that no system objects to: letters, digits, ``_`` and ``-``.

    Parameters
    ----------
    name : str
    most : int
        Characters at most.

    Returns
    -------
    str
        Another for every other `name`: it ends with a digest. So it is no device of Windows either,
        no hidden file, and no way out of a folder.

    Examples
    --------
    >>> from pymc_vi_ext._names import file_name
    >>> file_name("..")
    '_-5ec1f7e7'
    """
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{readable(name, most - len(digest) - 1)}-{digest}"


def key_name(name: str, most: int = 60) -> str:
    """Return a name that trackers take as a part of a key.

    Parameters
    ----------
    name : str
    most : int
        Characters at most.

    Returns
    -------
    str
        `name` itself where it is of letters, digits, blanks, ``_``, ``-`` and ``.``, as most names
        of variables are; else what :func:`file_name` makes of it.

    Examples
    --------
    >>> from pymc_vi_ext._names import key_name
    >>> key_name("beta"), key_name("β")
    ('beta', '_-2245c1c8')
    """
    plain = re.fullmatch(r"\w[\w. -]*(?<![. ])", name, re.ASCII) and len(name) <= most
    return name if plain else file_name(name, most)
