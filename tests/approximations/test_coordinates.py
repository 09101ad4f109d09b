"""Natural coordinates: gradients by the chain rule, moves that keep the family's constraints."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from family_table import ALL, build

from pymc_vi_ext.approximations import family_of
from pymc_vi_ext.approximations.coordinates import Coordinates


@pytest.fixture(params=ALL)
def approx(request):
    rng = np.random.default_rng(0)
    approx = build(request.param)
    for parameter in approx.params:
        value = parameter.get_value()
        parameter.set_value(value + 0.3 * rng.normal(size=value.shape))
    return approx


def natural_coordinates(approx):
    [group] = approx.groups
    found = family_of(group).coordinates()
    names = [p.name for coordinates in found for p in coordinates.parameters]
    assert 0 < len(names) == len(set(names))
    return found


def test_the_gradient_is_that_of_the_move(approx):
    """At no steps, d f(moved(steps)) / d steps = gradients(df / d parameters), for any f."""
    for coordinates in natural_coordinates(approx):
        parameters = coordinates.parameters
        weights = [np.random.default_rng(1).normal(size=p.get_value().shape) for p in parameters]

        def f(values, weights=weights):
            return sum(pt.sum(w * pt.tanh(v)) for w, v in zip(weights, values, strict=True))

        steps = [pytensor.shared(np.zeros(shape)) for shape in coordinates.shapes]
        travels = [pt.zeros_like(p) for p in coordinates.locations]
        direct = pt.grad(f(coordinates.moved(steps, travels)), steps)
        by_rule = coordinates.gradients(pt.grad(f(parameters), parameters))
        for exact, ours in zip(direct, by_rule, strict=True):
            exact, ours = exact.eval(mode="FAST_COMPILE"), ours.eval(mode="FAST_COMPILE")
            # Some steps are shortened: parallel to the gradient is what they have to be.
            scale = np.sum(exact * ours) / np.sum(ours**2)
            np.testing.assert_allclose(exact, scale * ours, rtol=1e-6, atol=1e-9)
            assert 0 < scale <= 1 + 1e-9


def test_no_step_is_no_move(approx):
    for coordinates in natural_coordinates(approx):
        steps = [pt.zeros(shape) for shape in coordinates.shapes]
        travels = [pt.ones_like(p) for p in coordinates.locations]
        for parameter, moved in zip(
            coordinates.parameters, coordinates.moved(steps, travels), strict=True
        ):
            value = moved.eval(mode="FAST_COMPILE")
            np.testing.assert_allclose(value, parameter.get_value(), rtol=1e-9, atol=1e-9)


def test_unknown_families_keep_their_own():
    class Group:
        params_dict = {"w": pytensor.shared(np.ones(2), "w")}  # noqa: RUF012

    coordinates = Coordinates(Group())
    [moved] = coordinates.moved([pt.as_tensor([1.0, 2.0])], [])
    np.testing.assert_array_equal(moved.eval(), [2.0, 3.0])
    assert coordinates.gradients([1]) == [1]
