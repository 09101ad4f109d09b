"""Keep the results of comparisons where a person finds them again."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pymc_vi_ext.tracking._reachable import check_folder, without_password
from pymc_vi_ext.tracking.about import About, environment
from pymc_vi_ext.tracking.backends import (
    BACKENDS,
    DEFAULT_URI,
    URI_VARIABLE,
    Backend,
    absolute_uri,
    folder_beside,
    open_tracker,
    tracker_uri,
)
from pymc_vi_ext.tracking.tracker import Execution, RunStatus, RunTracker

if TYPE_CHECKING:
    from pymc_vi_ext.tracking.fits import autolog
    from pymc_vi_ext.tracking.jsonl_tracker import JsonlTracker
    from pymc_vi_ext.tracking.mlflow_tracker import MlflowTracker
    from pymc_vi_ext.tracking.models import report_model
    from pymc_vi_ext.tracking.rebuild import rebuild_comparison
    from pymc_vi_ext.tracking.report import (
        report_comparison,
        report_interrupted,
        report_progress,
        report_result,
    )

__all__ = [
    "BACKENDS",
    "DEFAULT_URI",
    "URI_VARIABLE",
    "About",
    "Backend",
    "Execution",
    "JsonlTracker",
    "MlflowTracker",
    "RunStatus",
    "RunTracker",
    "absolute_uri",
    "autolog",
    "check_folder",
    "environment",
    "folder_beside",
    "open_tracker",
    "rebuild_comparison",
    "report_comparison",
    "report_interrupted",
    "report_model",
    "report_progress",
    "report_result",
    "tracker_uri",
    "without_password",
]

# Reports need the comparison, and PyMC with it; the command line asks for URIs alone.
_LAZY = {
    "JsonlTracker": "jsonl_tracker",
    "autolog": "fits",
    "MlflowTracker": "mlflow_tracker",
    "rebuild_comparison": "rebuild",
    "report_comparison": "report",
    "report_interrupted": "report",
    "report_model": "models",
    "report_progress": "report",
    "report_result": "report",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
