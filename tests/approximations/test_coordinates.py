"""Natural coordinates: gradients by the chain rule, moves that keep the family's constraints."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pymc_vi_ext.approximations import natural_coordinates
from pymc_vi_ext.approximations.coordinates import Coordinates


@pytest.fixture(scope="module")
def model():
    with pm.Model() as model:
        pm.Normal("x", 0.0, 1.0, shape=3)
    return model


def families(model):
    rng = np.random.default_rng(0)
    mean_field, full_rank = pm.MeanField(model=model), pm.FullRank(model=model)
    particles = pm.Empirical(size=7, model=model)
    for approx in (mean_field, full_rank, particles):
        for parameter in approx.params:
            value = parameter.get_value()
            parameter.set_value(value + rng.normal(size=value.shape))
    return [mean_field, full_rank, particles]


def test_the_gradient_is_that_of_the_move(model):
    """At no steps, d f(moved(steps)) / d steps = gradients(df / d parameters), for any f."""
    for approx in families(model):
        [coordinates] = natural_coordinates(approx)
        parameters = coordinates.parameters
        weights = [np.random.default_rng(1).normal(size=p.get_value().shape) for p in parameters]

        def f(values, weights=weights):
            return sum(pt.sum(w * pt.tanh(v)) for w, v in zip(weights, values, strict=True))

        steps = [pt.zeros_like(p) for p in parameters]
        steps = [s + 0 * p for s, p in zip(steps, parameters, strict=True)]
        travels = [pt.zeros_like(p) for p in coordinates.locations]
        direct = pt.grad(f(coordinates.moved(steps, travels)), steps)
        by_rule = coordinates.gradients(pt.grad(f(parameters), parameters))
        size = np.sqrt((approx.ddim + 1) / 2)
        for parameter, ours, exact in zip(parameters, by_rule, direct, strict=True):
            # Steps of the factor are shortened by the growth of a random matrix's norm.
            scale = 1 / size if parameter.name == "L_tril" else 1.0
            np.testing.assert_allclose(
                exact.eval(), scale * ours.eval(), rtol=1e-6, err_msg=str(parameter)
            )


def test_no_step_is_no_move(model):
    for approx in families(model):
        [coordinates] = natural_coordinates(approx)
        steps = [pt.zeros_like(p) for p in coordinates.parameters]
        travels = [pt.ones_like(p) for p in coordinates.locations]
        for parameter, moved in zip(
            coordinates.parameters, coordinates.moved(steps, travels), strict=True
        ):
            np.testing.assert_allclose(moved.eval(), parameter.get_value(), rtol=1e-9, atol=1e-9)


def test_unknown_families_keep_their_own():
    class Group:
        params_dict = {"w": pytensor.shared(np.ones(2), "w")}  # noqa: RUF012

    coordinates = Coordinates(Group())
    [moved] = coordinates.moved([pt.as_tensor([1.0, 2.0])], [])
    np.testing.assert_array_equal(moved.eval(), [2.0, 3.0])
    assert coordinates.gradients([1]) == [1]
