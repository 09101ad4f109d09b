"""Names of methods as keys that trackers accept and people read."""

from __future__ import annotations

from collections.abc import Iterable

# MLflow takes 250 characters, and more is added around these.
_LONGEST = 100


def keys_of(names: Iterable[str]) -> dict[str, str]:
    """Return a key for each name, another for every other name.

    Parameters
    ----------
    names : iterable of str

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> from pymc_vi_ext.tracking.keys import keys_of
    >>> keys_of(["μ", "σ", "advi (seed 1)"])
    {'μ': '_', 'σ': '_ 2', 'advi (seed 1)': 'advi _seed 1_'}
    """
    found: dict[str, str] = {}
    for name in names:
        key, number = _key(name), 1
        while key in found.values():
            number += 1
            key = f"{_key(name)} {number}"
        found[name] = key
    return found


def _key(name: str) -> str:
    kept = "".join(c if (c.isascii() and c.isalnum()) or c in "_-. " else "_" for c in name)
    kept = kept[:_LONGEST].strip(" ")
    return kept if kept.strip(".") else "_"
