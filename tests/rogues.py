"""Models on which a fit by the default is most easily wrong, each with what is known of it.

A rogue knows the shortfall of a mean field Gaussian: nats that its ELBO lacks to the optimum of
the family, in closed form where the posterior is Gaussian, by quadrature where it has one
dimension. Those that know neither are polished (``tests/benchmarks/gallery.py``). Some have no
posterior, or none that the family can stay inside of: no fit of them may say CONVERGED.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from scipy.optimize import minimize
from scipy.stats import (
    beta,
    cauchy,
    expon,
    gamma,
    halfcauchy,
    laplace,
    lognorm,
    norm,
    t,
    truncnorm,
    uniform,
)
from scipy.stats.distributions import rv_frozen

from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.zoo.posteriordb.eight_schools import eight_schools_centered

# Judges a mean field: nats short, and its sds over the optimum's.
Judge = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]
# Means and standard deviations of all variables, one after the other, and no numbers or infinite
# where there are none.
Moments = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Rogue:
    """A model and what is known of its mean field.

    Attributes
    ----------
    build : callable
    judge : callable, optional
        ``judge(means, sds) -> (nats short, ratios of sds)``; by default by quadrature, of one
        dimension.
    allowed : float
        Nats that a fit which says CONVERGED may be short.
    never : bool
        Whether no fit may say CONVERGED.
    polished : bool
        Whether its optimum has to be sought from the result.
    large : bool
        Whether its data are too many for backends that take one call a step.
    moments : callable, optional
        Gives those of the posterior, where they are known.
    improper : bool
        Whether there is no posterior.
    """

    build: Callable[[], pm.Model]
    judge: Judge | None = None
    allowed: float = 0.1
    never: bool = False
    polished: bool = False
    large: bool = False
    moments: Callable[[], Moments] | None = None
    improper: bool = False


def gaussian(mean: np.ndarray, precision: np.ndarray) -> Judge:
    """Return the judge of a Gaussian posterior: its mean field has one over root precisions."""
    mean, precision = np.atleast_1d(mean), np.atleast_2d(precision)
    diagonal = np.diag(precision)

    def judge(means: np.ndarray, sds: np.ndarray) -> tuple[float, np.ndarray]:
        away, squares = means - mean, diagonal * sds**2
        nats = 0.5 * (np.sum(squares - 1 - np.log(squares)) + away @ precision @ away)
        return float(nats), np.sqrt(squares)

    return judge


def of_gaussian(
    build: Callable[[], pm.Model], mean: np.ndarray, precision: np.ndarray, *, large: bool = False
) -> Rogue:
    """Return a rogue whose posterior is a Gaussian of this mean and precision."""
    mean, precision = np.atleast_1d(mean), np.atleast_2d(precision)

    def moments() -> Moments:
        return mean, np.sqrt(np.diag(np.linalg.inv(precision)))

    return Rogue(build, gaussian(mean, precision), large=large, moments=moments)


def prior(dist: Callable[[], object], exact: rv_frozen, **more: float) -> Rogue:
    """Return a rogue of one prior, with the same distribution of SciPy's."""
    return Rogue(one(dist), moments=lambda: of_scipy(exact), **more)


def of_scipy(*variables: rv_frozen) -> Moments:
    """Return the moments of independent variables."""
    return np.array([v.mean() for v in variables]), np.array([v.std() for v in variables])


def by_quadrature(model: pm.Model) -> Judge:
    """Return the judge of a model of one dimension, by the trapezoidal rule on normal draws."""
    density = LogDensity(model)
    z = np.linspace(-11, 11, 4_001)
    weights = norm.pdf(z)
    weights /= weights.sum()

    def loss(point: np.ndarray) -> float:
        logp, _ = density((point[0] + np.exp(point[1]) * z)[:, None])
        return -float(weights @ logp) - point[1]

    def judge(means: np.ndarray, sds: np.ndarray) -> tuple[float, np.ndarray]:
        own = np.array([means[0], np.log(sds[0])])
        starts = [own, np.array([float(density.start[0]), 0.0])]
        options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4_000}
        found = [minimize(loss, s, method="Nelder-Mead", options=options) for s in starts]
        best = min(found, key=lambda result: result.fun)
        return loss(own) - best.fun, np.exp(own[1:] - best.x[1:])

    return judge


