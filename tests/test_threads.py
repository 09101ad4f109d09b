"""Fits and draws in several threads of one process."""

import gc

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytensor
import pytest

from model_table import MODELS

import pymc_vi_ext as vix

from pymc_vi_ext.python_only import building, python_only

JOBS = [
    ("conjugate", "advi", "jax"),
    ("correlated", "fullrank_advi", "jax"),
    ("data_and_dims", "svgd", "jax"),
    ("conjugate", "advi", "c"),
]


def settings():
    config = pytensor.config
    flags = config.cxx, config.mode, config.linker, config.traceback__limit, config.floatX
    return *flags, gc.get_threshold()


def numbers(job):
    """Return losses and draws, the package's and PyMC's."""
    model, method, backend = job
    approx = vix.fit(
        100,
        method,
        model,
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
    # Two models written at the same time may mix up PyTensor's settings by themselves.
    jobs = [(MODELS[model](), method, backend) for model, method, backend in JOBS]
    before = settings()
    expected = [numbers(job) for job in jobs]
    with ThreadPoolExecutor(len(jobs)) as pool:
        found = list(pool.map(numbers, jobs))
    assert settings() == before
    for one, other in zip(expected, found, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture
def compiler(monkeypatch):
    monkeypatch.setattr(pytensor.config, "cxx", "/usr/bin/some-compiler")
    return pytensor.config.cxx


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_the_compiler_survives_a_model_written_meanwhile(compiler, first):
    """PyTensor empties `cxx` while it infers a model's shapes, and puts back what it found."""
    ours, theirs = python_only(), pytensor.config.change_flags(cxx="")
    begun = [ours, theirs] if first == "ours" else [theirs, ours]
    for context in begun:
        context.__enter__()
        assert not pytensor.config.cxx
    begun[0].__exit__(None, None, None)
    begun[1].__exit__(None, None, None)
    assert pytensor.config.cxx == compiler
    with python_only():
        assert not pytensor.config.cxx
    assert type(pytensor.config.cxx) is str


def test_the_compiler_is_hidden_from_one_thread(compiler):
    with ThreadPoolExecutor(1) as pool, python_only(), python_only():
        assert not pytensor.config.cxx
        assert pool.submit(lambda: bool(pytensor.config.cxx)).result()
    assert pytensor.config.cxx == compiler


def test_no_compiler_stays_none(monkeypatch):
    monkeypatch.setattr(pytensor.config, "cxx", "")
    with python_only():
        assert pytensor.config.cxx == ""
    assert pytensor.config.cxx == ""


def test_draws_of_one_approximation_in_threads():
    """A seed means the same draws, whoever else draws."""
    approx = vix.fit(method="laplace", model=MODELS["conjugate"](), progressbar=False)

    def draw(seed):
        return vix.to_datatree(approx, draws=200, random_seed=seed)["posterior"]["mu"].values

    expected = [draw(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_array_equal(list(pool.map(draw, range(8))), expected)


@pytest.mark.parametrize(("before", "within"), [(700, 10_000), (0, 0), (50_000, 50_000)])
def test_garbage_is_looked_for_seldom_while_graphs_are_built(before, within):
    """Those who look for none, or seldom, keep their own number."""
    own = gc.get_threshold()
    try:
        gc.set_threshold(before, *own[1:])
        with python_only(), building():
            assert gc.get_threshold() == (within, *own[1:])
        assert gc.get_threshold() == (before, *own[1:])
    finally:
        gc.set_threshold(*own)
