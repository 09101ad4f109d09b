"""ADVI with several families side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pymc as pm

from pymc.variational.inference import KLqp
from pymc.variational.opvi import Approximation, Group

from pymc_vi_ext.approximations import FAMILIES
from pymc_vi_ext.inference.base import EngineMethod, continuous_model
from pymc_vi_ext.objectives import PathELBO
from pymc_vi_ext.python_only import python_only


class GroupedADVI(EngineMethod, KLqp):
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
        model = continuous_model(model, "ADVI", start)
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


def _blocks(groups: Mapping[str, Sequence[str]], model: pm.Model) -> dict[str, list[Any]]:
    """Return the variables of each family, checked."""
    if not isinstance(groups, Mapping) or not groups:
        raise ValueError(
            '`groups` maps families to names of variables, {"full_rank": ["x", "y"]} for instance, '
            f"not {groups!r}."
        )
    free = {variable.name: variable for variable in model.free_RVs}
    seen: set[str] = set()
    blocks: dict[str, list[Any]] = {}
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
