"""ADVI with a Student-t."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pymc as pm

from pymc.variational.opvi import Group

from pymc_vi_ext.approximations import FullRankStudentTGroup, StudentTGroup
from pymc_vi_ext.approximations.student_t import StudentTOptions
from pymc_vi_ext.inference.base import FamilyMethod
from pymc_vi_ext.options import Options as AnyOptions
from pymc_vi_ext.options import option


@dataclass(frozen=True)
class StudentTMethodOptions(StudentTOptions):
    """Options of ADVI with a Student-t."""

    full_rank: bool = option(
        True, "Multivariate; or independent variables, each with its own degrees of freedom."
    )


class StudentTADVI(FamilyMethod):
    """ADVI with a Student-t whose degrees of freedom are learned.

    For posteriors with tails heavier than a Gaussian's; where they are not, the degrees of freedom
    grow.

    Parameters
    ----------
    {parameters}

    Raises
    ------
    TypeError
        If the model has no free variables.
    ParametrizationError
        If a free variable is discrete, or `df` is not above 2.

    See Also
    --------
    pymc_vi_ext.approximations.FullRankStudentTGroup : the family, with its references

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.StudentT("x", nu=5.0, mu=1.0)
    ...     approx = vix.fit(method=vix.StudentTADVI(random_seed=1), progressbar=False)
    >>> 4 < float(approx.groups[0].df.eval()) < 6
    True
    """

    Options: ClassVar[type[AnyOptions]] = StudentTMethodOptions
    options: StudentTMethodOptions
    unfit_rules = frozenset({"matched"})

    def group(self, variables: Any, model: pm.Model, random_seed: int | None, start: Any) -> Group:
        """Return the group of all `variables`."""
        family = FullRankStudentTGroup if self.options.full_rank else StudentTGroup
        return family(
            variables, model=model, random_seed=random_seed, start=start, df=self.options.df
        )
