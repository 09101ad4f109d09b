"""Suites: a configuration with several models, and what these inherit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pymc_vi_ext.comparison._sentences import ConfigError, cut, shown

MODELS = "models"
"""The key that makes a configuration a suite."""


def comparisons(
    content: Mapping[str, Any], path: Path, known: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Return the comparisons of a suite.

    Parameters
    ----------
    content : mapping
        What its file has.
    path : Path
        Of the file, for messages.
    known : collection of str
        Keys of a comparison.

    Returns
    -------
    dict of str to dict
        By their names what their own files would have; none of it is checked.

    Raises
    ------
    ConfigError
        If a key at the top is unknown, there are no models, or two have the same name.
    """
    inherited = {key: value for key, value in content.items() if key != MODELS}
    suite, models = inherited.pop("name", None), content.get(MODELS)
    if not isinstance(suite, str) or not suite:
        raise ConfigError(f"{path}: name: this key is required.")
    if not isinstance(models, list) or not models:
        raise ConfigError(f"{path}: {MODELS}: a suite has a list of models here.")
    for key in inherited:
        if key not in known:
            keys = ", ".join([MODELS, *known])
            raise ConfigError(f"{path}: {cut(key, 60)}: unknown key; known keys: {keys}.")
    found: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(models):
        place = f"{path}: {MODELS}[{number}]"
        own = _own(entry, place)
        name = f"{suite} - {own.get('name', own['model'].rpartition(':')[2])}"
        if name in found:
            raise ConfigError(f"{place}: there is a {shown(name)} already: give each its `name`.")
        found[name] = inherited | own | {"name": name}
        seeds = found[name].get("seeds")
        if isinstance(seeds, dict) and "seeds" not in own:
            # Models keep their seeds while others come and go.
            found[name]["seeds"] = seeds | {"key": name}
    return found


def _own(entry: Any, place: str) -> dict[str, Any]:
    own = {"model": entry} if isinstance(entry, str) else entry
    if not isinstance(own, dict) or not isinstance(own.get("model"), str):
        raise ConfigError(f"{place}: needs a model, such as `- gamma` or `- model: gamma`.")
    if not isinstance(own.get("name", ""), str):
        raise ConfigError(f"{place}.name: needs text, not {shown(own['name'])}.")
    return own
