"""The figures show what they are given, whatever its shape."""

import subprocess
import sys

import arviz_base as azb
import numpy as np
import pytest

from pymc_vi_ext.plots import (
    block_means,
    plot_accuracy,
    plot_elbo,
    plot_forest,
    plot_kde,
    plot_pair,
)
from pymc_vi_ext.plots._style import to_image


def posterior(seed=0, **shapes):
    rng = np.random.default_rng(seed)
    return azb.from_dict(
        {"posterior": {k: rng.normal(size=(2, 200, *s)) for k, s in shapes.items()}}
    )


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_visible()]


def test_kde_has_a_panel_per_element_and_a_line_per_method():
    figure = plot_kde({"a": posterior(x=(), b=(2,)), "c": posterior(1, x=(), b=(2,))})
    assert titles(figure) == ["x", "b[0]", "b[1]"]
    assert all(len(axes.lines) == 2 for axes in figure.axes[:3])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "c"]


def test_kde_lines_integrate_to_one():
    axes = plot_kde({"a": posterior(x=())}).axes[0]
    grid, density = axes.lines[0].get_data()
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=0.01)


def test_kde_stops_at_the_panels_it_is_given():
    figure = plot_kde({"a": posterior(b=(10, 10))}, max_panels=5)
    assert len(titles(figure)) == 5
    assert figure.get_suptitle() == "first 5 of 100 elements"


def test_kde_survives_point_masses_and_draws_that_are_not_finite():
    dt = azb.from_dict({"posterior": {"x": np.ones((1, 50)), "y": np.full((1, 50), np.nan)}})
    assert to_image(plot_kde({"a": dt})).ndim == 3


def test_kde_limits_are_those_of_the_finite_draws():
    draws = np.random.default_rng(0).normal(size=(1, 500))
    with_gaps = np.where(np.arange(500) % 10 == 0, np.inf, draws)
    with_gaps[0, 5] = np.nan
    plain, gaps = (
        plot_kde({"a": azb.from_dict({"posterior": {"x": x}})}).axes[0].get_xlim()
        for x in (draws, with_gaps)
    )
    np.testing.assert_allclose(gaps, plain, atol=0.5)


def test_kde_of_draws_none_of_which_is_finite_is_empty():
    dt = azb.from_dict({"posterior": {"x": np.full((1, 50), np.nan)}})
    assert not plot_kde({"a": dt}).axes[0].lines


def test_a_label_keeps_its_colour_when_others_are_left_out():
    both = plot_kde({"a": posterior(x=()), "b": posterior(x=())})
    alone = plot_kde({"b": posterior(x=())}, labels=("a", "b"))
    assert alone.axes[0].lines[0].get_color() == both.axes[0].lines[1].get_color()
    assert alone.axes[0].lines[0].get_color() != both.axes[0].lines[0].get_color()


def test_kde_of_an_unknown_variable_names_the_known_ones():
    with pytest.raises(ValueError, match=r"No variable 'z' to plot: there are x\."):
        plot_kde({"a": posterior(x=())}, ["z"])


def test_kde_of_nothing_says_so():
    with pytest.raises(ValueError, match="every method failed"):
        plot_kde({})


def test_block_means_cover_every_step_once():
    losses = np.arange(1234.0)
    steps, elbo = block_means(losses, 500)
    assert len(steps) <= 500
    assert steps[-1] == 1234
    lengths = np.diff(np.append(0, steps))
    assert np.sum(elbo * lengths) == pytest.approx(-losses.sum())


def test_block_means_of_a_short_trace_are_the_trace():
    steps, elbo = block_means(np.array([3.0, 1.0]))
    assert steps.tolist() == [1, 2]
    assert elbo.tolist() == [-3, -1]
    assert block_means(np.empty(0))[1].size == 0


def test_elbo_axis_shows_the_end_in_spite_of_a_terrible_start():
    losses = 1e6 / np.arange(1, 5001) ** 3 + np.random.default_rng(0).normal(5, 0.1, 5000)
    axes = plot_elbo({"advi": losses, "svgd": np.empty(0)}).axes[0]
    low, high = axes.get_ylim()
    assert -10 < low < -5 < high < 0
    assert axes.lines[-1].get_label().startswith("advi, final -5.0")


