"""What Python does while XLA compiles."""

import time

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest
import xarray as xr

import pymc_vi_ext as vix

from pymc_vi_ext.engine import StepProgram, make_loop
from pymc_vi_ext.engine.beside import compiled_beside


class Lowered:
    """What compiles for a while, and lets others run."""

    def compile(self):
        time.sleep(0.3)
        return "compiled"


def program():
    x = pytensor.shared(8.0, "x")
    return StepProgram({x: x / 2}, loss=x)


def test_the_seconds_are_those_of_the_compilation_alone():
    program, seconds = compiled_beside(Lowered(), lambda: time.sleep(0.6))
    assert program == "compiled"
    assert 0.3 <= seconds < 0.6


def test_what_takes_longer_than_xla_counts_for_something_else():
    loop = make_loop(program(), "jax", meanwhile=lambda: time.sleep(5.0))
    assert loop.compile_s < 5.0


def test_what_fails_beside_it_does_not_fail_the_compilation(caplog):
    def fails():
        raise ValueError("no draws")

    with caplog.at_level("INFO", "pymc_vi_ext"):
        loop = make_loop(program(), "jax", meanwhile=fails)
    np.testing.assert_array_equal(loop.run(2), [8.0, 4.0])
    assert "no draws" in caplog.text


def test_a_compilation_that_fails_does():
    class Fails(Lowered):
        def compile(self):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        compiled_beside(Fails(), lambda: None)


def test_ctrl_c_beside_it_leaves_no_thread():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_loop(program(), "jax", meanwhile=interrupted)
    # The next one compiles as if there had been none.
    assert make_loop(program(), "jax").run(1) == [8.0]


def fitted():
    with pm.Model():
        pm.Normal("x", 3.0, 2.0, shape=2)
        return vix.fit(50, convergence=None, random_seed=1, progressbar=False)


def test_draws_are_ready_when_a_fit_ends_and_the_fit_is_the_same(monkeypatch):
    beside = fitted()
    assert "datatree_sampler" in vars(beside)
    monkeypatch.setattr("pymc_vi_ext.inference.base.prepare_draws", lambda approx: None)
    later = fitted()
    assert "datatree_sampler" not in vars(later)
    for here, there in zip(beside.params, later.params, strict=True):
        np.testing.assert_array_equal(here.get_value(), there.get_value())
    # And so are the draws.
    trees = [vix.to_datatree(approx, draws=5, random_seed=2) for approx in (beside, later)]
    xr.testing.assert_equal(trees[0].posterior, trees[1].posterior)


def likelihood(path):
    pm.Normal("y", path, 1.0, observed=np.zeros(3))


def potential(path):
    pm.Potential("y", -(path**2).sum())


def deterministic(path):
    pm.Deterministic("y", path)


@pytest.mark.parametrize("use", [likelihood, potential, deterministic])
def test_a_model_whose_draws_take_a_compiler_is_left_alone(use):
    with pm.Model() as model:
        rho = pm.Beta("rho", 2.0, 2.0)
        path = pytensor.scan(
            lambda before, rho: rho * before,
            outputs_info=[pt.ones(())],
            non_sequences=[rho],
            n_steps=3,
            return_updates=False,
        )
        use(path)
    approx = vix.fit(5, model=model, convergence=None, random_seed=1, progressbar=False)
    assert "datatree_sampler" not in vars(approx)
