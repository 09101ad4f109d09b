"""ADVI with the package's own families, and with several families side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pymc as pm

from pymc.variational.inference import KLqp
from pymc.variational.opvi import Approximation, Group

from pymc_vi_ext.approximations import (
    FAMILIES,
    FlowGroup,
    FullRankMixtureGroup,
    FullRankStudentTGroup,
    LowRankGroup,
    MixtureGroup,
    OneGroup,
    StudentTGroup,
)
from pymc_vi_ext.callbacks.staged import StagedStop
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.inference._base import EngineFit, continuous_model
from pymc_vi_ext.modes import find_modes
from pymc_vi_ext.objectives import PathELBO
from pymc_vi_ext.python_only import python_only

# Points, besides the components' own, from which modes are sought.
_CLIMBS_PER_COMPONENT = 8
# Steps of a flow before it is judged: it gains some hundredths of a nat in a thousand.
_FLOWS_FIRST_CHECK = 2_000


class _FamilyADVI(EngineFit, KLqp):
    """Minimise the negative ELBO over one group."""

    def __init__(
        self,
        group: type[Group],
        model: pm.Model | None,
        random_seed: int | None,
        start: Any,
        **options: Any,
    ):
        model = continuous_model(model, type(self).__name__)
        with python_only():
            group = group(
                model.free_RVs, model=model, random_seed=random_seed, start=start, **options
            )
            super().__init__(OneGroup(group))
        self.objective = PathELBO(self.approx)(None)
        self.seed = random_seed


class LowRankADVI(_FamilyADVI):
    r"""ADVI with a Gaussian of covariance :math:`\operatorname{diag}(\sigma^2) + W W^T`.

    Between mean field and full rank: correlations along `rank` directions, at a cost that grows
    with the dimension only.

    Parameters
    ----------
    rank : int, optional
        Columns of `W`: by default 5, or the dimension where that is less.
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
    start : dict of str to array, optional
        Starting means, by name of the variables.

    Raises
    ------
    TypeError
        If the model has no free variables.
    ParametrizationError
        If a free variable is discrete, or `rank` is no whole number from 1 to the dimension.

    See Also
    --------
    pymc_vi_ext.approximations.LowRankGroup : the family, with its references

    Examples
    --------
    >>> import numpy as np, pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.MvNormal("x", np.zeros(2), np.array([[1.0, 0.8], [0.8, 1.0]]))
    ...     approx = pm.fit(3000, method=vix.LowRankADVI(rank=1, random_seed=1), progressbar=False)
    >>> round(float(approx.groups[0].cov.eval()[0, 1]), 1)
    0.8
    """

    def __init__(
        self,
        rank: int | None = None,
        *,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        start: Any = None,
    ):
        super().__init__(LowRankGroup, model, random_seed, start, rank=rank)


class StudentTADVI(_FamilyADVI):
    """ADVI with a Student-t whose degrees of freedom are learned.

    For posteriors with tails heavier than a Gaussian's; where they are not, the degrees of freedom
    grow.

    Parameters
    ----------
    df : float
        Degrees of freedom at the start, above 2.
    full_rank : bool
        A multivariate Student-t; otherwise independent ones, each with its own degrees of freedom.
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
    start : dict of str to array, optional
        Starting means, by name of the variables.

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

    def __init__(
        self,
        df: float = 10.0,
        *,
        full_rank: bool = True,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        start: Any = None,
    ):
        group = FullRankStudentTGroup if full_rank else StudentTGroup
        super().__init__(group, model, random_seed, start, df=df)


class MixtureADVI(_FamilyADVI):
    """ADVI with a mixture of Gaussians, for posteriors of several modes.

    The components start at the modes that L-BFGS finds from points around the start, with their
    curvature as scales and their masses as weights. Where there are fewer modes than components
    the others join them, beside their centres.

    Parameters
    ----------
    K : int
        Number of components.
    full_rank : bool
        Components of full covariance; otherwise of diagonal.
    spread : float
        Standard deviation, on the unconstrained space, of the points from which modes are sought.
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
        Of the components' start too.
    start : dict of str to array, optional
        Point around which the components start, by name of the variables.

    Raises
    ------
    TypeError
        If the model has no free variables.
    ParametrizationError
        If a free variable is discrete, or `K` is no whole number from 1.

    See Also
    --------
    pymc_vi_ext.approximations.MixtureGroup : the family, with its references

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.NormalMixture("x", w=[0.3, 0.7], mu=[-1.0, 2.0], sigma=0.5)
    ...     approx = vix.fit(method=vix.MixtureADVI(K=2, random_seed=1), progressbar=False)
    >>> sorted(approx.groups[0].weights.eval().round(1).tolist())
    [0.3, 0.7]
    """

    def __init__(
        self,
        K: int = 2,
        *,
        full_rank: bool = False,
        spread: float = 1.0,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        start: Any = None,
    ):
        family = FullRankMixtureGroup if full_rank else MixtureGroup
        super().__init__(family, model, random_seed, start, K=K, spread=spread)
        [group] = self.approx.groups
        if group.K == 1:
            return
        # Components that start side by side end up in one mode. The first points are where they
        # are now; the others lie about there.
        means = group.params_dict["mu"].get_value()
        more = group.rng.normal(size=(_CLIMBS_PER_COMPONENT * group.K, group.ddim))
        starts = np.concatenate([means, means.mean(axis=0) + spread * more])
        density = LogDensity(group.model)
        # With minibatches there is no one density to climb.
        modes = [] if density.random else find_modes(density, starts)
        if modes:
            masses = np.exp([mode.log_mass - modes[0].log_mass for mode in modes])
            group.set_components(
                [mode.point for mode in modes], [mode.cov for mode in modes], masses
            )


