"""The Gaussian that a reader moves: its numbers, in Python and in a browser."""

import html
import math
import re

from itertools import pairwise, product

import numpy as np
import pytest

from browser import CHROMIUM, browser
from scipy.integrate import quad
from scipy.special import digamma, polygamma
from scipy.stats import norm
from scipy.stats import t as student_t

from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.plots import explore_kl
from pymc_vi_ext.plots.explore import _described
from pymc_vi_ext.zoo import DENSITIES

NAMES = ["student_t", "bimodal", "skewed", "hard"]
NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)


@pytest.fixture(scope="module")
def explorer():
    return explore_kl()


def kl(name, mean, sd):
    """KL(q || p) by Gauss and Legendre in 2,000 parts of q's twenty standard deviations."""
    edges = np.linspace(-10, 10, 2_001)
    half = (edges[1] - edges[0]) / 2
    z = ((edges[:-1] + half)[:, None] + half * NODES).ravel()
    q = norm.pdf(z) * np.tile(half * WEIGHTS, 2_000)
    return q @ (norm.logpdf(z) - math.log(sd) - DENSITIES[name].unconstrained_logp(mean + sd * z))


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_of_these_tests_is_that_of_quad(name):
    density = DENSITIES[name]
    [(low, high)] = density.unconstrained_window
    mean, sd = low + 0.4 * (high - low), (high - low) / 9

    def integrand(x):
        q = norm.pdf(x, mean, sd)
        return q * (norm.logpdf(x, mean, sd) - density.unconstrained_logp(x))

    ends = np.linspace(mean - 10 * sd, mean + 10 * sd, 6)
    parts = [quad(integrand, a, b, limit=200)[0] for a, b in pairwise(ends)]
    assert kl(name, mean, sd) == pytest.approx(sum(parts), rel=1e-7)


