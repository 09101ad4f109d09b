"""Variational families, and what the package asks of them.

Importing this module registers the families with PyMC: ``pm.Group([x], vfam="low_rank")``. A new
one is a subclass of :class:`FamilyGroup` and a row in :data:`FAMILIES`.
"""

from pymc_vi_ext.approximations.coordinates import Coordinates
from pymc_vi_ext.approximations.family import Family, Strata
from pymc_vi_ext.approximations.family_group import FamilyGroup, OneGroup
from pymc_vi_ext.approximations.flow import FlowGroup
from pymc_vi_ext.approximations.low_rank import LowRankGroup
from pymc_vi_ext.approximations.mixture import FullRankMixtureGroup, MixtureGroup
from pymc_vi_ext.approximations.pymc_groups import (
    EmpiricalFamily,
    FullRankFamily,
    MeanFieldFamily,
    PyMCFamily,
)
from pymc_vi_ext.approximations.student_t import FullRankStudentTGroup, StudentTGroup
from pymc_vi_ext.approximations.table import FAMILIES, families_of, family_of

FAMILIES["mean_field"] = MeanFieldFamily
FAMILIES["full_rank"] = FullRankFamily
FAMILIES["empirical"] = EmpiricalFamily
FAMILIES["low_rank"] = LowRankGroup
FAMILIES["student_t"] = StudentTGroup
FAMILIES["full_rank_student_t"] = FullRankStudentTGroup
FAMILIES["mixture"] = MixtureGroup
FAMILIES["full_rank_mixture"] = FullRankMixtureGroup
FAMILIES["flow"] = FlowGroup

__all__ = [
    "FAMILIES",
    "Coordinates",
    "Family",
    "FamilyGroup",
    "FlowGroup",
    "FullRankMixtureGroup",
    "FullRankStudentTGroup",
    "LowRankGroup",
    "MixtureGroup",
    "OneGroup",
    "PyMCFamily",
    "Strata",
    "StudentTGroup",
    "families_of",
    "family_of",
]
