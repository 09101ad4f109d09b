import numpy as np
import pymc as pm
import pytest

import pymc_vi_ext as vix

QUIET = {"backend": "jax", "progressbar": False}


def test_the_better_mode_is_kept():
    """E10: a Gaussian on the mode of weight .8 has ELBO log .8, on the other log .2."""
    approx = vix.fit(model=vix.zoo.MODELS["mixture"](), n_starts=8, random_seed=3, **QUIET)
    starts = approx.report.starts
    assert len(starts) == 8
    elbos = np.array([start.elbo for start in starts])
    modes = np.log([0.2, 0.8])
    # Each is within the tolerance of the fit of one of the two.
    assert np.abs(elbos[:, None] - modes).min(axis=1).max() < 0.05
    assert np.ptp(elbos) > 1
    assert approx.mean.eval()[0] == pytest.approx(0.5, abs=0.02)
    best = starts[int(elbos.argmax())]
    assert approx.report.steps == best.steps == len(approx.hist)
    assert best.elbo_se < 0.01
    assert approx.report.converged


def test_one_program_for_all_starts():
    approx = vix.fit(200, model=vix.zoo.MODELS["mixture"](), n_starts=3, convergence=None, **QUIET)
    # The report is that of one start: only the first compiles, and it is not always the best.
    assert len(approx.report.starts) == 3
    assert {start.steps for start in approx.report.starts} == {200}


def test_bad_numbers_and_methods():
    model = vix.zoo.MODELS["mixture"]()
    with pytest.raises(ValueError, match="whole number from 1, not 0"):
        vix.fit(model=model, n_starts=0)
    with pytest.raises(ValueError, match="SVGD has none"):
        vix.fit(model=model, method="svgd", n_starts=2)


def test_a_start_that_fails_leaves_the_others():
    with pm.Model() as model:
        x = pm.Normal("x", 0.0, 1.0)
        # NaN to the right: starts that are thrown there fail.
        pm.Potential("edge", pm.math.switch(x > 3.0, np.nan, 0.0) - 200 * (x + 1.0) ** 2)
    approx = vix.fit(model=model, n_starts=4, random_seed=1, **QUIET)
    assert np.isfinite(approx.mean.eval()).all()
    assert 1 <= len(approx.report.starts) <= 4