@pytest.mark.parametrize("losses", [[1.0], [np.nan, np.nan], []])
def test_elbo_of_hardly_anything_can_be_drawn(losses):
    assert to_image(plot_elbo({"a": np.array(losses)})).dtype == np.uint8


def test_figures_leave_pyplot_alone():
    code = (
        "import sys, numpy as np, pymc_vi_ext.plots as p\n"
        "assert 'matplotlib' not in sys.modules\n"
        "p.plot_elbo({'a': np.ones(9)})\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def several(**shapes):
    return {label: posterior(i, **shapes) for i, label in enumerate(["r", "a", "c"])}


def test_forest_shows_quantiles_of_each_method_and_bands_of_the_reference():
    x = np.linspace(0, 100, 101)[None]
    dt = azb.from_dict({"posterior": {"x": x}})
    axes = plot_forest({"r": dt, "a": dt}, reference="r").axes[0]
    thin, thick = (c.get_segments()[0][:, 0] for c in axes.collections[-3:-1])
    np.testing.assert_allclose([*thin, *thick], [5, 95, 25, 75])
    bands = [c.get_paths()[0].get_extents() for c in axes.collections[:2]]
    np.testing.assert_allclose([(b.x0, b.x1) for b in bands], [(5, 95), (25, 75)])


def test_forest_stops_at_the_elements_it_is_given():
    figure = plot_forest(several(b=(10, 10)), max_elements=7)
    assert len(figure.axes[0].get_yticks()) == 7
    assert figure.get_suptitle() == "first 7 of 100 elements"


def test_forest_rows_of_methods_do_not_overlap():
    axes = plot_forest(several(x=(2,))).axes[0]
    heights = sorted({line.get_ydata()[0] for line in axes.lines if len(line.get_ydata())})
    assert len(heights) == 2 * 3
    assert min(np.diff(heights)) > 0.2


def test_pair_thins_draws_and_keeps_pairs_together():
    x = np.arange(6_000.0).reshape(2, 3_000)
    dt = azb.from_dict({"posterior": {"x": x, "b": np.stack([x, -x], -1)}})
    points = plot_pair({"a": dt}, "x", "b[1]").axes[0].collections[0].get_offsets()
    assert points.shape == (1_000, 2)
    np.testing.assert_array_equal(points[:, 1], -points[:, 0])
    assert points[:, 0].max() == 5_999


def test_pair_of_a_reference_alone_shows_it():
    assert titles(plot_pair({"r": posterior(b=(2,))}, "b[0]", "b[1]", reference="r")) == ["r"]


def test_pair_of_an_unknown_element_names_some():
    with pytest.raises(ValueError, match=r"No element 'b' .* b\[0\], .* b\[11\] and 8 more\."):
        plot_pair({"a": posterior(b=(20,))}, "b[0]", "b")


@pytest.mark.parametrize("draw", [plot_forest, lambda p: plot_pair(p, "x", "y")])
def test_point_masses_and_draws_that_are_not_finite_can_be_drawn(draw):
    dt = azb.from_dict({"posterior": {"x": np.ones((1, 50)), "y": np.full((1, 50), np.nan)}})
    assert to_image(draw({"a": dt})).ndim == 3


def test_accuracy_leaves_out_what_has_no_place_on_its_axes():
    runs = {"a": [(1.0, 0.1), (np.nan, 0.2), (2.0, 0.0)], "b": [(1.0, np.nan)]}
    figure = plot_accuracy(runs)
    assert [line.get_label() for line in figure.axes[0].lines] == ["a, 1 of 3"]
    assert figure.axes[0].get_yscale() == "log"


def test_accuracy_of_nothing_says_so():
    axes = plot_accuracy({"a": [(1.0, np.nan)]}, noise_floor=0.1).axes[0]
    assert [text.get_text() for text in axes.texts] == ["no run has an error"]
