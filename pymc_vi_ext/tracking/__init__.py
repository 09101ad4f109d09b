"""Keep the results of comparisons where a dashboard shows them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pymc_vi_ext.tracking.report import report_comparison, report_result
from pymc_vi_ext.tracking.tracker import Execution, RunStatus, Tracker

if TYPE_CHECKING:
    from pymc_vi_ext.tracking.mlflow_tracker import MlflowTracker

__all__ = [
    "Execution",
    "MlflowTracker",
    "RunStatus",
    "Tracker",
    "report_comparison",
    "report_result",
]


def __getattr__(name: str) -> Any:
    if name == "MlflowTracker":
        return import_module(f"{__name__}.mlflow_tracker").MlflowTracker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
