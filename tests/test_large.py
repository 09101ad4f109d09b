"""Methods on more variables than a matrix of them fits in memory."""

import tracemalloc

import numpy as np
import pymc as pm
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.approximations._algebra import LARGEST_DENSE
from pymc_vi_ext.inference import METHODS

D = LARGEST_DENSE + 1
DENSE = {"asvgd", "bam", "flow_advi", "fullrank_advi", "laplace", "studentt_advi"}
OPTIONS = [
    *((name, {}, name in DENSE) for name in METHODS),
    ("bam", {"rank": 3}, False),
    ("mixture_advi", {"full_rank": True}, True),
    ("studentt_advi", {"full_rank": False}, False),
]


@pytest.fixture(scope="module")
def large():
    with pm.Model() as model:
        pm.Normal("x", shape=D)
    return model


@pytest.mark.parametrize(("name", "options", "dense"), OPTIONS)
def test_matrices_are_refused_before_they_are_made(large, name, options, dense):
    matrix = 8 * D**2
    tracemalloc.start()
    try:
        if dense:
            with pytest.raises(
                ValueError, match=r"5,001 variables would take 0\.2 GB.*use method="
            ):
                METHODS[name](model=large, **options)
        else:
            METHODS[name](model=large, **options)
        assert tracemalloc.get_traced_memory()[1] < matrix
    finally:
        tracemalloc.stop()


def test_a_size_that_only_the_data_know():
    with pm.Model(coords={"row": np.arange(D)}) as model:
        pm.Normal("x", dims="row")
    with pytest.raises(ValueError, match="5,001 variables"):
        vix.fit(method="fullrank_advi", model=model, progressbar=False)


def test_what_just_fits_is_made():
    with pm.Model() as model:
        pm.Normal("x", shape=400)
    assert vix.FullRankADVI(model=model).approx.ddim == 400


def test_dadvi_of_many_variables_has_no_matrix(large):
    tracemalloc.start()
    approx = vix.fit(method="dadvi", model=large, random_seed=1, progressbar=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * D**2
    np.testing.assert_allclose(approx.mean.eval(), 0, atol=1e-6)
    # Each is one over the root of its 32 squares' mean, whose median is at .979.
    np.testing.assert_allclose(np.median(approx.std.eval()), 0.979**-0.5, rtol=0.02)