def one(make: Callable[[], object]) -> Callable[[], pm.Model]:
    """Return what builds the model of one prior."""

    def build() -> pm.Model:
        with pm.Model() as model:
            make()
        return model

    return build


def scales(*sds: float, means: float = 0.0) -> Rogue:
    """Independent normals of these scales."""

    def build() -> pm.Model:
        with pm.Model() as model:
            pm.Normal("x", means, np.array(sds), shape=len(sds))
        return model

    return of_gaussian(build, np.full(len(sds), means), np.diag(1 / np.square(sds)))


def correlated(d: int, rho: float) -> Rogue:
    """Normals that are all correlated."""
    cov = np.full((d, d), rho) + (1 - rho) * np.eye(d)

    def build() -> pm.Model:
        with pm.Model() as model:
            pm.MvNormal("x", np.zeros(d), cov)
        return model

    return of_gaussian(build, np.zeros(d), np.linalg.inv(cov))


def walk(n: int = 1_000) -> Rogue:
    """A random walk observed with noise: precision of three diagonals."""
    rng = np.random.default_rng(5)
    y = np.cumsum(rng.normal(0, 0.3, n)) + rng.normal(0, 1.0, n)
    steps = np.eye(n) - np.eye(n, k=-1)
    precision = steps.T @ steps / 0.09 + np.eye(n)

    def build() -> pm.Model:
        with pm.Model() as model:
            x = pm.Normal("x", shape=n)
            path = pt.cumsum(0.3 * x)
            pm.Normal("y", path, 1.0, observed=y)
        return model

    # In terms of the steps x: path = .3 L x with L of ones below the diagonal.
    lower = 0.3 * np.tril(np.ones((n, n)))
    of_steps = lower.T @ precision @ lower
    mean = np.linalg.solve(of_steps, lower.T @ y)
    return of_gaussian(build, mean, of_steps)


