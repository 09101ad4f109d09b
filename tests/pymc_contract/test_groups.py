"""PyMC's algebra of groups, and nodes of an approximation, with the package's families too."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pymc.variational.approximations import Empirical
from pymc.variational.inference import KLqp
from pymc.variational.opvi import Approximation, Group
from pytensor.tensor.random.op import RandomVariable

import pymc_vi_ext as vix

from pymc_vi_ext.approximations import FAMILIES

SHAPES = {"one": (4, 2), "two": (4,), "three": (4, 1, 2)}
WITH_DENSITY = [name for name, family in FAMILIES.items() if family.group_type().has_logq]


@pytest.fixture(scope="module")
def model():
    with pm.Model() as model:
        pm.HalfNormal("one", shape=SHAPES["one"])
        pm.Normal("two", shape=SHAPES["two"])
        pm.Normal("three", shape=SHAPES["three"])
    return model


def group(model, family, names, **options):
    variables = None if names is None else [model[name] for name in names]
    return Group(variables, vfam=family, model=model, **options)


@pytest.mark.parametrize(
    "blocks",
    [
        [("mean_field", None)],
        [("full_rank", None), ("mf", ["one"])],
        [("mean_field", ["one"]), ("FR", ["two", "three"])],
        [("low_rank", ["one"]), ("student_t", ["two"]), ("mean_field", ["three"])],
        [("mean_field", ["one"]), ("empirical", ["two", "three"])],
    ],
    ids=str,
)
def test_groups_make_an_approximation(model, blocks):
    """Their draws have the model's shapes; those with a density are fitted."""
    made = [
        group(model, family, names, **({"size": 10} if family == "empirical" else {}))
        for family, names in blocks
    ]
    approx = Approximation(made, model=model)
    assert approx.ndim == 4 * 2 + 4 + 4 * 2
    draws = vix.to_datatree(approx, 3, random_seed=1)
    shapes = {name: draws["posterior"][name].shape[2:] for name in SHAPES}
    assert shapes == SHAPES
    assert ("log_q" in draws["sample_stats"]) == all(family != "empirical" for family, _ in blocks)


def test_a_fit_of_groups(model):
    made = [group(model, "low_rank", ["one", "two"]), group(model, "mean_field", ["three"])]
    approx = Approximation(made, model=model)
    assert approx is vix.fit(3, KLqp(approx), convergence=None, progressbar=False)
    assert len(approx.hist) == 3
    assert {v.shape[2:] for v in approx.sample(2).posterior.data_vars.values()} == set(
        SHAPES.values()
    )


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([("mean_field", ["one", "two"])], "No approximation is specified"),
        ([("mean_field", ["one"]), ("low_rank", ["two", "one"]), ("mf", ["three"])], "duplicates"),
    ],
)
def test_groups_that_do_not_fit_together(model, blocks, message):
    made = [group(model, family, names) for family, names in blocks]
    with pytest.raises(TypeError, match=message):
        Approximation(made, model=model)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"vfam": "mean_field", "params": {}}, TypeError, "both `vfam` and `params`"),
        ({}, TypeError, "either `vfam` or `params`"),
        ({"vfam": "no such"}, KeyError, "No such group"),
        ({"params": {"nu": 1.0}}, KeyError, "No such group for the following params"),
        ({"vfam": "empirical"}, ValueError, "Need `trace` or `size`"),
    ],
)
def test_groups_that_cannot_be(model, options, error, message):
    with pytest.raises(error, match=message):
        Group([model["one"]], model=model, **options)


@pytest.mark.parametrize("family", WITH_DENSITY)
def test_densities_of_a_group(model, family):
    """One for each draw; the plain one is their mean, where one draw is the whole of it."""
    made = group(model, family, ["one"])
    for draws in (1, 3):
        one, each = made.set_size_and_deterministic([made.logq, made.symbolic_logq], draws, 0)
        one, each = pytensor.function([], [one, each], mode="FAST_COMPILE")()
        assert (one.shape, each.shape) == ((), (draws,))
        assert one == pytest.approx(each.mean())


def test_parameters_of_ones_own(model):
    """They are the group's, which then has none of its own to fit."""
    mu, rho = np.arange(4.0), pytensor.shared(np.ones(4))
    made = Group([model["two"]], params={"mu": mu, "rho": rho}, model=model)
    assert type(made) is Group.group_for_short_name("mean_field")
    np.testing.assert_array_equal(made.mean.eval(mode="FAST_COMPILE"), mu)
    with pytest.raises(KeyError, match="No such group for the following params"):
        Group([model["two"]], params={"mu": mu}, model=model)


