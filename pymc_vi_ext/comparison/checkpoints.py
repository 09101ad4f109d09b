"""Fits of a comparison that go on where a process was killed."""

from __future__ import annotations

import hashlib
import json

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymc as pm

if TYPE_CHECKING:
    from pymc.variational.opvi import Approximation

_NAME = "checkpoint"
# Between two writings: what a fit that is killed does again.
_SECONDS = 5.0


def fit_or_go_on(
    model: pm.Model,
    name: str,
    options: Mapping[str, Any],
    seed: int,
    progressbar: bool,
    folder: Path | None,
) -> Approximation:
    """Fit, from the checkpoint in a folder where there is one of this very fit.

    Parameters
    ----------
    model : pymc.Model
    name : str
        Of a method, or ``"auto"``.
    options : mapping of str
        All of the method and of its fit.
    seed : int
    progressbar : bool
    folder : Path, optional
        Where a checkpoint is kept while the fit runs, if its method takes steps. One that is
        damaged, or of other options or versions, does not count.

    Returns
    -------
    Approximation
        Its losses are those of a fit that was never killed. Its seconds are those of all its parts,
        but for what was done after the last checkpoint and is done again.
    """
    from pymc_vi_ext.callbacks import Checkpoint
    from pymc_vi_ext.fitting import fit, resume
    from pymc_vi_ext.inference import METHODS

    own = () if name == "auto" else METHODS[name].Options.names()
    arguments: dict[str, Any] = {
        "method": name,
        "random_seed": seed,
        "inf_kwargs": {key: value for key, value in options.items() if key in own} or None,
        **{key: value for key, value in options.items() if key not in own},
    }
    if folder is None or name == "auto" or not METHODS[name].takes_steps:
        return fit(model=model, progressbar=progressbar, **arguments)
    path = folder / f"{_NAME}-{_digest(arguments)}.npz"
    callbacks = [Checkpoint(path, seconds=_SECONDS)]
    if path.exists():
        try:
            return resume(path, model, callbacks=callbacks, progressbar=progressbar)
        except (ValueError, KeyError, FloatingPointError):
            # Of another model, or damaged; or NaN, after which `fit` begins anew near a mode.
            path.unlink(missing_ok=True)
    return fit(model=model, progressbar=progressbar, callbacks=callbacks, **arguments)


def forget_checkpoints(folder: Path) -> None:
    """Remove the checkpoints in a folder, and what is left of one that was being written."""
    for file in folder.glob(f"*{_NAME}-*"):
        file.unlink(missing_ok=True)


def _digest(arguments: Mapping[str, Any]) -> str:
    from pymc_vi_ext.loop import versions

    content = json.dumps([arguments, dict(versions())], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
