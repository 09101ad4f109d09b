"""The table of families, and the family that a group is of."""

from __future__ import annotations

from collections import UserDict

from pymc.variational.opvi import Approximation, Group

from pymc_vi_ext.approximations.family import Family
from pymc_vi_ext.approximations.pymc_groups import PyMCFamily


class Families(UserDict[str, type[Family]]):
    """Name -> family; a new row makes the family's group known to PyMC, as ``vfam``."""

    def __setitem__(self, name: str, family: type[Family]) -> None:
        """Add a family under the name that it has.

        Raises
        ------
        ValueError
            If its ``short_name`` is another, or PyMC has another group of that name.
        """
        group = family.group_type()
        if name != group.short_name:
            raise ValueError(
                f"{group.__name__} has the `short_name` {group.short_name!r}, and the table of "
                f"families would call it {name!r}: give both the same name."
            )
        try:
            known = Group.group_for_short_name(name)
        except KeyError:
            known = Group.register(group)
        if known is not group:
            raise ValueError(
                f"PyMC has a group named {name!r} already, {known.__name__}: give "
                f"{group.__name__} another `short_name`."
            )
        super().__setitem__(name, family)


FAMILIES = Families()
"""Name for ``vfam`` -> family. PyMC's three are adapters; of the others each is its own group."""


def family_of(group: Group) -> Family:
    """Return the family of a group.

    Parameters
    ----------
    group : pymc.Group

    Returns
    -------
    Family
        A group of the package's itself; of PyMC's three the adapter. A group of another class is
        known by the names of its parameters.

    Examples
    --------
    >>> import pymc as pm
    >>> from pymc_vi_ext.approximations import family_of
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=3)
    ...     family = family_of(pm.Group([x], vfam="mean_field"))
    >>> family.name, family.has_path, family.stratified
    ('mean_field', True, False)
    """
    if isinstance(group, Family):
        return group
    adapters = {row.adapts: row for row in FAMILIES.values() if issubclass(row, PyMCFamily)}
    return adapters.get(type(group), PyMCFamily)(group)


def families_of(approx: Approximation) -> list[Family]:
    """Return the families of an approximation's groups.

    Parameters
    ----------
    approx : Approximation

    Returns
    -------
    list of Family
        One for each group, in their order.

    Examples
    --------
    >>> import pymc as pm, pymc_vi_ext as vix
    >>> from pymc_vi_ext.approximations import families_of
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=3)
    ...     advi = vix.FullRankADVI(random_seed=1)
    >>> [family.name for family in families_of(advi.approx)]
    ['full_rank']
    """
    return [family_of(group) for group in approx.groups]
