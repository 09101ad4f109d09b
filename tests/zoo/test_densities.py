"""The toy densities are normalised, and the models are the densities."""

from itertools import pairwise

import numpy as np
import pytest

from scipy.integrate import quad
from scipy.special import expit

import pymc_vi_ext as vix

from pymc_vi_ext.zoo import DENSITIES

LINES = [density for density in DENSITIES.values() if density.dim == 1]
PLANES = [density for density in DENSITIES.values() if density.dim == 2]


def name(density):
    return density.name


@pytest.mark.parametrize("density", LINES, ids=name)
def test_lines_are_normalised_on_both_scales(density):
    low, high = density.window[0]
    ends = density.support
    parts = [ends[0], low, (low + high) / 2, high, ends[1]]
    mass = sum(quad(lambda x: np.exp(density.logp(x)), *ab)[0] for ab in pairwise(parts))
    assert mass == pytest.approx(1, abs=1e-8)
    mass = quad(
        lambda y: np.exp(density.unconstrained_logp(y)), -60, 60, points=[0.1, 6], limit=400
    )
    # 2 sqrt(3)^3 / (3 pi 60^3) ... of the mass of Student's t lies beyond 60.
    assert mass[0] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("density", PLANES, ids=name)
def test_planes_are_normalised(density):
    # Where the second coordinate lies, and how far around, given the first.
    middle = {"banana": lambda x: x**2 - 1}.get(density.name, np.zeros_like)
    width = {"funnel": lambda x: 10 * np.exp(x / 2)}.get(density.name, lambda x: np.full_like(x, 5))
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x = 9 * nodes[:, None]
    y = middle(x) + width(x) * nodes
    p = np.exp(density.logp(np.stack(np.broadcast_arrays(x, y), axis=-1)))
    assert 9 * weights @ (p * width(x)) @ weights == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("density", DENSITIES.values(), ids=name)
def test_models_have_the_density_of_the_unconstrained_scale(density):
    model = density.model()
    [value] = model.value_vars
    logp = model.compile_logp()
    rng = np.random.default_rng(1)
    points = rng.normal(1, 2, size=(20, 2) if density.dim == 2 else 20)
    expected = density.unconstrained_logp(points)
    found = [logp({value.name: point}) for point in points]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_hard_density_is_the_same_on_both_scales():
    density = DENSITIES["hard"]
    y = np.linspace(-2, 12, 15)
    x = expit(y)
    np.testing.assert_allclose(
        density.unconstrained_logp(y), density.logp(x) + np.log(x * (1 - x)), rtol=1e-6
    )


def test_a_window_holds_most_of_its_density():
    for density in LINES:
        low, high = density.window[0]
        middle = (low + high) / 2
        f = lambda x: np.exp(density.logp(x))  # noqa: B023, E731
        assert quad(f, low, middle)[0] + quad(f, middle, high)[0] > 0.98
    for density in PLANES:
        (a, b), (c, d) = density.window
        x, y = np.linspace(a, b, 401), np.linspace(c, d, 401)
        p = np.exp(density.logp(np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)))
        assert np.trapezoid(np.trapezoid(p, y), x) > 0.96


def test_planes_can_be_fitted():
    with DENSITIES["ring"].model():
        approx = vix.fit(
            200,
            "svgd",
            inf_kwargs={"n_particles": 20},
            convergence=None,
            random_seed=1,
            progressbar=False,
        )
    assert np.isfinite(approx.hist).all()
