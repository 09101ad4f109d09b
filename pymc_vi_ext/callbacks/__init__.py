"""Callbacks of a fit: rules that stop it, and what watches it.

Every one works in :func:`pymc_vi_ext.fit` and in :func:`pymc.fit`; what they have in common is
written down in :class:`~pymc_vi_ext.callbacks.callback.Callback`.
"""

from collections.abc import Callable

from pymc_vi_ext.callbacks.callback import Callback, Rule
from pymc_vi_ext.callbacks.checkpoint import Checkpoint, CheckpointError
from pymc_vi_ext.callbacks.convergence import CheckParametersConvergence
from pymc_vi_ext.callbacks.early_stopping import EarlyStopping
from pymc_vi_ext.callbacks.elbo import RelativeELBO
from pymc_vi_ext.callbacks.learning_rate import ReduceLROnPlateau
from pymc_vi_ext.callbacks.logger import TrackerLogger
from pymc_vi_ext.callbacks.matched import MatchedStop
from pymc_vi_ext.callbacks.newton import NewtonStop
from pymc_vi_ext.callbacks.non_finite import NonFinite
from pymc_vi_ext.callbacks.plateau import LossPlateau
from pymc_vi_ext.callbacks.rhat import IterateRhat
from pymc_vi_ext.callbacks.staged import StagedStop
from pymc_vi_ext.callbacks.tracker import Tracker
from pymc_vi_ext.callbacks.wall_time import WallTime

RULES: dict[str, Callable[[], Rule]] = {
    "check_parameters": CheckParametersConvergence,
    "iterate_rhat": IterateRhat,
    "loss_plateau": LossPlateau,
    "matched": MatchedStop,
    "relative_elbo": RelativeELBO,
    "staged": StagedStop,
}
"""Name for ``convergence=`` -> rule; besides, "default" is the method's own."""

__all__ = [
    "RULES",
    "Callback",
    "CheckParametersConvergence",
    "Checkpoint",
    "CheckpointError",
    "EarlyStopping",
    "IterateRhat",
    "LossPlateau",
    "MatchedStop",
    "NewtonStop",
    "NonFinite",
    "ReduceLROnPlateau",
    "RelativeELBO",
    "Rule",
    "StagedStop",
    "Tracker",
    "TrackerLogger",
    "WallTime",
]
