"""Points of a Sobol sequence in place of random noise."""

import numpy as np
import pymc as pm
import pytest

from model_table import MODELS

import pymc_vi_ext as vix

from pymc_vi_ext.approximations.parameters import flat_parameters
from pymc_vi_ext.engine import QuasiNoise, StepProgram, make_loop
from pymc_vi_ext.state import FitState

N = 1_024


def fit_state(draws=None, backend="jax", d=2):
    """Steps of plain gradients on a normal prior, of which each is -mu - noise."""
    with pm.Model():
        pm.Normal("x", 0.0, 1.0, shape=d)
        inference = vix.ADVI(random_seed=1)
    noise = QuasiNoise()
    optimizer = pm.sgd(learning_rate=1.0)
    program = StepProgram.from_inference(
        inference, obj_n_mc=draws, obj_optimizer=optimizer, quasi_noise=noise
    )
    loop = make_loop(program, backend)
    return FitState(inference.approx, program, loop, vix.optimizers.Optimizer(), [], 0, None)


@pytest.mark.parametrize("backend", ["jax", "numba", "c"])
@pytest.mark.parametrize("draws", [None, 4])
def test_means_over_points(backend, draws):
    """The mean of n random numbers would be of order 1 / sqrt(n), and this is of 1 / n."""
    state = fit_state(draws, backend)
    point = flat_parameters(state.approx)
    moves = state.mean_moves([point] * 4, N, range(4))
    sd = np.log(2.0)
    # Of the path gradient, (z - mu) / sd^2 taken from z: with z = sd noise, noise (sd - 1 / sd).
    random = abs(sd - 1 / sd) / N**0.5
    assert np.all(abs(moves[:, :2]) < random / 5)
    assert len(np.unique(moves[:, 0])) == 4
    np.testing.assert_array_equal(moves[1:2], state.mean_moves([point], N, [1]))


def test_more_points_than_are_ready():
    """A sequence goes on over several tables."""
    state = fit_state(d=60)
    rows = state.quasi_noise.rows
    assert 256 <= rows < 8_192
    point = flat_parameters(state.approx)
    [move] = state.mean_moves([point], 8_192, [1])
    sd = np.log(2.0)
    assert np.all(abs(move[:60]) < abs(sd - 1 / sd) / 8_192**0.5 / 3)


def test_at_rest_a_program_draws_as_ever():
    model = MODELS["data_and_dims"]()

    def losses(noise):
        inference = vix.ADVI(model=model, random_seed=1)
        program = StepProgram.from_inference(
            inference, obj_optimizer=pm.adam(learning_rate=0.01), quasi_noise=noise
        )
        program.restart(3)
        return make_loop(program, "jax").run(50)

    np.testing.assert_array_equal(losses(None), losses(QuasiNoise()))


def test_too_many_coordinates_stay_random():
    state = fit_state(d=1_100)
    assert state.quasi_noise.rows == 0
    assert not state.quasi_noise.updates
    state.quasi_noise.begin(1)
    assert state.quasi_noise.place.get_value()[0] == -1


def test_what_is_ready_is_made_again_from_the_state():
    state, other = fit_state(), fit_state()
    noise = state.quasi_noise
    noise.begin(5)
    noise.go_on(noise.rows)
    other.quasi_noise.place.set_value(np.array([noise.rows + 3, 5]))
    other.quasi_noise.restore()
    [mine], [others] = noise._tables, other.quasi_noise._tables
    np.testing.assert_array_equal(mine.get_value(), others.get_value())


def test_fewer_points_are_those_of_more():
    noise = fit_state().quasi_noise
    noise.begin(5)
    [table] = noise.tables
    more = table.get_value()
    noise.begin(5, 40)
    np.testing.assert_array_equal(table.get_value()[:40], more[:40])
    # What is not there is taken by nobody.
    assert np.isnan(table.get_value()[40:]).all()


def test_an_evaluation_in_the_middle_of_a_sequence_leaves_it():
    state = fit_state()
    state.quasi_noise.begin(5)
    state.loop.run(10)
    [table] = state.quasi_noise.tables
    before = table.get_value()
    state.mean_moves([flat_parameters(state.approx)], 40, [3])
    np.testing.assert_array_equal(table.get_value(), before)
    assert state.quasi_noise.place.get_value()[0] == 10


def test_the_evaluation_leaves_the_fit_as_it_was():
    class Ask:
        every = 70

        def __call__(self, approx, losses, i):
            approx.fit_state.mean_moves([flat_parameters(approx) * 0] * 2, 40, [3, 4])

    options = {"model": MODELS["conjugate"](), "random_seed": 2, "progressbar": False}
    plain = vix.fit(backend="jax", **options)
    asked = vix.fit(callbacks=[Ask()], backend="jax", **options)
    np.testing.assert_array_equal(plain.hist, asked.hist)
    np.testing.assert_array_equal(flat_parameters(plain), flat_parameters(asked))
