"""ADVI with a normalizing flow."""

from __future__ import annotations

import logging

from typing import Any, ClassVar

import pymc as pm

from pymc.variational.opvi import Group

from pymc_vi_ext.approximations import FlowGroup
from pymc_vi_ext.approximations._algebra import set_values
from pymc_vi_ext.approximations.flow import FlowOptions
from pymc_vi_ext.callbacks import StagedStop
from pymc_vi_ext.inference.base import FamilyMethod
from pymc_vi_ext.inference.fullrank_advi import FullRankADVI
from pymc_vi_ext.loop import Call, fit_method
from pymc_vi_ext.method import Request
from pymc_vi_ext.options import Options as AnyOptions
from pymc_vi_ext.results import FitReport, StopReason

logger = logging.getLogger(__name__)

# Steps of a flow before it is judged: it gains some hundredths of a nat in a thousand.
_FIRST_CHECK = 3_000
# How well the Gaussian at its beginning is known, in nats: the flow goes on with it.
_TOLERANCE_AT_FIRST = 0.1


class FlowADVI(FamilyMethod):
    """ADVI with a normalizing flow on top of a full-rank Gaussian, for curved posteriors.

    Where a rule judges the fit, it begins at a full-rank fit, whose seconds count as construction
    and whose steps are counted in the evidence of the report alone. Scales that somebody has set
    (``start="laplace"``, an approximation) and trained couplings stay as they are, and a fit of
    exactly `n` steps takes these only.

    Parameters
    ----------
    {parameters}

    Raises
    ------
    TypeError
        If the model has no free variables.
    ParametrizationError
        If a free variable is discrete, `kind` is unknown, or a size no whole number from 1.

    See Also
    --------
    pymc_vi_ext.approximations.FlowGroup : the family, with its references

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.Normal("x")
    ...     y = pm.Normal("y", x**2, 0.5)
    ...     flow = vix.FlowADVI(kind="affine", couplings=2, random_seed=1)
    ...     approx = vix.fit(2000, method=flow, convergence=None, progressbar=False)
    >>> bool(-0.5 < -approx.hist[-500:].mean() < 0.1)
    True
    """

    Options: ClassVar[type[AnyOptions]] = FlowOptions
    options: FlowOptions
    unfit_rules = frozenset({"iterate_rhat", "matched"})
    default_draws = 32
    # Of a fit of exactly `n` steps: at the other methods' 0.05 large networks diverge.
    annealed_rate = 0.003
    # What finds the beginning, compiled once for several starts.
    _gaussian: FullRankADVI | None = None

    def group(self, variables: Any, model: pm.Model, random_seed: int | None, start: Any) -> Group:
        """Return the group of all `variables`."""
        return FlowGroup(
            variables, model=model, random_seed=random_seed, start=start, **self.options.values()
        )

    def find_beginning(self, request: Request, n: int, seed: int | None) -> str:
        """Begin at a full-rank fit, unless somebody has set scales or couplings.

        A fit of exactly `n` steps takes these and no others, and so do steps with options of
        PyMC's, which may change the model.
        """
        [group] = self.approx.groups
        judged = request.rule is not None and n > 0
        if not (judged and group.is_round()) or request.more or self.tempered_steps:
            return ""
        if self._gaussian is None:
            self._gaussian = FullRankADVI(model=self.approx.model, random_seed=seed)
        gaussian = self._gaussian
        [other] = gaussian.approx.groups
        _copy_map(group, other)
        call = Call(progressbar=False, warns=False)
        try:
            fit_method(
                gaussian,
                n,
                call,
                backend=request.backend,
                convergence=StagedStop(_TOLERANCE_AT_FIRST, accuracy=None),
                compile_kwargs=request.compile_kwargs,
                devices=request.devices,
            )
        except FloatingPointError as error:
            logger.info("No full-rank fit to begin at: %s", str(error).splitlines()[0])
            return ""
        _copy_map(other, group)
        report: FitReport = gaussian.approx.report
        if report.stop_reason is StopReason.INTERRUPTED:
            raise KeyboardInterrupt
        return f"begun at a full-rank fit of {report.steps:,} steps"

    def default_rule(self) -> StagedStop:
        """Return late stages of falling rate: networks learn slowly, but long."""
        return StagedStop(first_check=_FIRST_CHECK)


def _copy_map(of: Group, to: Group) -> None:
    """Set the Gaussian of one group to that of another, whose parameters are packed alike."""
    set_values(to, {name: of.params_dict[name].get_value() for name in ("mu", "L_tril")})