class FlowADVI(_FamilyADVI):
    """ADVI with a normalizing flow on top of a full-rank Gaussian, for curved posteriors.

    Parameters
    ----------
    kind : {"spline", "affine", "planar"}
    couplings : int
        Number of layers.
    width : int
        Of the two hidden layers of each coupling's network.
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
        Of the weights at the start too.
    start : dict of str to array, optional
        Starting means, by name of the variables.

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

    def __init__(
        self,
        kind: str = "spline",
        couplings: int = 4,
        width: int = 32,
        *,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        start: Any = None,
    ):
        super().__init__(
            FlowGroup, model, random_seed, start, kind=kind, couplings=couplings, width=width
        )

    # Of a fit of exactly `n` steps: at the other methods' 0.05 large networks diverge.
    annealed_rate: ClassVar[dict[str, float]] = {"learning_rate": 0.003}

    def stopping_rule(self) -> StagedStop:
        """Return the rule behind ``convergence="default"``: networks learn slowly, but long."""
        return StagedStop(first_check=_FLOWS_FIRST_CHECK)

    def fit(self, n: int = 10_000, *args: Any, obj_n_mc: int = 32, **kwargs: Any) -> Approximation:
        """As :meth:`ADVI.fit`, with `obj_n_mc` draws a step."""
        return super().fit(n, *args, obj_n_mc=obj_n_mc, **kwargs)


class GroupedADVI(EngineFit, KLqp):
    """ADVI with a family for each block of variables; behind ``vix.fit(groups=...)``.

    Parameters
    ----------
    groups : mapping of str to sequence of str
        PyMC's or the package's names of families (``"mean_field"``, ``"full_rank"``,
        ``"low_rank"`` ...), each with the names of its variables.
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
    start : dict of str to array, optional
        Starting means, by name of the variables.

    Raises
    ------
    ValueError
        If a variable or family is unknown, left out or named twice.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x, y = pm.Normal("x", shape=2), pm.Normal("y")
    ...     approx = vix.fit(
    ...         groups={"full_rank": ["x"], "mean_field": ["y"]}, random_seed=1, progressbar=False
    ...     )
    >>> [type(group).__name__ for group in approx.groups]
    ['FullRankGroup', 'MeanFieldGroup']
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[str]],
        *,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        start: Any = None,
    ):
        model = continuous_model(model, "ADVI")
        blocks = _blocks(groups, model)
        with python_only():
            made = [
                Group(variables, vfam=family, model=model, random_seed=random_seed, start=start)
                for family, variables in blocks.items()
            ]
            super().__init__(Approximation(made, model=model))
        # PyMC's own loop and `refine` look for it there.
        self.approx.rng = made[0].rng
        self.objective = PathELBO(self.approx)(None)
        self.seed = random_seed


def _blocks(groups: Mapping[str, Sequence[str]], model: pm.Model) -> dict[str, list]:
    """Return the variables of each family, checked."""
    if not isinstance(groups, Mapping) or not groups:
        raise ValueError(
            '`groups` maps families to names of variables, {"full_rank": ["x", "y"]} for instance, '
            f"not {groups!r}."
        )
    free = {variable.name: variable for variable in model.free_RVs}
    seen: set[str] = set()
    blocks: dict[str, list] = {}
    for family, names in groups.items():
        try:
            Group.group_for_short_name(str(family))
        except KeyError:
            known = [name for name, row in FAMILIES.items() if row.group_type().has_logq]
            raise ValueError(
                f"There is no family {family!r}: `groups` knows {', '.join(known)}."
            ) from None
        names = [names] if isinstance(names, str) else list(names)
        if not names:
            raise ValueError(f"`groups` gives {family!r} no variables: leave it out.")
        for name in names:
            if name not in free:
                raise ValueError(
                    f"`groups` names {name!r}, which is no free variable of the model: it has "
                    f"{', '.join(free)}."
                )
            if name in seen:
                raise ValueError(f"`groups` names {name!r} twice: a variable has one family.")
            seen.add(name)
        blocks[family] = [free[name] for name in names]
    if left := [name for name in free if name not in seen]:
        raise ValueError(
            f"`groups` leaves out {', '.join(left)}: every free variable needs a family "
            '("mean_field" costs least).'
        )
    return blocks
