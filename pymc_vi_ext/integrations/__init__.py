"""Results as other libraries expect them; a module imports its library when it is used."""

from pymc_vi_ext.integrations import bambi

__all__ = ["bambi"]
