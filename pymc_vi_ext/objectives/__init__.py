"""What a fit minimises."""

from pymc_vi_ext.objectives.bounds import ELBO, OBJECTIVES, ImportanceWeighted, Renyi, Tempered
from pymc_vi_ext.objectives.elbo import PathELBO

__all__ = ["ELBO", "OBJECTIVES", "ImportanceWeighted", "PathELBO", "Renyi", "Tempered"]
