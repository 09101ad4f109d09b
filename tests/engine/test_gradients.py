"""A compiled gradient that is not the model's is found before the first step."""

import warnings

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor.compile.mode import Mode, get_mode
from pytensor.gradient import disconnected_grad

import pymc_vi_ext as vix

from pymc_vi_ext.engine import StepProgram
from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.errors import LostGradientError

QUIET = {"random_seed": 1, "progressbar": False}


def looped():
    """Two variables, of which one is the first state of a loop."""
    with pm.Model() as model:
        state = pm.Normal("state", 0, 2, shape=1)
        other = pm.Normal("other", 0, 2)
        path = pytensor.scan(
            lambda z: 0.9 * z, outputs_info=[state], n_steps=25, return_updates=False
        )
        pm.Normal("y", path[:, 0] + other, 0.5, observed=np.ones(25))
    return model


@pytest.fixture
def faulty_rewrite(monkeypatch):
    """PyTensor's rewrite that loses the gradient of a first state, let in again."""

    def mode(self, mode, *rewrites):
        base = get_mode(mode)
        return Mode(base.linker, base.provided_optimizer.including(*rewrites))

    monkeypatch.setattr(StepProgram, "mode", mode)


@pytest.mark.usefixtures("faulty_rewrite")
def test_a_rewrite_that_loses_a_gradient_is_an_error_that_names_the_variable():
    with pytest.raises(LostGradientError, match=r"respect to `state`: .* wrong posterior"):
        vix.fit(10, model=looped(), convergence=None, **QUIET)


def halved(monkeypatch):
    """Take away half of every gradient of one variable that a LogDensity compiles."""
    whole = pt.grad

    def grad(cost, wrt, **options):
        found = whole(cost, wrt, **options)
        return pt.set_subtensor(found[0], 0.5 * found[0]) if wrt.name == "flat" else found

    monkeypatch.setattr("pymc_vi_ext.engine.density.pt.grad", grad)


def test_log_densities_are_held_against_themselves_too(monkeypatch):
    """The model's own gradient is damaged as well here, so this warns."""
    halved(monkeypatch)
    with pm.Model() as model:
        pm.Normal("x", 3.0, 2.0)
        pm.Normal("z", 1.0, 2.0)
    with pytest.warns(UserWarning, match="gradient is not that of its log density.*`x`: an Op"):
        LogDensity(model)(np.zeros((2, 2)))


def test_a_gradient_that_the_user_cut_is_followed_with_a_warning():
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Potential("pull", -((disconnected_grad(x) - 3.0) ** 2))
        pm.Normal("free")
    with pytest.warns(UserWarning, match="own gradient is not that of its log density.*`x`: an"):
        vix.fit(10, model=model, convergence=None, **QUIET)


def kinked():
    with pm.Model() as model:
        x = pm.Laplace("x", 0.0, 1.0, shape=3)
        pm.Potential("edge", pt.switch(pt.lt(x[0], 0.0), -np.inf, 0.0))
        pm.Potential("steps", pt.sum(pt.abs(pt.round(x))))
    return model


def far():
    """A log density of 1e9 nats."""
    with pm.Model() as model:
        pm.Normal("x", 1e6, 1e-2)
    return model


@pytest.mark.parametrize("model", [kinked, far, lambda: vix.zoo.build("mixture")])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_kinks_edges_and_rounding_are_no_lost_gradients(model, precision):
    with pytensor.config.change_flags(floatX=precision), warnings.catch_warnings():
        warnings.simplefilter("error")
        vix.fit(3, model=model(), convergence=None, **QUIET)


def test_many_points_around_a_kink():
    """Slopes cancel, and one of thousands of points lies beside the kink at any distance."""
    with pm.Model() as model:
        pm.Laplace("x", 1.0, 1e-3)
    density = LogDensity(model)
    points = np.linspace(-0.01, 0.01, 4_001)[:, None]
    for shift in np.random.default_rng(0).normal(0, 1e-6, 20):
        assert density.lost(1.0 + shift + points) == []


@pytest.mark.parametrize("backend", ["jax", "c"])
def test_one_program_or_two(backend):
    """A Gaussian's log density, slope and curvature, of one program or of each its own."""
    precision = np.array([[2.0, 0.6], [0.6, 1.0]])
    with pm.Model() as model:
        pm.MvNormal("x", [1.0, -1.0], tau=precision)
    away = np.array([[0.5, 0.2], [-1.0, 2.0], [0.0, 0.0]])
    points = np.array([1.0, -1.0]) + away
    vectors = np.random.default_rng(0).normal(size=away.shape)
    for curved in (True, False):
        density = LogDensity(model, backend, curved=curved)
        logp, slopes = density(points)
        np.testing.assert_allclose(
            logp - logp[2], -np.sum(away @ precision * away, axis=1) / 2, atol=1e-12
        )
        np.testing.assert_allclose(slopes, -away @ precision, atol=1e-12)
        products = density.hessian_products(points, vectors)
        np.testing.assert_allclose(products, -vectors @ precision, atol=1e-12)
        assert len(density._loops) == (1 if curved else 2)


OBJECTIVES = [
    vix.objectives.ELBO("total"),
    vix.objectives.ELBO("entropy"),
    vix.objectives.Renyi(alpha=0.5, K=4),
    vix.objectives.ImportanceWeighted(K=4),
    vix.objectives.Tempered(steps=5),
]


@pytest.mark.parametrize(
    "objective", [o for o in OBJECTIVES if not isinstance(o, vix.objectives.Renyi)], ids=repr
)
@pytest.mark.usefixtures("faulty_rewrite")
def test_every_objective_is_looked_at(objective):
    # Of several draws, as the bounds have, the rewrite loses nothing.
    with pytest.raises(LostGradientError, match="`state`"):
        vix.fit(20, model=looped(), objective=objective, convergence=None, **QUIET)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_no_objective_is_accused(objective):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vix.fit(20, model=looped(), objective=objective, convergence=None, **QUIET)


def test_the_fit_is_the_same_as_without_a_look(monkeypatch):
    model = vix.zoo.build("mixture")
    looked = vix.fit(50, model=model, convergence=None, **QUIET)
    monkeypatch.setattr("pymc_vi_ext.session.check_gradient", lambda *_: None)
    blind = vix.fit(50, model=model, convergence=None, **QUIET)
    np.testing.assert_array_equal(looked.hist, blind.hist)


def test_steps_on_all_data_are_looked_at_too(monkeypatch):
    """Fits on minibatches go over to another program, whose data term is cut here."""
    y = np.random.default_rng(0).normal(1.0, 1.0, 400)

    def cut(model):
        with pm.Model() as whole:
            mu = pm.Normal("mu", 0.0, 10.0)
            pm.Potential("y", disconnected_grad(pm.logp(pm.Normal.dist(mu, 1.0), y).sum()))
        return whole

    monkeypatch.setattr("pymc_vi_ext.inference.base.on_all_data", cut)
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 10.0)
        batch = pm.Minibatch(y, batch_size=50)
        pm.Normal("y", mu, 1.0, observed=batch, total_size=len(y))
    with pytest.raises(LostGradientError, match="respect to `mu`") as caught:
        vix.fit(model=model, **QUIET)
    assert caught.value.approx.report.steps > 0
