"""Variational methods, each a PyMC ``Inference``, and the table of their names."""

from pymc_vi_ext.inference.advi import ADVI
from pymc_vi_ext.inference.asvgd import ASVGD
from pymc_vi_ext.inference.bam import BaM
from pymc_vi_ext.inference.base import EngineMethod, FamilyMethod, LoopMethod, method_of
from pymc_vi_ext.inference.dadvi import DADVI
from pymc_vi_ext.inference.flow_advi import FlowADVI
from pymc_vi_ext.inference.fullrank_advi import FullRankADVI
from pymc_vi_ext.inference.grouped_advi import GroupedADVI
from pymc_vi_ext.inference.laplace import Laplace
from pymc_vi_ext.inference.lowrank_advi import LowRankADVI
from pymc_vi_ext.inference.mixture_advi import MixtureADVI
from pymc_vi_ext.inference.pathfinder import Pathfinder
from pymc_vi_ext.inference.studentt_advi import StudentTADVI
from pymc_vi_ext.inference.svgd import SVGD
from pymc_vi_ext.method import Method

METHODS: dict[str, type[Method]] = {
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
"""Name -> method, for :func:`pymc_vi_ext.fit`, :func:`pymc_vi_ext.compare` and configurations."""

__all__ = [
    "ADVI",
    "ASVGD",
    "DADVI",
    "METHODS",
    "SVGD",
    "BaM",
    "EngineMethod",
    "FamilyMethod",
    "FlowADVI",
    "FullRankADVI",
    "GroupedADVI",
    "Laplace",
    "LoopMethod",
    "LowRankADVI",
    "Method",
    "MixtureADVI",
    "Pathfinder",
    "StudentTADVI",
    "method_of",
]
