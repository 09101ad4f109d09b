"""From an approximation to the posterior: importance weights, or short chains."""

from pymc_vi_ext.correction.correcting import correct

__all__ = ["correct"]
