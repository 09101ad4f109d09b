"""Variational inference for PyMC that is fast on every backend.

The public names load on first use, so that ``import pymc_vi_ext`` itself stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pymc_vi_ext._after_import import when_imported

__version__ = "0.1.0"

# public name -> module that defines it
_EXPORTS = {
    "ADVI": "inference",
    "ASVGD": "inference",
    "ApproximationWarning": "errors",
    "BaM": "inference",
    "Comparison": "comparison",
    "ConvergenceWarning": "errors",
    "DADVI": "inference",
    "Diagnosis": "diagnostics",
    "Empirical": "approximations.empirical",
    "FitReport": "results",
    "FullRankADVI": "inference",
    "SVGD": "inference",
    "Pathfinder": "inference",
    "Laplace": "inference",
    "StudentTADVI": "inference",
    "MixtureADVI": "inference",
    "LowRankADVI": "inference",
    "MappedFits": "mapping",
    "FlowADVI": "inference",
    "StopReason": "results",
    "Verdict": "diagnostics",
    "check_calibration": "calibration",
    "compare": "comparison",
    "correct": "correction",
    "diagnose": "diagnosis",
    "fit": "fitting",
    "map": "mapping",
    "resume": "fitting",
    "to_datatree": "results",
    "write_draws": "writing",
}
_MODULES = (
    "approximations",
    "callbacks",
    "comparison",
    "correction",
    "data",
    "diagnostics",
    "engine",
    "inference",
    "integrations",
    "objectives",
    "optimizers",
    "plots",
    "schedules",
    "testing",
    "tracking",
    "zoo",
)

__all__ = ["__version__", *sorted(_EXPORTS)]

if TYPE_CHECKING:
    from pymc_vi_ext.approximations.empirical import Empirical as Empirical
    from pymc_vi_ext.calibration import check_calibration as check_calibration
    from pymc_vi_ext.comparison import Comparison as Comparison
    from pymc_vi_ext.comparison import compare as compare
    from pymc_vi_ext.correction import correct as correct
    from pymc_vi_ext.diagnosis import diagnose as diagnose
    from pymc_vi_ext.diagnostics import Diagnosis as Diagnosis
    from pymc_vi_ext.diagnostics import Verdict as Verdict
    from pymc_vi_ext.errors import ApproximationWarning as ApproximationWarning
    from pymc_vi_ext.errors import ConvergenceWarning as ConvergenceWarning
    from pymc_vi_ext.fitting import fit as fit
    from pymc_vi_ext.fitting import resume as resume
    from pymc_vi_ext.inference import ADVI as ADVI
    from pymc_vi_ext.inference import ASVGD as ASVGD
    from pymc_vi_ext.inference import DADVI as DADVI
    from pymc_vi_ext.inference import SVGD as SVGD
    from pymc_vi_ext.inference import BaM as BaM
    from pymc_vi_ext.inference import FlowADVI as FlowADVI
    from pymc_vi_ext.inference import FullRankADVI as FullRankADVI
    from pymc_vi_ext.inference import Laplace as Laplace
    from pymc_vi_ext.inference import LowRankADVI as LowRankADVI
    from pymc_vi_ext.inference import MixtureADVI as MixtureADVI
    from pymc_vi_ext.inference import Pathfinder as Pathfinder
    from pymc_vi_ext.inference import StudentTADVI as StudentTADVI
    from pymc_vi_ext.mapping import MappedFits as MappedFits
    from pymc_vi_ext.mapping import map as map
    from pymc_vi_ext.results import FitReport as FitReport
    from pymc_vi_ext.results import StopReason as StopReason
    from pymc_vi_ext.results import to_datatree as to_datatree
    from pymc_vi_ext.writing import write_draws as write_draws


# So that `pm.Group(vfam="low_rank")` works after the usual two imports, in either order.
when_imported("pymc", lambda: import_module(f"{__name__}.approximations"))


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, *_MODULES})
