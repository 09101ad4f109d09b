"""CONVERGED means converged: models on which it is most easily wrong, and rules that give up."""

import warnings

import numpy as np
import pymc as pm
import pytensor
import pytest

from rogues import ROGUES, by_quadrature

import pymc_vi_ext as vix

from pymc_vi_ext.callbacks import StagedStop

QUIET = {"random_seed": 1, "progressbar": False}
QUICK = ("scale 1e-8", "scale 1e8", "minibatches of different totals", "cauchy", "poisson zero")


@pytest.mark.parametrize("name", QUICK)
def test_what_says_converged_is_within_what_its_model_allows(name):
    rogue = ROGUES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", vix.ConvergenceWarning)
        approx = vix.fit(model=rogue.build(), **QUIET)
    if not approx.report.converged:
        assert rogue.allowed > 0.1, approx.report.evidence
        return
    judge = rogue.judge or by_quadrature(rogue.build())
    short, _ = judge(approx.mean.eval(), approx.std.eval())
    assert short < rogue.allowed, approx.report.evidence


@pytest.mark.parametrize("method", ["advi", "fullrank_advi", "bam", "dadvi"])
@pytest.mark.parametrize("name", ["edge", "thin edge"])
def test_mass_without_a_density_is_named_and_never_converged(name, method):
    with pytest.warns(vix.ConvergenceWarning, match="not converged"):
        approx = vix.fit(method=method, model=ROGUES[name].build(), **QUIET)
    assert approx.report.stop_reason is vix.StopReason.STOPPED
    if (name, method) != ("edge", "dadvi"):  # whose region shrinks to nothing at the edge
        assert "`edge`" in approx.report.evidence


@pytest.mark.parametrize("name", ["improper", "separation"])
def test_nothing_converges_to_an_improper_posterior(name):
    with pytest.warns(vix.ConvergenceWarning):
        approx = vix.fit(5_000, model=ROGUES[name].build(), **QUIET)
    assert not approx.report.converged


def off_of_a_heavy_tail(approx):
    """The Gaussian nearest to log Gamma(a) has sd 1 / sqrt(a)."""
    return abs(approx.std.eval()[0] / 0.1**-0.5 - 1)


@pytest.mark.filterwarnings("ignore::pymc_vi_ext.ConvergenceWarning")
def test_losses_of_a_heavy_tail_say_nothing():
    """A fit says so or is right."""
    approx = vix.fit(model=ROGUES["gamma .1"].build(), **QUIET)
    assert off_of_a_heavy_tail(approx) < 0.1 or "heavy a tail" in approx.report.evidence


@pytest.mark.filterwarnings("ignore::pymc_vi_ext.ConvergenceWarning")
def test_no_seed_converges_to_what_a_heavy_tail_hides():
    inference = vix.ADVI(model=ROGUES["gamma .1"].build())
    for seed in range(1, 6):
        approx = vix.fit(method=inference, **QUIET | {"random_seed": seed})
        assert off_of_a_heavy_tail(approx) < 0.1 or not approx.report.converged
        if approx.report.stop_reason is vix.StopReason.STOPPED:
            assert "heavy a tail" in approx.report.evidence


def test_rounding_of_float32_is_no_convergence():
    """A mean near 1e8 is known to 8 units in float32, and the loss to hundreds of nats."""
    with pytensor.config.change_flags(floatX="float32"), warnings.catch_warnings():
        warnings.simplefilter("ignore", vix.ConvergenceWarning)
        with pm.Model() as model:
            pm.Normal("x", np.float32(1e8), 1.0)
        approx = vix.fit(5_000, model=model, **QUIET)
    assert not approx.report.converged


@pytest.mark.parametrize(
    "optimizer",
    [
        pm.adam(learning_rate=vix.schedules.cosine(0.05, 1_000)),
        pm.adagrad(learning_rate=0.1),
        vix.optimizers.AnnealedAdam(0.05),
    ],
    ids=["schedule", "adagrad", "annealed"],
)
def test_a_rate_that_falls_by_itself_is_refused_where_a_rule_lowers_it(optimizer):
    with pytest.raises(ValueError, match=r"StagedStop lowers the learning rate itself"):
        vix.fit(model=vix.zoo.build("gamma"), obj_optimizer=optimizer, **QUIET)


def test_the_last_average_goes_on_until_its_own_error_is_small():
    """Correlation .8: sds are .6; today's limit in nats alone would let them be 5 % off."""
    with pm.Model() as model:
        pm.MvNormal("x", np.zeros(2), np.array([[1.0, 0.8], [0.8, 1.0]]))
    short = vix.fit(model=model, convergence=StagedStop(accuracy=None), **QUIET)
    long = vix.fit(model=model, **QUIET)
    assert short.report.steps <= long.report.steps
    np.testing.assert_allclose(long.std.eval(), 0.6, rtol=0.02)
    # Four times the largest error that the evidence may have.
    np.testing.assert_allclose(long.mean.eval(), 0.0, atol=4 * 0.02 * 0.6)
    assert "a standard error of" in long.report.evidence


def test_deterministic_advi_judges_its_result_on_other_draws():
    """Its loss is the mean field's; the evidence has the ELBO of the Gaussian that it returns."""
    cov = np.array([[1.0, 0.8], [0.8, 1.0]])
    with pm.Model() as model:
        pm.MvNormal("x", np.zeros(2), cov)
    approx = vix.fit(method="dadvi", model=model, **QUIET)
    assert approx.report.loss == "negative ELBO of the mean field on fixed draws"
    # The result is the posterior, whose log evidence is 0; the mean field is not.
    assert abs(approx.hist[-1]) > 0.01
    elbo = float(approx.report.evidence.split("ELBO of the result ")[1].split(" ")[0])
    assert elbo == pytest.approx(0.0, abs=1e-6)
    assert "64 draws suffice" in approx.report.evidence


def test_few_fixed_draws_do_not_suffice():
    with pm.Model() as model:
        x = pm.Normal("x", shape=20)
        pm.Bernoulli("y", logit_p=3.0 * x, observed=np.arange(20) % 2)
    approx = vix.fit(method="dadvi", model=model, inf_kwargs={"n_draws": 4}, **QUIET)
    assert "4 draws are too few" in approx.report.evidence
