"""Variational families, and what optimizers need to know of them."""

from pymc_vi_ext.approximations.coordinates import Coordinates, natural_coordinates

__all__ = ["Coordinates", "natural_coordinates"]
