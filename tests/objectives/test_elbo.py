"""The path gradient against PyMC's: the same loss, the same mean, no noise at the optimum."""

import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

from pymc.pytensorf import find_rng_nodes, reseed_rngs
from pymc.variational.operators import KL
from pymc.variational.opvi import Approximation, Group

from pymc_vi_ext.objectives import PathELBO

MEAN = np.array([1.0, -2.0, 0.5])
FACTOR = np.array([[2.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-1.0, 0.3, 1.5]])


def approximation(family, factor, at_optimum=True):
    """Return an approximation of N(MEAN, factor factor'), at its optimum or a step beside it."""
    with pm.Model() as model:
        pm.MvNormal("x", MEAN, factor @ factor.T)
        approx = pm.MeanField() if family == "mean_field" else pm.FullRank()
    group = approx.groups[0]
    beside = 0.0 if at_optimum else 0.3
    group.params_dict["mu"].set_value(MEAN + beside)
    scales = np.diag(factor) + beside
    raw = np.log(np.expm1(scales))
    if family == "mean_field":
        group.params_dict["rho"].set_value(raw)
    else:
        packed = factor - np.diag(np.diag(factor)) + np.diag(raw)
        group.params_dict["L_tril"].set_value(packed[np.tril_indices(3)])
    return model, approx


def draws_of(operator, approx, n, draws):
    """Return losses (n,) and gradients (n, size) of `n` steps of so many draws, from seed 1."""
    loss = operator(approx)(None)(draws)
    gradient = pt.concatenate([g.ravel() for g in pt.grad(loss, approx.params)])
    function = pm.pytensorf.compile([], [loss, gradient], mode="FAST_COMPILE")
    reseed_rngs(find_rng_nodes([loss, gradient]), 1)
    losses, gradients = zip(*(function() for _ in range(n)), strict=True)
    return np.array(losses), np.array(gradients)


@pytest.mark.parametrize(
    ("family", "factor"),
    [("mean_field", np.diag(np.diag(FACTOR))), ("full_rank", FACTOR)],
)
def test_no_noise_at_the_optimum(family, factor):
    """E4: where q is the posterior, every draw has loss -log Z = 0 and gradient 0."""
    _, approx = approximation(family, factor)
    losses, gradients = draws_of(PathELBO, approx, 5, 3)
    np.testing.assert_allclose(losses, 0.0, atol=1e-9)
    np.testing.assert_allclose(gradients, 0.0, atol=1e-9)
    _, noisy = draws_of(KL, approx, 5, 3)
    assert np.abs(noisy).max() > 0.1


@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_same_loss_and_same_mean_gradient_as_pymc(family):
    _, approx = approximation(family, FACTOR, at_optimum=False)
    assert_same_loss_and_mean_gradient(approx)


def assert_same_loss_and_mean_gradient(approx, n=400):
    losses, gradients = draws_of(PathELBO, approx, n, 20)
    theirs, their_gradients = draws_of(KL, approx, n, 20)
    np.testing.assert_allclose(losses, theirs, rtol=1e-9)
    # On the same draws; five standard errors of the difference's mean, coordinate by coordinate.
    difference = gradients - their_gradients
    error = difference.std(axis=0) / n**0.5
    assert (np.abs(difference.mean(axis=0)) < 5 * error + 1e-12).all()


def test_several_groups_have_the_same_loss_and_mean_gradient_as_pymc():
    with pm.Model():
        x = pm.Normal("x", 1.0, 2.0)
        pm.Normal("z", x, 2.0)
        approx = Approximation([Group([x], vfam="mean_field"), Group(None, params=None, vfam="fr")])
    assert_same_loss_and_mean_gradient(approx, n=100)
