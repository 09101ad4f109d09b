"""Kernels of Stein variational methods."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext._quick import python_only
from pymc_vi_ext.inference._kernels import KERNELS

MEAN = np.array([1.0, -2.0])
COV = np.array([[1.0, 0.7], [0.7, 2.0]])
QUIET = {"progressbar": False}


@pytest.mark.parametrize("name", KERNELS)
def test_repulsion_is_the_kernels_gradient(name):
    """sum_j d k(x_j, x_i) / d x_j by automatic differentiation, bandwidths held fixed."""
    x = np.random.default_rng(0).normal(size=(6, 2)) * [1.0, 3.0] + [0.0, 5.0]
    particles = pt.matrix("particles")
    matrix, repulsion = KERNELS[name](particles)
    with python_only():
        k, ours = pm.pytensorf.compile([particles], [matrix, repulsion], mode="FAST_COMPILE")(x)
    half = np.sort(np.sum((x[:3] - x[3:]) ** 2, axis=1))[1]
    m, s = x.mean(axis=0), x.std(axis=0)

    def kernel(a, b):
        square = np.sum((a - b) ** 2)
        gaussian = np.exp(-square / (half / np.log(7)))
        linear = np.sum((a - m) * (b - m) / s**2) + 1
        return {
            "rbf": gaussian,
            "imq": (1 + square / half) ** -0.5,
            "linear": linear,
            "linear_rbf": linear + gaussian,
        }[name]

    np.testing.assert_allclose(k, [[kernel(a, b) for b in x] for a in x], rtol=1e-9)
    step = 1e-6
    expected = np.zeros_like(x)
    for i in range(6):
        for j in range(6):
            for axis in (0, 1):
                e = step * np.eye(2)[axis]
                up, down = kernel(x[j] + e, x[i]), kernel(x[j] - e, x[i])
                expected[i, axis] += (up - down) / (2 * step)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_finds_a_gaussian(name):
    """E7: with the linear kernel mean and covariance are exact at the fixed point."""
    with pm.Model() as model:
        pm.MvNormal("x", MEAN, COV)
    options = {"n_particles": 8 if name == "linear" else 200, "kernel": name}
    approx = vix.fit(
        20_000 if name == "linear" else 3_000,
        "svgd",
        model,
        random_seed=1,
        inf_kwargs=options,
        obj_optimizer=pm.adam(learning_rate=0.01),
        convergence=None,
        **QUIET,
    )
    particles = approx.histogram.get_value()
    exact = name == "linear"
    np.testing.assert_allclose(particles.mean(axis=0), MEAN, atol=1e-3 if exact else 0.1)
    ours = np.cov(particles.T, bias=True)
    np.testing.assert_allclose(ours, COV, rtol=1e-3 if exact else 0.2, atol=0 if exact else 0.1)


def test_unknown_kernel():
    with pm.Model() as model:
        pm.Normal("x")
    with pytest.raises(ValueError, match="Unknown kernel 'cubic': the known ones are imq, linear"):
        vix.SVGD(kernel="cubic", model=model)
