"""How long trajectories are, and where chains end."""

import numpy as np
import pymc as pm
import pytest

from pymc_vi_ext.correction._hmc import LENGTH, ManyChains
from pymc_vi_ext.correction._settling import settle
from pymc_vi_ext.engine.density import LogDensity


def settled_on_a_banana(curvature, seed):
    """Return chains on a banana of exact moments, and where they have ended."""
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Normal("y", curvature * x**2, 0.1)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=64)
    starts = np.stack([x, curvature * x**2 + 0.1 * rng.normal(size=64)], axis=1)
    chains = ManyChains(LogDensity(model), len(starts))
    superchain = np.repeat(np.arange(16), 4)
    settled = settle(chains, starts[superchain], superchain, starts, lambda path: 0.0, rng)
    assert settled.settled
    # Four standard errors of a Gaussian's moments.
    x, y = settled.points.T
    assert abs(x.mean()) < 4 / np.sqrt(settled.ess)
    assert abs(np.log(x.std())) < 4 / np.sqrt(2 * settled.ess)
    assert abs((y - curvature * x**2).std() - 0.1) < 0.1 * 4 / np.sqrt(2 * settled.ess)
    return chains, settled


@pytest.mark.parametrize("curvature", [0.0, 2.0])
def test_trajectories_get_longer_where_the_way_is_long(curvature):
    """Along a banana, and not across a Gaussian."""
    chains, _ = settled_on_a_banana(curvature, 1)
    assert (chains.length > LENGTH) == (curvature > 0)


def test_all_that_a_known_metric_has_drawn_is_kept():
    """More than the second half of the last stretch, which is a quarter of all at most."""
    _, settled = settled_on_a_banana(0.5, 2)
    assert settled.path.points.shape[1] > settled.transitions / 2
