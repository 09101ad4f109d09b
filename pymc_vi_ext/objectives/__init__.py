"""What a fit minimises."""

from pymc_vi_ext.objectives.bounds import (
    ELBO,
    OBJECTIVES,
    ImportanceWeighted,
    Objective,
    Renyi,
    Tempered,
)
from pymc_vi_ext.objectives.elbo import PathELBO

__all__ = ["ELBO", "OBJECTIVES", "ImportanceWeighted", "Objective", "PathELBO", "Renyi", "Tempered"]
