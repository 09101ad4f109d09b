"""What models of one structure differ in: data and constants, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import pymc as pm
import pytensor

from pymc.model.fgraph import fgraph_from_model, model_from_fgraph
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant, Variable
from pytensor.graph.op import Op
from pytensor.tensor.random.type import RandomType

from pymc_vi_ext.python_only import python_only

_SAME = "All models that are fitted side by side have the same variables, shapes and graph"


@dataclass(frozen=True)
class Template:
    """A copy of a model whose data can be set.

    Attributes
    ----------
    model : pymc.Model
    data : list of SharedVariable
        What can be set: in the order of the values of `Alike`.
    """

    model: pm.Model
    data: list[SharedVariable]

    def set(self, values: Sequence[np.ndarray]) -> None:
        """Set all data."""
        for variable, value in zip(self.data, values, strict=True):
            # A whole number of no axis has one here: see `template_of`.
            variable.set_value(value.reshape(np.shape(variable.get_value(borrow=True))))


@dataclass(frozen=True)
class Alike:
    """Models that one program fits.

    Attributes
    ----------
    model : pymc.Model
        The first of them.
    leaves : list of Variable
        Those of its constants and shared variables that differ.
    numbers : list of int
        Which of all models these are.
    values : list of list of array
        Of each, the values in place of `leaves`.
    """

    model: pm.Model
    leaves: list[Variable]
    numbers: list[int]
    values: list[list[np.ndarray]]

    def template(self) -> Template:
        """Return a new copy of the model, with variables that can be set in place of `leaves`."""
        return template_of(self.model, self.leaves)


def groups_of(models: Sequence[pm.Model]) -> list[Alike]:
    """Return models of one structure by the shapes of their data.

    Parameters
    ----------
    models : sequence of pymc.Model

    Raises
    ------
    ValueError
        If one has another structure than the first, naming where.
    """
    first = models[0]
    found: dict[Any, list[tuple[int, list[Variable], list[np.ndarray]]]] = {}
    for number, model in enumerate(models):
        pairs = _pairs(first, model, number)
        own = list(pairs.values())
        values = [_value(leaf) for leaf in own]
        key = tuple(map(_kind, own, values))
        found.setdefault(key, []).append((number, own, values))
    groups = []
    for members in found.values():
        numbers, leaves, values = zip(*members, strict=True)
        differing = [
            j
            for j, ofs in enumerate(zip(*values, strict=True))
            if any(not _equal(of, ofs[0]) for of in ofs[1:])
        ]
        groups.append(
            Alike(
                models[numbers[0]],
                [leaves[0][j] for j in differing],
                list(numbers),
                [[own[j] for j in differing] for own in values],
            )
        )
    return groups


def with_data(model: pm.Model, data: Mapping[str, Any]) -> Alike:
    r"""Return a model with other data, as many sets as each array has rows.

    Parameters
    ----------
    model : pymc.Model
    data : mapping of str to array of shape (sets, \*shape)
        By name of a ``pm.Data`` or of an observed variable.

    Raises
    ------
    ValueError
        If there is no such name, or arrays are of other shapes than the model's data.
    """
    leaves, columns = [], []
    for name, given in data.items():
        leaf = _leaf_of(model, name)
        now = _value(leaf)
        values = np.asarray(given)
        if values.ndim == 0 or values.shape[1:] != now.shape:
            shape = ", ".join(map(str, ("sets", *now.shape)))
            raise ValueError(
                f"The data of `{name}` have the shape {values.shape}: one row for each set, "
                f"({shape}), is what the model takes."
            )
        leaves.append(leaf)
        columns.append(values.astype(now.dtype))
    sets = {name: len(values) for name, values in zip(data, columns, strict=True)}
    if len({*sets.values()}) != 1 or not min(sets.values()):
        found = ", ".join(f"{name} {rows}" for name, rows in sets.items()) or "none"
        raise ValueError(f"The data are of as many sets each, one at least: not {found}.")
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Alike(model, leaves, list(range(len(rows))), rows)


def template_of(model: pm.Model, leaves: Sequence[Variable]) -> Template:
    """Return a copy of a model, with shared variables in place of some constants and variables."""
    with python_only():
        graph, memo = fgraph_from_model(model)
        named = {leaf: leaf.name for leaf in leaves if leaf in model.data_vars}
        data: dict[Variable, SharedVariable] = {}
        for leaf in leaves:
            if leaf not in named:
                value = _value(leaf)
                # A whole number of no axis would be taken for a shape.
                scalar = value.ndim == 0 and value.dtype.kind in "iu"
                array = value[None] if scalar else value
                data[leaf] = pytensor.shared(np.array(array), leaf.name, shape=array.shape)
                new = data[leaf][0] if scalar else data[leaf]
                graph.replace(memo[leaf], new, import_missing=True)
        copy = model_from_fgraph(graph, mutate_fgraph=True)
    # Copies come in an order of their own, and parameters are one vector.
    for kind in ("free_RVs", "observed_RVs", "deterministics", "potentials", "data_vars"):
        place = {variable.name: i for i, variable in enumerate(getattr(model, kind))}
        getattr(copy, kind).sort(key=lambda variable, place=place: place[variable.name])
    copy.check_bounds = model.check_bounds
    for variable, value in model.rvs_to_initial_values.items():
        copy.set_initval(copy[variable.name], value)
    found = [copy[named[leaf]] if leaf in named else data[leaf] for leaf in leaves]
    return Template(copy, found)


def _leaf_of(model: pm.Model, name: str) -> Variable:
    variable = model.named_vars.get(name)
    leaf = model.rvs_to_values[variable] if variable in model.observed_RVs else variable
    if leaf is not None and (isinstance(leaf, Constant) or leaf in model.data_vars):
        return leaf
    known = [v.name for v in [*model.data_vars, *model.observed_RVs]]
    raise ValueError(
        f"The model has no data `{name}`: there are {', '.join(known) or 'none'}; where an "
        "observed variable is made of a pm.Data, name that."
    )


def _value(leaf: Variable) -> np.ndarray:
    value = leaf.data if isinstance(leaf, Constant) else leaf.get_value(borrow=True)
    return np.asarray(value)


def _kind(leaf: Variable, value: np.ndarray) -> Any:
    """Return what is equal for leaves that one program can be given."""
    shape = None
    if isinstance(leaf, SharedVariable) and value.ndim == 0 and value.dtype.kind in "iu":
        shape = value.item()
    return value.shape, value.dtype.str, shape


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one is other or bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))


def _roots(model: pm.Model) -> Iterator[tuple[str, Variable]]:
    """Yield all that a model consists of, by name."""
    for variable in [*model.basic_RVs, *model.deterministics, *model.potentials]:
        yield variable.name, variable
        if variable in model.observed_RVs:
            yield variable.name, model.rvs_to_values[variable]


def _pairs(first: pm.Model, other: pm.Model, number: int) -> dict[Variable, Variable]:
    """Return the other model's leaf for each leaf of the first."""

    def refuse(name: str, what: str) -> ValueError:
        return ValueError(f"{_SAME}: models[{number}] differs from models[0] in `{name}`, {what}.")

    ours, theirs = [name for name, _ in _roots(first)], [name for name, _ in _roots(other)]
    if ours != theirs:
        differs = next(
            (pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]), None
        )
        if differs is not None:
            raise refuse(differs[0], f"in whose place it has `{differs[1]}`")
        longer = (ours if len(ours) > len(theirs) else theirs)[min(len(ours), len(theirs))]
        raise refuse(longer, "which only one of them has")
    for kind in ("free_RVs", "observed_RVs"):
        for one, two in zip(getattr(first, kind), getattr(other, kind), strict=False):
            if one.name != two.name:
                raise refuse(one.name, "which is observed in only one of them")
    for one, two in zip(first.free_RVs, other.free_RVs, strict=True):
        if not _same(first.rvs_to_transforms[one], other.rvs_to_transforms[two]):
            raise refuse(one.name, "which is transformed in another way")
        starts = first.rvs_to_initial_values.get(one), other.rvs_to_initial_values.get(two)
        if not _same(*starts):
            raise refuse(one.name, "whose `initval` is another")
    if first.check_bounds != other.check_bounds:
        raise ValueError(f"{_SAME}: models[{number}] has another `check_bounds`.")
    seen: dict[Variable, Variable] = {}
    leaves: dict[Variable, Variable] = {}
    for (name, one), (_, two) in zip(_roots(first), _roots(other), strict=True):
        if not _walk(one, two, seen, leaves):
            raise refuse(name, "which is computed in another way")
    return leaves


