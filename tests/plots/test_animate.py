"""Draws that move: what is recorded, what the figure holds, and what a browser makes of it."""

import builtins
import json
import sys

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pymc as pm
import pytest

from browser import CHROMIUM, browser

import pymc_vi_ext as vix

from pymc_vi_ext.plots import Recorder, animate, first_transitions
from pymc_vi_ext.zoo import DENSITIES

EXTENSIONS = Path(__file__).parents[2] / "docs" / "_ext"


def fitted(name, recorder, n, method="advi", **options):
    with DENSITIES[name].model():
        return vix.fit(
            n,
            method,
            convergence=None,
            callbacks=[recorder],
            random_seed=1,
            progressbar=False,
            **options,
        )


@pytest.fixture(scope="module")
def particles():
    """Fifty particles on their way to the banana, in 150 frames."""
    recorder = Recorder(every=4)
    approx = fitted("banana", recorder, 600, "svgd", inf_kwargs={"n_particles": 50})
    return recorder, approx


def test_all_particles_are_recorded_in_their_order(particles):
    recorder, approx = particles
    np.testing.assert_array_equal(recorder["points"][-1], approx.histogram.get_value())
    assert len(recorder["points"]) == 150
    assert list(recorder.steps[:2]) == [4, 8]
    # They move little from one record to the next, and far in all.
    path = np.stack(recorder["points"])
    steps = np.linalg.norm(np.diff(path, axis=0), axis=2)
    assert steps.max() < 0.5 * np.linalg.norm(path[-1] - path[0], axis=1).max()


@pytest.fixture(scope="module")
def gaussian():
    """Three records of a fit of full rank."""
    recorder = Recorder(every=20, draws=30)
    fitted("banana", recorder, 60, "fullrank_advi")
    return recorder


def test_draws_of_all_records_are_made_of_the_same_random_numbers(gaussian):
    noise = [
        np.linalg.solve(np.linalg.cholesky(cov), (points - mean).T)
        for points, mean, cov in zip(*(gaussian[k] for k in ("points", "mean", "cov")), strict=True)
    ]
    assert abs(noise[0]).max() > 1
    np.testing.assert_allclose(noise[1], noise[0], atol=1e-8)
    np.testing.assert_allclose(noise[2], noise[0], atol=1e-8)
    assert abs(np.stack(gaussian["mean"]) - gaussian["mean"][0]).max() > 0.01


def test_what_is_no_gaussian_has_no_ellipse(particles):
    recorder, _ = particles
    assert np.isnan(recorder["mean"]).all()
    # The contours, and the particles.
    figure = animate(recorder, DENSITIES["banana"])
    assert [trace.name for trace in figure.data if trace.mode == "markers"] == ["draws"]
    assert all(len(frame.data) == 1 for frame in figure.frames)


def test_the_ellipse_of_a_gaussian_is_two_standard_deviations_around_its_mean(gaussian):
    figure = animate(gaussian, DENSITIES["banana"])
    for frame, mean, cov in zip(figure.frames, gaussian["mean"], gaussian["cov"], strict=True):
        points, ellipse = frame.data
        assert len(points.x) == 30
        away = np.stack([ellipse.x, ellipse.y]) - mean[:, None]
        distances = np.sqrt(np.sum(away * np.linalg.solve(cov, away), axis=0))
        np.testing.assert_allclose(distances, 2, rtol=1e-3)


def test_the_curve_of_a_gaussian_is_its_density():
    recorder = Recorder(every=20, draws=30)
    fitted("bimodal", recorder, 40)
    figure = animate(recorder, DENSITIES["bimodal"])
    [x] = [np.asarray(t.x) for t in figure.data if t.name == "density"]
    for frame, mean, cov in zip(figure.frames, recorder["mean"], recorder["cov"], strict=True):
        curve = np.asarray(frame.data[1].y)
        assert x[curve.argmax()] == pytest.approx(np.clip(mean[0], -0.9, 1.1), abs=0.011)
        sd = np.sqrt(cov[0, 0])
        assert curve.max() == pytest.approx(1 / (sd * np.sqrt(2 * np.pi)), rel=0.01)


def test_points_of_any_origin_can_be_shown():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(4, 300, 1))
    figure = animate(points, steps=[0, 10, 20, 40], title="anything")
    assert [frame.name for frame in figure.frames] == ["0", "10", "20", "40"]
    assert figure.layout.title.text == "anything"
    np.testing.assert_array_equal(figure.frames[2].data[0].x, points[2, :, 0].astype(np.float32))
    x, curve = figure.data[1].x, figure.frames[2].data[1].y
    assert np.trapezoid(curve, x) == pytest.approx(1, abs=0.05)
    # A point mass has no density.
    assert not np.any(animate(np.zeros((2, 5, 1))).frames[0].data[1].y)


