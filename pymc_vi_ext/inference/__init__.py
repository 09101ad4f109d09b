"""Variational methods, each a PyMC ``Inference``, and the table of their names."""

from pymc_vi_ext.inference.advi import ADVI, FullRankADVI
from pymc_vi_ext.inference.stein import ASVGD, SVGD

METHODS = {
    "advi": ADVI,
    "asvgd": ASVGD,
    "fullrank_advi": FullRankADVI,
    "svgd": SVGD,
}
"""Name for :func:`pymc_vi_ext.fit` -> class."""

__all__ = ["ADVI", "ASVGD", "METHODS", "SVGD", "FullRankADVI"]
