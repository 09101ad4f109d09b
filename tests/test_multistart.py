import numpy as np
import pymc as pm
import pytest

from compilations import compilations

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
    assert approx.report.steps == best.steps == len(approx.hist) + 1
    assert best.elbo_se < 0.01
    assert approx.report.converged


def test_one_program_for_all_starts():
    compiled_until = []

    def count(approx, losses, i):
        compiled_until.append(len(seen))

    count.every = 200
    with compilations() as seen:
        approx = vix.fit(
            200,
            model=vix.zoo.MODELS["mixture"](),
            n_starts=3,
            convergence=None,
            callbacks=[count],
            **QUIET,
        )
    # One count at the end of each start: all that is compiled is there after the first.
    assert len(compiled_until) == 3
    assert compiled_until[0] > 0
    assert set(compiled_until) == {compiled_until[0]}
    assert [start.steps for start in approx.report.starts] == [200] * 3


def test_bad_numbers_and_methods():
    model = vix.zoo.MODELS["mixture"]()
    with pytest.raises(ValueError, match="whole number from 1, not 0"):
        vix.fit(model=model, n_starts=0)
    with pytest.raises(ValueError, match="SVGD has none"):
        vix.fit(model=model, method="svgd", n_starts=2)


def cliff(start):
    """Options of a fit whose log density is NaN above .5, with its mode far from there."""
    with pm.Model() as model:
        x = pm.Normal("x", 0.0, 1.0)
        pm.Potential("edge", pm.math.switch(x > 0.5, np.nan, 0.0) - 200 * (x + 1.0) ** 2)
    # So narrow a start falls with all its draws on one side of the edge.
    return {"model": model, "start": {"x": start}, "start_sigma": {"x": 0.01}}


# The start that fails in the middle of them, and last.
@pytest.mark.parametrize("n_starts", [4, 3])
def test_a_start_that_fails_leaves_the_others(n_starts, caplog):
    away = np.append(0.0, np.random.default_rng(1).normal(size=n_starts - 1))
    assert np.flatnonzero(away > 0.5).tolist() == [2]
    options = {"n_starts": n_starts, "convergence": None, "random_seed": 1, **QUIET}
    approx = vix.fit(300, **cliff(0.0), **options)
    assert f"Start 3 of {n_starts} ended with NaN" in caplog.text
    starts = approx.report.starts
    assert [start.stop_reason for start in starts] == [vix.StopReason.COMPLETED] * (n_starts - 1)
    assert np.isfinite([start.elbo for start in starts]).all()
    # The mode, within half of the posterior's standard deviation of .05.
    assert approx.mean.eval()[0] == pytest.approx(-400 / 401, abs=0.025)


def test_where_every_start_fails_so_does_the_fit():
    with pytest.raises(FloatingPointError, match="NaN"):
        vix.fit(300, **cliff(8.0), n_starts=2, convergence=None, random_seed=1, **QUIET)