def _walk(
    root: Variable,
    other: Variable,
    seen: dict[Variable, Variable],
    leaves: dict[Variable, Variable],
) -> bool:
    """Go through two graphs side by side, noting their leaves; tell whether they are the same."""
    stack = [(root, other)]
    while stack:
        one, two = stack.pop()
        if one in seen:
            known = seen[one]
            if known is two:
                continue
            both = isinstance(known, Constant) and isinstance(two, Constant)
            if not (both and _equal(_value(known), _value(two))):
                return False
            continue
        seen[one] = two
        if one.owner is None or two.owner is None:
            if one.owner is not two.owner or not _same_leaves(one, two):
                return False
            random = isinstance(one.type, RandomType)
            if isinstance(one, Constant | SharedVariable) and not random:
                if hasattr(one.type, "dtype"):
                    leaves[one] = two
                elif not _same(one.data, two.data):
                    return False
            continue
        mine, theirs = one.owner, two.owner
        if (
            mine.outputs.index(one) != theirs.outputs.index(two)
            or len(mine.inputs) != len(theirs.inputs)
            or not _same_op(mine.op, theirs.op)
        ):
            return False
        stack += zip(mine.inputs, theirs.inputs, strict=True)
    return True


def _same_leaves(one: Variable, two: Variable) -> bool:
    if isinstance(one, Constant) or isinstance(two, Constant):
        if type(one) is not type(two):
            return False
    elif isinstance(one, SharedVariable) != isinstance(two, SharedVariable):
        return False
    kinds = [
        (type(v.type), getattr(v.type, "dtype", None), getattr(v.type, "ndim", None))
        for v in (one, two)
    ]
    return kinds[0] == kinds[1]


