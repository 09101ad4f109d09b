"""Sobol points, against SciPy's."""

import numpy as np
import pytest

from scipy.stats import qmc

from pymc_vi_ext.engine.sobol import SobolSequence


@pytest.mark.parametrize("dimension", [1, 2, 7, 300])
@pytest.mark.parametrize("seed", [0, 5])
def test_the_same_points(dimension, seed):
    own = SobolSequence(dimension, seed)
    theirs = qmc.Sobol(dimension, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(own.points(0, 256), theirs.random(256))
    theirs.fast_forward(256)
    np.testing.assert_array_equal(own.points(512, 256), theirs.random(256))


@pytest.mark.parametrize(("first", "n"), [(0, 1), (1, 1), (5, 3), (100, 300), (1_000, 37)])
def test_from_any_point_on(first, n):
    own = SobolSequence(3, 1)
    np.testing.assert_array_equal(own.points(first, n), own.points(0, 2_048)[first : first + n])
