"""Densities over each other."""

import numpy as np
import pytest

from scipy.stats import norm, t

from pymc_vi_ext.plots import plot_density
from pymc_vi_ext.plots._style import new_figure

X = np.linspace(-5, 5, 101)
TARGET, WIDE, NARROW = t.pdf(X, 3), norm.pdf(X, 0, 2), norm.pdf(X)


def test_lines_are_the_densities_and_the_target_lies_behind_them():
    (axes,) = plot_density(X, TARGET, {"wide": WIDE, "narrow": NARROW}, xlabel="z").axes
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_array_equal(drawn["wide"], np.column_stack([X, WIDE]))
    np.testing.assert_array_equal(drawn["narrow"], np.column_stack([X, NARROW]))
    (area,) = axes.collections
    upper = area.get_paths()[0].vertices
    assert upper[:, 1].max() == TARGET.max()
    assert area.get_zorder() < min(line.get_zorder() for line in axes.lines)
    assert axes.get_xlabel() == "z"
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == [
        "p",
        "wide",
        "narrow",
    ]


def test_axes_that_are_there_are_drawn_in():
    figure = new_figure(6, 3)
    _, right = figure.subplots(1, 2)
    assert plot_density(X, TARGET, {"q": NARROW}, axes=right) is figure
    assert [len(axes.lines) for axes in figure.axes] == [0, 1]
    assert not figure.legends
    assert right.get_legend() is None


def test_a_density_of_another_length_is_named():
    with pytest.raises(ValueError, match="density 'q' has the shape \\(3,\\), and x \\(101,\\)"):
        plot_density(X, TARGET, {"q": np.ones(3)})