def regression(
    rows: int, columns: int, batch: int = 0, spread: float = 1.0, seed: int = 0
) -> Rogue:
    """A linear regression of known noise, on all data or on minibatches."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns)) * np.geomspace(1, spread, columns)
    y = x @ rng.normal(size=columns) + rng.normal(size=rows)

    def build() -> pm.Model:
        with pm.Model() as model:
            w = pm.Normal("w", 0, 10, shape=columns)
            xs, ys = floatX(x), floatX(y)
            if batch:
                xs, ys = pm.Minibatch(xs, ys, batch_size=batch)
            total = {"total_size": rows} if batch else {}
            pm.Normal("y", xs @ w, 1.0, observed=ys, **total)
        return model

    precision = x.T @ x + np.eye(columns) / 100
    large = rows > 50_000
    return of_gaussian(build, np.linalg.solve(precision, x.T @ y), precision, large=large)


def table(rows: int = 20_000, columns: int = 10, batch: int = 100) -> Rogue:
    """Minibatches of a table: data of two dimensions."""
    data = np.random.default_rng(1).normal(2, 3, (rows, columns))

    def build() -> pm.Model:
        with pm.Model() as model:
            mu = pm.Normal("mu", 0, 100.0, shape=columns)
            rows_of = pm.Minibatch(floatX(data), batch_size=batch)
            pm.Normal("y", mu, 3.0, observed=rows_of, total_size=rows)
        return model

    precision = np.eye(columns) * (rows / 9 + 1e-4)
    return of_gaussian(build, data.sum(axis=0) / 9 / np.diag(precision), precision)


def totals() -> Rogue:
    """Two observed variables of one mean, in minibatches of different totals, and one whole."""
    rng = np.random.default_rng(2)
    a, b, c = rng.normal(1, 2, 5_000), rng.normal(1, 1, 300), rng.normal(1, 3, 40)

    def build() -> pm.Model:
        with pm.Model() as model:
            mu = pm.Normal("mu", 0, 10.0)
            pm.Normal(
                "a", mu, 2.0, observed=pm.Minibatch(floatX(a), batch_size=50), total_size=5_000
            )
            pm.Normal("b", mu, 1.0, observed=pm.Minibatch(floatX(b), batch_size=30), total_size=300)
            pm.Normal("c", mu, 3.0, observed=c)
        return model

    precision = 1 / 100 + 5_000 / 4 + 300 + 40 / 9
    return of_gaussian(build, (a.sum() / 4 + b.sum() + c.sum() / 9) / precision, precision)


def flat_line() -> Rogue:
    """Flat priors, and a predictor far from 0: intercept and slope hang together."""
    rng = np.random.default_rng(3)
    x = rng.normal(10.0, 1.0, 50)
    design = np.column_stack([np.ones(50), x])
    y = design @ [3.0, 0.5] + rng.normal(size=50)

    def build() -> pm.Model:
        with pm.Model() as model:
            a, b = pm.Flat("a"), pm.Flat("b")
            pm.Normal("y", a + b * x, 1.0, observed=y)
        return model

    precision = design.T @ design
    return of_gaussian(build, np.linalg.solve(precision, design.T @ y), precision)


def edge() -> pm.Model:
    """A normal that is cut off by a Potential."""
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Potential("edge", pt.switch(x > -1.5, 0.0, -np.inf))
    return model


def thin_edge() -> pm.Model:
    """The same where next to no mass is cut off."""
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Potential("edge", pt.switch(x > -3.2, 0.0, -np.inf))
    return model


def within() -> pm.Model:
    """A uniform between 0 and another variable, without a transform."""
    with pm.Model() as model:
        t = pm.HalfNormal("t", 1.0)
        u = pm.Uniform("u", 0, t, default_transform=None)
        pm.Normal("y", u, 1.0, observed=0.5)
    return model


def within_moments() -> Moments:
    """Return those of t and u, by quadrature over a grid below the diagonal."""
    t, part = np.meshgrid(np.linspace(1e-4, 9, 4_000), (np.arange(2_000) + 0.5) / 2_000)
    u = t * part
    # The density of u is 1 / t, and du is t times that of its part.
    weights = np.exp(-0.5 * t**2 - 0.5 * (u - 0.5) ** 2)
    weights /= weights.sum()
    means = np.array([np.sum(weights * v) for v in (t, u)])
    squares = np.array([np.sum(weights * v**2) for v in (t, u)])
    return means, np.sqrt(squares - means**2)


def separated() -> pm.Model:
    """A logistic regression of data that a line separates, under a flat prior: improper."""
    x = np.linspace(-2, 2, 20)
    with pm.Model() as model:
        b = pm.Flat("b")
        pm.Bernoulli("y", logit_p=b * x, observed=(x > 0).astype(int))
    return model


def poisson_zero() -> pm.Model:
    """A count of 0 at a rate that may be anything: the loss has no tail to speak of."""
    with pm.Model() as model:
        x = pm.Normal("x", 0, 10.0)
        pm.Poisson("y", pm.math.exp(x), observed=0)
    return model


def poisson_zero_moments() -> Moments:
    """Return those of x, by quadrature."""
    x = np.linspace(-80, 10, 200_001)
    weights = np.exp(-0.5 * (x / 10) ** 2 - np.exp(x))
    weights /= weights.sum()
    mean = weights @ x
    return np.array([mean]), np.array([np.sqrt(weights @ (x - mean) ** 2)])


def labels() -> pm.Model:
    """A mixture whose components may change places."""
    rng = np.random.default_rng(4)
    y = np.concatenate([rng.normal(m, 0.5, 40) for m in (-2, 0, 3)])
    with pm.Model() as model:
        w = pm.Dirichlet("w", np.ones(3))
        mu = pm.Normal("mu", 0, 3.0, shape=3)
        pm.NormalMixture("y", w, mu, 0.5, observed=y)
    return model


def ordered() -> pm.Model:
    """Ordered cut points of an ordinal response."""
    rng = np.random.default_rng(6)
    y = np.digitize(rng.normal(size=200), [-1.0, 0.0, 1.0])
    with pm.Model() as model:
        cuts = pm.Normal(
            "cuts", [-1.0, 0.0, 1.0], 2.0, transform=pm.distributions.transforms.ordered, shape=3
        )
        pm.OrderedProbit("y", eta=0.0, cutpoints=cuts, observed=y, compute_p=False)
    return model


def lkj() -> pm.Model:
    """Correlations of five columns."""
    data = np.random.default_rng(7).normal(size=(60, 5))
    with pm.Model() as model:
        chol, _, _ = pm.LKJCholeskyCov("chol", n=5, eta=2.0, sd_dist=pm.Exponential.dist(1.0))
        pm.MvNormal("y", np.zeros(5), chol=chol, observed=data)
    return model


def horseshoe() -> pm.Model:
    """Ten coefficients of which one is not 0."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=(50, 10))
    y = 2.0 * x[:, 0] + rng.normal(size=50)
    with pm.Model() as model:
        tau = pm.HalfCauchy("tau", 1.0)
        local = pm.HalfCauchy("local", 1.0, shape=10)
        z = pm.Normal("z", shape=10)
        sigma = pm.HalfNormal("sigma", 1.0)
        pm.Normal("y", x @ (z * local * tau), sigma, observed=y)
    return model