def test_optima_that_are_known(explorer):
    # E_q log p = -m - exp(-m + s^2 / 2) of the Gumbel, so s = 1 and m = 1/2.
    mean, sd, least = explorer.optima["skewed"]
    assert (mean, sd) == pytest.approx((0.5, 1), abs=1e-5)
    assert least == pytest.approx(1.5 - math.log(2 * math.pi * math.e) / 2, abs=1e-9)
    # The larger mode alone would cost -log .8.
    mean, sd, least = explorer.optima["bimodal"]
    assert (mean, sd) == pytest.approx((0.5, 0.1), abs=1e-4)
    assert -math.log(0.8) - 1e-4 < least < -math.log(0.8)
    assert explorer.optima["student_t"].mean == pytest.approx(0, abs=1e-5)
    mean, sd, least = explorer.optima["hard"]
    assert (mean, math.log(sd)) == pytest.approx((6.4651, -0.3449), abs=1e-4)
    assert least == pytest.approx(0.041045, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_an_optimum_is_one_and_has_the_kl_that_it_says(name, explorer):
    mean, sd, least = explorer.optima[name]
    assert kl(name, mean, sd) == pytest.approx(least, abs=1e-8)
    for dm, ds in product((-0.02, 0, 0.02), (0.98, 1, 1.02)):
        assert kl(name, mean + dm * sd, sd * ds) > least - 1e-9


@pytest.mark.parametrize(
    ("name", "entropy", "mean", "variance"),
    [
        ("student_t", student_t.entropy(3), 0, 3),
        ("skewed", 1 + np.euler_gamma, np.euler_gamma, math.pi**2 / 6),
        (
            "hard",
            None,
            digamma(1001) - digamma(2),
            polygamma(1, 1001) + polygamma(1, 2),
        ),
        ("bimodal", None, 0.34, 0.01 + 0.2 * 0.64**2 + 0.8 * 0.16**2),
    ],
)
def test_moments_are_those_in_closed_form(name, entropy, mean, variance, explorer):
    found = _described(DENSITIES[name], explorer.optima[name])
    if entropy is not None:
        assert found["entropy"] == pytest.approx(entropy, abs=1e-9)
    assert found["mean"] == pytest.approx(mean, abs=1e-9)
    assert found["variance"] == pytest.approx(variance, abs=1e-9)


def test_it_is_a_page_of_its_own(explorer, tmp_path):
    assert "http" not in explorer.page
    shown = explorer._repr_html_()
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', shown)[1]) == explorer.page
    explorer.write_html(tmp_path / "kl.html")
    assert (tmp_path / "kl.html").read_text(encoding="utf-8") == explorer.page


def test_what_it_does_not_take():
    with pytest.raises(UnknownNameError, match=r"'bimodel'.*bimodal"):
        explore_kl(["bimodel"])
    with pytest.raises(ValueError, match="'ring' has two"):
        explore_kl(["ring"])
    with pytest.raises(ValueError, match="no target"):
        explore_kl([])


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def page(explorer, tmp_path_factory):
    """Open a page that holds it as a notebook does, 390 pixels wide."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(
        '<!doctype html><html data-theme="light">'
        '<meta name="viewport" content="width=device-width">'
        f"<body>{explorer._repr_html_()}</body></html>",
        encoding="utf-8",
    )
    with browser(390, 900) as opened:
        opened.open(path.as_uri())
        opened.until(
            "document.querySelector('iframe')?.contentDocument.getElementById('kl')?.textContent"
        )
        opened.ask("frame = document.querySelector('iframe').contentWindow; 1")
        opened.ask("at = id => frame.document.getElementById(id); 1")
        opened.ask(
            "move = (id, value) => { at(id).value = value; at(id).dispatchEvent(new Event("
            "id === 'target' ? 'change' : 'input')); }; 1"
        )
        yield opened


def number(page, name):
    return float(page.ask(f"at({name!r}).textContent").replace("\N{MINUS SIGN}", "-"))


def in_the_last_digit(text):
    """Return one unit of the last digit that is shown."""
    digits, _, power = text.partition("e")
    return 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


@needs_browser
@pytest.mark.parametrize("name", NAMES)
def test_the_number_is_that_of_the_integral_wherever_the_sliders_are(name, page):
    page.ask(f"move('target', {name!r})")
    parts = (0, 0.17, 0.5, 0.68, 1)
    for a, b in product(parts, parts):
        for id, part in (("mu", a), ("sigma", b)):
            least, most = (float(page.ask(f"at({id!r}).{end}")) for end in ("min", "max"))
            page.ask(f"move({id!r}, {least + part * (most - least)})")
        mean, log_sd = (float(page.ask(f"at({id!r}).value")) for id in ("mu", "sigma"))
        text = page.ask("at('kl').textContent")
        expected = kl(name, mean, math.exp(log_sd))
        exact = page.ask("frame.eval('forward()')")
        assert exact == pytest.approx(expected, rel=1e-5, abs=1e-5), (a, b)
        assert float(text) == pytest.approx(expected, abs=in_the_last_digit(text)), (a, b)


@needs_browser
def test_the_other_way_round_it_is_that_of_the_moments(page):
    page.ask("move('target', 'skewed'); move('mu', 2); move('sigma', Math.log(3)); 1")
    mean, sd = float(page.ask("at('mu').value")), math.exp(float(page.ask("at('sigma').value")))
    away = np.euler_gamma - mean
    crossed = math.log(sd) + math.log(2 * math.pi) / 2
    crossed += (math.pi**2 / 6 + away**2) / (2 * sd**2)
    assert number(page, "reverse") == pytest.approx(crossed - 1 - np.euler_gamma, abs=1e-4)


@needs_browser
@pytest.mark.parametrize("name", NAMES)
def test_the_button_moves_to_the_optimum(name, page, explorer):
    page.ask(f"move('target', {name!r}); at('reveal').click()")
    mean, sd, least = explorer.optima[name]
    # The exact one, not the nearest that a slider can be at.
    assert number(page, "kl") == pytest.approx(least, abs=1e-4)
    assert number(page, "mu-shown") == pytest.approx(mean, abs=6e-4)
    assert number(page, "sigma-shown") == pytest.approx(sd, abs=6e-4)
    assert f"{least:.4f}" in page.ask("at('said').textContent")


@needs_browser
def test_keys_move_the_sliders(page):
    page.ask("move('target', 'student_t'); at('mu').focus(); 1")
    before = number(page, "mu-shown"), page.ask("at('kl').textContent")
    for kind in ("rawKeyDown", "keyUp"):
        page._call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", windowsVirtualKeyCode=39)
    assert number(page, "mu-shown") == pytest.approx(before[0] + 0.03, abs=1e-9)
    assert page.ask("at('kl').textContent") != before[1]


@needs_browser
def test_it_fits_a_phone_follows_the_theme_and_asks_for_nothing(page):
    assert page.ask("frame.document.documentElement.scrollWidth <= frame.innerWidth")
    held = "frame.document.querySelector('main').getBoundingClientRect().height"
    page.until(f"Math.abs(frame.innerHeight - {held}) < 2")
    ground = "frame.getComputedStyle(frame.document.body).backgroundColor"
    light = page.ask(ground)
    page.ask("document.documentElement.dataset.theme = 'dark'")
    page.until(f"{ground} !== {light!r}")
    for where in ("performance", "frame.performance"):
        assert page.ask(f"{where}.getEntriesByType('resource').length") == 0
