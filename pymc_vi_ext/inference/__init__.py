"""Variational methods, each a PyMC ``Inference``, and the table of their names."""

from pymc_vi_ext.inference._base import EngineFit
from pymc_vi_ext.inference.advi import ADVI, FullRankADVI
from pymc_vi_ext.inference.bam import BaM
from pymc_vi_ext.inference.dadvi import DADVI
from pymc_vi_ext.inference.families import (
    FlowADVI,
    GroupedADVI,
    LowRankADVI,
    MixtureADVI,
    StudentTADVI,
)
from pymc_vi_ext.inference.quick import Laplace, Pathfinder
from pymc_vi_ext.inference.stein import ASVGD, SVGD

METHODS = {
    "advi": ADVI,
    "asvgd": ASVGD,
    "bam": BaM,
    "dadvi": DADVI,
    "flow_advi": FlowADVI,
    "fullrank_advi": FullRankADVI,
    "laplace": Laplace,
    "lowrank_advi": LowRankADVI,
    "mixture_advi": MixtureADVI,
    "pathfinder": Pathfinder,
    "studentt_advi": StudentTADVI,
    "svgd": SVGD,
}
"""Name for :func:`pymc_vi_ext.fit` -> class."""

__all__ = [
    "ADVI",
    "ASVGD",
    "DADVI",
    "METHODS",
    "SVGD",
    "BaM",
    "EngineFit",
    "FlowADVI",
    "FullRankADVI",
    "GroupedADVI",
    "Laplace",
    "LowRankADVI",
    "MixtureADVI",
    "Pathfinder",
    "StudentTADVI",
]