def test_particles_around_a_start():
    with pm.Model():
        pm.Normal("x", shape=2)
        approx = Empirical(size=50, jitter=0.1, start={"x": [3.0, -3.0]})
    assert approx.histogram.get_value().shape == (50, 2)
    draws = vix.to_datatree(approx, 400, random_seed=1)["posterior"]["x"]
    np.testing.assert_allclose(draws.mean(["chain", "draw"]), [3.0, -3.0], atol=0.1)


@pytest.fixture(scope="module")
def binomial():
    with pm.Model() as model:
        p = pm.Beta("p", 1.0, 1.0)
        pm.Deterministic("cube", p**3)
        pm.Binomial("y", n=1, p=p, observed=[0, 1, 0, 0, 0, 1, 0, 0])
    return model


@pytest.mark.parametrize("method", [vix.ADVI, vix.FullRankADVI, vix.LowRankADVI, vix.SVGD])
def test_nodes(binomial, method):
    """Draws of an expression: of any number, random or not, as a switch says."""
    approx = method(model=binomial, random_seed=1).approx
    cube, size = binomial["cube"], pt.iscalar("size")
    switch = pytensor.shared(np.int8(0))
    nodes = [
        approx.sample_node(cube),
        approx.sample_node(cube, size=size),
        approx.symbolic_random,
    ]
    if method is not vix.SVGD:
        nodes += [
            approx.sample_node(cube, deterministic=True),
            approx.sample_node(cube, size=size, deterministic=True),
            approx.sample_node(cube, deterministic=switch),
        ]
    drawn = [node for node in pytensor.graph.ancestors(nodes[:2]) if node.owner]
    assert not any(
        isinstance(node.owner.op, RandomVariable) and node.owner.op.name == "beta" for node in drawn
    )
    nodes[2] = approx.set_size_and_deterministic(nodes[2], size, 0)
    function = pm.compile([size], nodes, mode="FAST_COMPILE", random_seed=1)
    first, second, other = function(10), function(10), function(11)
    assert [value.shape for value in first[:3]] == [(), (10,), (10, 1)]
    assert other[1].shape == (11,)
    assert first[0] != second[0]
    assert len(set(first[1])) > 1
    if method is not vix.SVGD:
        fixed = first[3]
        assert fixed == second[3] == other[3]
        np.testing.assert_allclose(first[4], np.full(10, fixed))
        assert first[5] != second[5]
        switch.set_value(np.int8(1))
        assert function(10)[5] == pytest.approx(fixed)


def test_other_values_in_an_expression():
    """A variable that is observed at last, of another length."""
    with pm.Model() as model:
        length = pytensor.shared(np.array(3), "length")
        x = pm.Normal("x", np.zeros(3), shape=(length,))
        slope = pm.Normal("slope", 4.0)
        line = x * slope
        pm.Normal("y", line, 0.1, shape=x.shape, observed=[1.0, 2.0, 3.0])
        approx = vix.fit(3, convergence=None, progressbar=False)
    assert model.free_RVs == [x, slope]
    assert approx.sample_node(line).eval(mode="FAST_COMPILE").shape == (3,)
    length.set_value(np.array(4))
    replaced = approx.sample_node(line, more_replacements={x: np.arange(4.0)})
    values = replaced.eval(mode="FAST_COMPILE")
    np.testing.assert_allclose(values, values[1] * np.arange(4.0))


def test_replacements_in_the_step():
    """A fit at other data, of which the approximation knows nothing."""
    with pm.Model() as model:
        center = pytensor.shared(0.0, "center")
        mu = pm.Normal("mu", 0.0, 10.0)
        pm.Normal("y", mu - center, 0.1, observed=[1.0])
    optimizer = {"convergence": None, "progressbar": False, "random_seed": 1}
    fitted = vix.fit(
        1_500,
        model=model,
        more_replacements={center: pt.constant(2.0, dtype=center.dtype)},
        **optimizer,
    )
    assert fitted.mean.eval(mode="FAST_COMPILE")[0] == pytest.approx(3.0, abs=0.05)


def test_what_losses_are_divided_by():
    """A number of the data's alone, whichever rows a minibatch has."""
    with pm.Model():
        batch = pm.Minibatch(np.ones(100), batch_size=10)
        x = pm.Normal("x")
        pm.Normal("y", x, observed=batch, total_size=100)
        approx = vix.ADVI().approx
    assert approx.symbolic_normalizing_constant.eval(mode="FAST_COMPILE") == 10.0
