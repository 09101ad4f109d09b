"""Small models that between them use every feature a step has to cope with."""

import numpy as np
import pymc as pm
import pymc.dims as pmd
import pytensor.tensor as pt

rng = np.random.default_rng(20)
Y = rng.normal(0.5, 1.0, 10)
X = rng.normal(size=(40, 3))
Z = X @ [1.0, -0.5, 0.2] + rng.normal(0, 0.3, 40)
COUNTS = rng.poisson(3.0, 12)


def conjugate() -> pm.Model:
    """E1: the posterior is N(sum(y) / 11, 1 / 11)."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Normal("y", mu, 1.0, observed=Y)
    return model


def correlated() -> pm.Model:
    """E2 with r = .8, no data at all."""
    with pm.Model() as model:
        pm.MvNormal("x", np.zeros(2), np.array([[1.0, 0.8], [0.8, 1.0]]))
    return model


def data_and_dims() -> pm.Model:
    coords = {"feature": ["a", "b", "c"], "row": np.arange(40)}
    with pm.Model(coords=coords) as model:
        x = pm.Data("x", X, dims=("row", "feature"))
        b = pm.Normal("b", 0.0, 1.0, dims="feature")
        sigma = pm.HalfNormal("sigma", 1.0)
        mu = pm.Deterministic("mu", x @ b, dims="row")
        pm.Normal("y", mu, sigma, observed=Z, dims="row")
    return model


def minibatch() -> pm.Model:
    x, z = pm.Minibatch(X, Z, batch_size=8)
    with pm.Model() as model:
        b = pm.Normal("b", 0.0, 1.0, shape=3)
        pm.Normal("y", x @ b, 0.3, observed=z, total_size=40)
    return model


def potential() -> pm.Model:
    with pm.Model() as model:
        x = pm.Normal("x", 0.0, 1.0, shape=2)
        pm.Potential("tilt", -((x.sum() - 1.0) ** 2))
    return model


def censored() -> pm.Model:
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Censored("y", pm.Normal.dist(mu, 1.0), lower=None, upper=1.0, observed=np.minimum(Y, 1))
    return model


def truncated() -> pm.Model:
    with pm.Model() as model:
        x = pm.Truncated("x", pm.Normal.dist(0.0, 1.0), lower=-1.0, upper=2.0)
        pm.Normal("y", x, 1.0, observed=Y)
    return model


def dirichlet() -> pm.Model:
    with pm.Model() as model:
        p = pm.Dirichlet("p", np.ones(3))
        pm.Multinomial("y", 20, p, observed=np.array([10, 6, 4]))
    return model


def ordered() -> pm.Model:
    with pm.Model() as model:
        ordered = pm.distributions.transforms.ordered
        mu = pm.Normal("mu", 0.0, 1.0, shape=2, transform=ordered, initval=[-1.0, 1.0])
        pm.NormalMixture("y", w=np.array([0.4, 0.6]), mu=mu, sigma=0.5, observed=Y)
    return model


def lkj() -> pm.Model:
    with pm.Model() as model:
        chol, _, _ = pm.LKJCholeskyCov(
            "chol", n=2, eta=2.0, sd_dist=pm.Exponential.dist(1.0, shape=2)
        )
        pm.MvNormal("y", np.zeros(2), chol=chol, observed=X[:20, :2])
    return model


def latent_gp() -> pm.Model:
    with pm.Model() as model:
        scale = pm.Gamma("scale", 2.0, 1.0)
        gp = pm.gp.Latent(cov_func=pm.gp.cov.ExpQuad(1, ls=scale))
        f = gp.prior("f", X=np.linspace(0, 1, 12)[:, None])
        pm.Poisson("y", pt.exp(f), observed=COUNTS)
    return model


def random_walk() -> pm.Model:
    with pm.Model() as model:
        walk = pm.GaussianRandomWalk("walk", 0.0, 0.3, init_dist=pm.Normal.dist(0, 1), steps=11)
        pm.Normal("y", walk, 0.5, observed=COUNTS.astype(float))
    return model


def named_dims() -> pm.Model:
    with pm.Model(coords={"feature": ["a", "b", "c"], "row": np.arange(40)}) as model:
        x = pmd.Data("x", X, dims=("row", "feature"))
        z = pmd.Data("z", Z, dims="row")
        b = pmd.Normal("b", 0.0, 1.0, dims="feature")
        sigma = pmd.HalfNormal("sigma", 1.0)
        pmd.Normal("y", (x * b).sum("feature"), sigma, observed=z)
    return model


def hierarchical() -> pm.Model:
    """Eight schools, non-centered."""
    y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    sigma = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    with pm.Model(coords={"school": list("ABCDEFGH")}) as model:
        mu = pm.Normal("mu", 0.0, 5.0)
        tau = pm.HalfCauchy("tau", 5.0)
        eta = pm.Normal("eta", 0.0, 1.0, dims="school")
        theta = pm.Deterministic("theta", mu + tau * eta, dims="school")
        pm.Normal("y", theta, sigma, observed=y, dims="school")
    return model


MODELS = {
    function.__name__: function
    for function in (
        conjugate,
        correlated,
        data_and_dims,
        minibatch,
        potential,
        censored,
        truncated,
        dirichlet,
        ordered,
        lkj,
        latent_gp,
        random_walk,
        named_dims,
        hierarchical,
    )
}
