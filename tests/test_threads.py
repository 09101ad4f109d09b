"""Fits and draws in several threads of one process."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytensor

from model_table import MODELS

import pymc_vi_ext as vix

JOBS = [
    ("conjugate", "advi", "jax"),
    ("correlated", "fullrank_advi", "jax"),
    ("data_and_dims", "svgd", "jax"),
    ("conjugate", "advi", "c"),
]


def settings():
    config = pytensor.config
    return config.cxx, config.mode, config.linker, config.traceback__limit, config.floatX


def numbers(job):
    """Return losses and draws, the package's and PyMC's."""
    model, method, backend = job
    approx = vix.fit(
        100,
        method,
        MODELS[model](),
        random_seed=1,
        backend=backend,
        convergence=None,
        progressbar=False,
    )
    trees = [
        vix.to_datatree(approx, draws=20, random_seed=2),
        approx.sample(20, random_seed=3),
    ]
    draws = [v.values for tree in trees for v in tree["posterior"].data_vars.values()]
    return [approx.hist, *draws]


def test_threads_give_what_one_gives():
    before = settings()
    expected = [numbers(job) for job in JOBS]
    with ThreadPoolExecutor(len(JOBS)) as pool:
        found = list(pool.map(numbers, JOBS))
    assert settings() == before
    for one, other in zip(expected, found, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_draws_of_one_approximation_in_threads():
    """A seed means the same draws, whoever else draws."""
    approx = vix.fit(method="laplace", model=MODELS["conjugate"](), progressbar=False)

    def draw(seed):
        return vix.to_datatree(approx, draws=200, random_seed=seed)["posterior"]["mu"].values

    expected = [draw(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal(list(pool.map(draw, range(8))), expected)