def test_the_hard_density_is_shown_on_the_scale_of_the_draws():
    figure = animate(np.full((2, 5, 1), 6.0), DENSITIES["hard"])
    low, high = figure.layout.xaxis.range
    assert (low, high) == pytest.approx((3.89, 12.21), abs=0.01)
    assert figure.layout.xaxis.title.text == "logit x"
    assert np.trapezoid(figure.data[0].y, figure.data[0].x) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ([], {}, "no frame"),
        (np.zeros((3, 5)), {}, r"not \(3, 5\)"),
        (np.zeros((3, 5, 3)), {}, r"not \(3, 5, 3\)"),
        (np.zeros((3, 5, 1)), {"density": DENSITIES["ring"]}, "'ring' has 2"),
        (np.zeros((3, 5, 1)), {"steps": [1, 2]}, "3 frames and 2 steps"),
        (Recorder(), {}, "no frame"),
    ],
)
def test_what_cannot_be_shown(frames, options, message):
    with pytest.raises(ValueError, match=message):
        animate(frames, **options)


def test_without_plotly_it_says_what_to_install(monkeypatch):
    imported = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("plotly"):
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'pymc-vi-ext\[plots\]'"):
        animate(np.zeros((3, 5, 1)))


def test_chains_leave_a_bad_fit_for_the_posterior():
    with pm.Model():
        pm.Normal("x", 5, 1, shape=2)
        approx = vix.fit(1, convergence=None, random_seed=1, progressbar=False)
    chains = first_transitions(approx, 60, chains=64, random_seed=1)
    assert chains.shape == (61, 64, 2)
    start, end = chains[0], chains[20:].reshape(-1, 2)
    # A standard error of the end's moments is below 1 / sqrt(64).
    assert abs(end.mean(axis=0) - 5).max() < 0.5
    assert abs(end.std(axis=0) - 1).max() < 0.5
    assert abs(start.mean(axis=0) - approx.mean.eval()).max() < 0.5


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def built(particles, tmp_path_factory):
    """A page as the documentation's extension leaves it, with two figures."""
    pytest.importorskip("sphinx")
    import plotly.io as pio

    sys.path.insert(0, str(EXTENSIONS))
    try:
        import plotlyjs
    finally:
        sys.path.remove(str(EXTENSIONS))
    folder = tmp_path_factory.mktemp("built")
    recorder, _ = particles
    figures = [animate(recorder, DENSITIES["banana"]), animate(np.zeros((2, 5, 1)))]
    bodies = [pio.renderers["sphinx_gallery"].to_mimebundle(f)["text/html"] for f in figures]
    assert all("https://cdn" in body for body in bodies)
    context = {
        "body": "<h1>Figures</h1>" + "".join(bodies),
        "pathto": lambda target, resource: target,
    }
    plotlyjs._serve(SimpleNamespace(outdir=folder), "page", "page.html", context, None)
    page = folder / "page.html"
    page.write_text(f"<!doctype html><body>{context['body']}</body>", encoding="utf-8")
    return page


def test_a_page_has_its_own_plotly_once_and_no_other(built):
    text = built.read_text(encoding="utf-8")
    assert text.count("<script src=") == 1
    assert 'src="https' not in text
    assert len(text) < 500_000
    assert (built.parent / "_static" / "plotly.min.js").stat().st_size > 1_000_000


def test_a_page_without_figures_has_none(built, tmp_path):
    import plotlyjs

    context = {"body": "<h1>plotly</h1>"}
    plotlyjs._serve(SimpleNamespace(outdir=tmp_path), "page", "page.html", context, None)
    assert context == {"body": "<h1>plotly</h1>"}
    assert not list(tmp_path.iterdir())


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def address(built):
    """The page on loopback: what is asked of files, browsers do not list."""
    handler = partial(Quiet, directory=built.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@needs_browser
def test_a_browser_plays_it_and_asks_no_other_server(address, particles):
    recorder, _ = particles
    with browser(760, 1200) as page:
        page.open(f"{address}/page.html")
        page.until("document.querySelectorAll('.slider-rail-rect').length === 2")
        page.ask("figure = document.querySelector('.js-plotly-plot'); 1")
        page.until("figure._transitionData._frames.length === 150")
        assert page.ask("document.querySelectorAll('.modebar-btn').length") == 0
        first = (
            "JSON.stringify([...figure.querySelectorAll('.points path')]"
            ".map(p => p.getAttribute('transform')))"
        )
        before = page.ask(first)
        assert before.count("translate") == 50
        said = "figure.querySelector('.slider-label').textContent"
        assert page.ask(said) == "step 4"
        button = (
            "[...figure.querySelectorAll('.updatemenu-button')]"
            ".find(b => b.textContent.includes({!r})).dispatchEvent(new MouseEvent('click'))"
        )
        page.ask(button.format("Play"))
        page.until(f"{said} !== 'step 4' && {first} !== {before!r}")
        page.ask(button.format("Pause"))
        # To the end, by what the slider's last step does.
        page.ask(
            "step = figure.layout.sliders[0].steps[149];"
            "Plotly.animate(figure, step.args[0], step.args[1]); 1"
        )
        page.until(f"{said} === 'step 600'")
        shown = page.ask("JSON.stringify([...figure._fullData.at(-1).x])")
        np.testing.assert_allclose(
            np.array(json.loads(shown)), recorder["points"][-1][:, 0], rtol=1e-5, atol=1e-6
        )
        asked = page.ask(
            "performance.getEntriesByType('resource').map(e => e.name).join(' ')"
        ).split()
        # Besides, browsers look for an icon.
        assert asked.count(f"{address}/_static/plotly.min.js") == 1
        assert all(name.startswith(address) for name in asked)