def funnel() -> pm.Model:
    """Neal's funnel."""
    with pm.Model() as model:
        v = pm.Normal("v", 0.0, 3.0)
        pm.Normal("x", 0.0, pt.exp(v / 2), shape=9)
    return model


def schools() -> pm.Model:
    """Eight schools, centered."""
    effects = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    errors = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    return eight_schools_centered({"J": 8, "y": effects, "sigma": errors})


def polished(
    build: Callable[[], pm.Model],
    allowed: float = 0.1,
    moments: Callable[[], Moments] | None = None,
) -> Rogue:
    """Return a rogue whose optimum is sought from the result."""
    return Rogue(build, allowed=allowed, polished=True, moments=moments)


HEAVY = 0.3
ROGUES: dict[str, Rogue] = {
    "scale 1e-8": scales(1e-8, means=3e-8),
    "scale 1e8": scales(1e8, means=1e8),
    "scales 1e-6 to 1e6": scales(1e-6, 1.0, 1e6),
    "mean 1e6": scales(1.0, means=1e6),
    "correlation .99": correlated(2, 0.99),
    "correlation .9 in 20": correlated(20, 0.9),
    "walk of 1,000": walk(),
    "100,000 rows": regression(100_000, 10),
    "condition 1e6": regression(500, 10, spread=1e3),
    "minibatch 4,000 x 5": regression(4_000, 5, batch=100),
    "minibatch 40,000 x 20": regression(40_000, 20, batch=500),
    "minibatch 100,000 x 5": regression(100_000, 5, batch=50),
    "minibatch of a table": table(),
    "minibatches of different totals": totals(),
    "flat line": flat_line(),
    "cauchy": prior(lambda: pm.Cauchy("x", 0.0, 1.0), cauchy(), allowed=HEAVY),
    "student t 1.5": prior(
        lambda: pm.StudentT("x", 1.5, mu=3.0, sigma=2.0), t(1.5, 3.0, 2.0), allowed=HEAVY
    ),
    "half cauchy": prior(lambda: pm.HalfCauchy("x", 1.0), halfcauchy(), allowed=HEAVY),
    "laplace": prior(lambda: pm.Laplace("x", 1.0, 1e-3), laplace(1.0, 1e-3)),
    "exponential": prior(lambda: pm.Exponential("x", 1e-3), expon(scale=1e3)),
    "gamma .1": prior(lambda: pm.Gamma("x", 0.1, 1.0), gamma(0.1), allowed=HEAVY),
    "beta .5": prior(lambda: pm.Beta("x", 0.5, 0.5), beta(0.5, 0.5)),
    "uniform": prior(lambda: pm.Uniform("x", 0.0, 1.0), uniform()),
    "lognormal 3": prior(lambda: pm.LogNormal("x", 0.0, 3.0), lognorm(3.0)),
    "poisson zero": Rogue(poisson_zero, allowed=HEAVY, moments=poisson_zero_moments),
    "edge": Rogue(edge, never=True, moments=lambda: of_scipy(truncnorm(-1.5, np.inf))),
    "thin edge": Rogue(thin_edge, never=True, moments=lambda: of_scipy(truncnorm(-3.2, np.inf))),
    "uniform within": Rogue(within, never=True, moments=within_moments),
    "improper": Rogue(one(lambda: pm.Flat("x")), never=True, improper=True),
    "separation": Rogue(separated, never=True, improper=True),
    "dirichlet 50": polished(
        one(lambda: pm.Dirichlet("x", np.full(50, 0.5))),
        moments=lambda: of_scipy(*[beta(0.5, 24.5)] * 50),
    ),
    "lkj": polished(lkj),
    "ordered": polished(ordered),
    "label switching": polished(labels),
    "horseshoe": polished(horseshoe, HEAVY),
    "funnel": polished(funnel, HEAVY, lambda: (np.zeros(10), np.array([3.0, *[np.exp(2.25)] * 9]))),
    "schools centered": polished(schools, HEAVY),
}
"""Name -> rogue."""
