"""How good an approximation is: by itself, and against a reference posterior."""

from pymc_vi_ext.diagnostics.distances import Distances, distances
from pymc_vi_ext.diagnostics.elbo import ElboEstimate, elbo
from pymc_vi_ext.diagnostics.pareto import khat

__all__ = ["Distances", "ElboEstimate", "distances", "elbo", "khat"]
