"""What a fit minimises."""

from pymc_vi_ext.objectives.elbo import PathELBO

__all__ = ["PathELBO"]
