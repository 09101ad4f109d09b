"""Variational families, and what optimizers need to know of them.

Importing this module registers the families with PyMC: ``pm.Group([x], vfam="low_rank")``.
"""

from pymc_vi_ext.approximations._base import Family, OneGroup
from pymc_vi_ext.approximations.coordinates import Coordinates, natural_coordinates
from pymc_vi_ext.approximations.flow import FlowGroup
from pymc_vi_ext.approximations.low_rank import LowRankGroup
from pymc_vi_ext.approximations.mixture import FullRankMixtureGroup, MixtureGroup
from pymc_vi_ext.approximations.student_t import FullRankStudentTGroup, StudentTGroup

__all__ = [
    "Coordinates",
    "Family",
    "FlowGroup",
    "FullRankMixtureGroup",
    "FullRankStudentTGroup",
    "LowRankGroup",
    "MixtureGroup",
    "OneGroup",
    "StudentTGroup",
    "natural_coordinates",
]
