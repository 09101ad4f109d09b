"""Models of ``pymc.dims``: every method and every start."""

import numpy as np
import pymc as pm
import pymc.dims as pmd
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.starting_points import STARTS

Y = np.random.default_rng(3).normal([[0.5], [-1.0], [2.0]], 1.0, (3, 20))
# Standard normal means, and observations of variance 1.
MEAN, SD = Y.sum(axis=1) / 21, 21**-0.5

# Those that evaluate the log density otherwise than in steps along a gradient, or in both ways.
METHODS = ["mixture_advi", "bam", "dadvi", "laplace", "pathfinder"]


@pytest.fixture(scope="module")
def model():
    with pm.Model(coords={"city": list("abc"), "day": range(20)}) as model:
        mu = pmd.Normal("mu", 0.0, 1.0, dims="city")
        pmd.HalfNormal("scale", 1.0)
        pmd.Uniform("share", 0.0, 1.0)
        pmd.Normal("y", mu, 1.0, observed=pmd.as_xtensor(Y, dims=("city", "day")))
    return model


def check(approx):
    draws = vix.to_datatree(approx, 2_000, random_seed=1).posterior
    mean, sd = draws["mu"].mean(("chain", "draw")), draws["mu"].std(("chain", "draw"))
    assert draws["mu"].dims == ("chain", "draw", "city")
    # A converged fit is within .1 sd; 2,000 draws know a mean to .02 sd, an sd to 2 %.
    np.testing.assert_allclose(mean, MEAN, atol=0.2 * SD)
    np.testing.assert_allclose(sd, SD, rtol=0.2)


def _has(name):
    if name == "pathfinder":
        pytest.importorskip("pymc_extras", reason="needs a PyMC that it admits")


@pytest.mark.parametrize("method", METHODS)
def test_methods(model, method):
    _has(method)
    check(vix.fit(method=method, model=model, random_seed=1, progressbar=False))


@pytest.mark.parametrize("start", STARTS)
def test_starts(model, start):
    _has(start)
    check(vix.fit(model=model, start=start, random_seed=1, progressbar=False))


def test_a_posterior_to_start_from(model):
    first = vix.to_datatree(
        vix.fit(model=model, random_seed=1, progressbar=False), 500, random_seed=1
    )
    approx = vix.fit(0, model=model, start=first, convergence=None, progressbar=False)
    check(approx)
