"""Callbacks of a fit: rules that stop it, and what watches it.

Every one works in :func:`pymc_vi_ext.fit` and in :func:`pymc.fit`; what they have in common is
written down in :class:`~pymc_vi_ext.callbacks._base.Callback`.
"""

from pymc_vi_ext.callbacks.checkpoint import Checkpoint, CheckpointError
from pymc_vi_ext.callbacks.convergence import CheckParametersConvergence
from pymc_vi_ext.callbacks.early_stopping import EarlyStopping
from pymc_vi_ext.callbacks.elbo import RelativeELBO
from pymc_vi_ext.callbacks.learning_rate import ReduceLROnPlateau
from pymc_vi_ext.callbacks.logger import TrackerLogger
from pymc_vi_ext.callbacks.non_finite import NonFinite
from pymc_vi_ext.callbacks.plateau import LossPlateau
from pymc_vi_ext.callbacks.rhat import IterateRhat
from pymc_vi_ext.callbacks.staged import StagedStop
from pymc_vi_ext.callbacks.tracker import Tracker
from pymc_vi_ext.callbacks.wall_time import WallTime

__all__ = [
    "CheckParametersConvergence",
    "Checkpoint",
    "CheckpointError",
    "EarlyStopping",
    "IterateRhat",
    "LossPlateau",
    "NonFinite",
    "ReduceLROnPlateau",
    "RelativeELBO",
    "StagedStop",
    "Tracker",
    "TrackerLogger",
    "WallTime",
]