def _same_op(one: Op, two: Op) -> bool:
    if one is two or one == two:
        return True
    if type(one) is not type(two) or not hasattr(one, "fgraph"):
        return False
    # An Op that stands for a graph.
    graphs = one.fgraph, two.fgraph
    outputs = [graph.outputs for graph in graphs]
    if len(outputs[0]) != len(outputs[1]) or len(graphs[0].inputs) != len(graphs[1].inputs):
        return False
    seen = dict(zip(graphs[0].inputs, graphs[1].inputs, strict=True))
    leaves: dict[Variable, Variable] = {}
    same = all(_walk(a, b, seen, leaves) for a, b in zip(*outputs, strict=True))
    # Constants inside of it belong to the Op.
    return same and all(_equal(_value(a), _value(b)) for a, b in leaves.items())


def _same(one: Any, two: Any) -> bool:
    """Tell whether two transforms, or what they are made of, do the same."""
    if one is two:
        return True
    if type(one) is not type(two):
        return False
    if isinstance(one, FunctionType):
        cells = [[c.cell_contents for c in f.__closure__ or ()] for f in (one, two)]
        return (
            one.__code__ == two.__code__ and _same(one.__defaults__, two.__defaults__)
        ) and _same(*cells)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(_same(one[name], two[name]) for name in one)
    if isinstance(one, Op):
        return _same_op(one, two)
    if isinstance(one, Variable):
        leaves: dict[Variable, Variable] = {}
        return _walk(one, two, {}, leaves) and all(
            _equal(_value(a), _value(b)) for a, b in leaves.items()
        )
    if isinstance(one, np.ndarray | np.generic):
        return _equal(np.asarray(one), np.asarray(two))
    if "__eq__" in {name for kind in type(one).__mro__[:-1] for name in vars(kind)}:
        return bool(one == two)
    return _same(vars(one), vars(two)) if hasattr(one, "__dict__") else False
