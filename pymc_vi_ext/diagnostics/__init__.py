"""How good an approximation is: by itself, and against a reference posterior."""

from pymc_vi_ext.diagnostics.chains import divergences, ess_min, is_sampled, rhat_max
from pymc_vi_ext.diagnostics.distances import Distances, distances
from pymc_vi_ext.diagnostics.elbo import ElboEstimate, elbo
from pymc_vi_ext.diagnostics.pareto import khat
from pymc_vi_ext.diagnostics.verdict import Check, Diagnosis, Verdict

__all__ = [
    "Check",
    "Diagnosis",
    "Distances",
    "ElboEstimate",
    "Verdict",
    "distances",
    "divergences",
    "elbo",
    "ess_min",
    "is_sampled",
    "khat",
    "rhat_max",
]
