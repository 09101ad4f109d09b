"""Run several methods on one model, score them against a reference and tabulate."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pymc_vi_ext.comparison.comparison import Comparison
from pymc_vi_ext.comparison.methods import SAMPLERS, MethodSpec, make_spec, runnable_names
from pymc_vi_ext.comparison.metrics import METRICS, Metric, Scored
from pymc_vi_ext.comparison.peers import PEERS
from pymc_vi_ext.comparison.references import ReferenceWarning
from pymc_vi_ext.comparison.regression import Regression, regressions
from pymc_vi_ext.comparison.runner import (
    compare,
    not_run,
    run_method,
    summarise,
)
from pymc_vi_ext.comparison.types import MethodResult, Status

if TYPE_CHECKING:
    from pymc_vi_ext.comparison._sentences import ConfigError
    from pymc_vi_ext.comparison.config import ComparisonConfig, load_config

__all__ = [
    "METRICS",
    "PEERS",
    "SAMPLERS",
    "Comparison",
    "ComparisonConfig",
    "ConfigError",
    "MethodResult",
    "MethodSpec",
    "Metric",
    "ReferenceWarning",
    "Regression",
    "Scored",
    "Status",
    "compare",
    "load_config",
    "make_spec",
    "not_run",
    "regressions",
    "run_method",
    "runnable_names",
    "summarise",
]


def __getattr__(name: str) -> Any:
    # The configuration needs pydantic, which a plain `compare` does not.
    if name in {"ComparisonConfig", "ConfigError", "load_config"}:
        return getattr(import_module(f"{__name__}.config"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
