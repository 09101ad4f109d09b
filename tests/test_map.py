"""Many fits side by side are each what they are alone, and one that fails is alone with that."""

import numpy as np
import pymc as pm
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext import side_by_side
from pymc_vi_ext.alike import groups_of
from pymc_vi_ext.engine.jax_lanes import SLICE

# The rule's accuracy, in posterior standard deviations, times four.
NEAR = 0.04


def school(y, prior_sd=10.0):
    """Two independent conjugate posteriors, in an order that is not that of the alphabet."""
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, prior_sd)
        away = pm.Normal("away", 5.0, 0.5)
        pm.Deterministic("both", mu + away)
        pm.Normal("y", mu, 2.0, observed=y)
    return model


def clinic(cured, of):
    with pm.Model() as model:
        rate = pm.Beta("rate", 2.0, 3.0)
        pm.Binomial("cured", of, rate, observed=cured)
    return model


def exact(y, prior_sd=10.0):
    precision = len(y) / 4.0 + prior_sd**-2
    return np.array([np.sum(y) / 4.0 / precision, 5.0]), np.array([precision**-0.5, 0.5])


def moments_of(approx):
    return approx.mean.eval(), approx.std.eval()


@pytest.fixture(scope="module")
def schools():
    rng = np.random.default_rng(3)
    # Of two lengths, which are two programs.
    data = [(rng.normal(3.0 * i, 2.0, size=6 if i % 2 else 4), 1.0 + i) for i in range(5)]
    fits = vix.map([school(*one) for one in data], random_seed=4, progressbar=False)
    return data, fits


def test_each_fit_finds_its_own_posterior(schools):
    data, fits = schools
    for one, approx in zip(data, fits, strict=True):
        assert approx.report.converged
        (means, sds), (found, of) = exact(*one), moments_of(approx)
        np.testing.assert_allclose((found - means) / sds, 0.0, atol=NEAR)
        np.testing.assert_allclose(np.log(of / sds), 0.0, atol=NEAR)


def test_all_draws_in_one_tree(schools):
    data, fits = schools
    draws = 4_000
    tree = fits.to_datatree(draws=draws, random_seed=1)
    assert dict(tree.posterior["both"].sizes) == {"chain": 1, "draw": draws, "fit": 5}
    assert tree["fits/converged"].values.all()
    assert tree["fits/seed"].values.tolist() == fits.seeds
    for i, one in enumerate(data):
        means, sds = exact(*one)
        for name, mean, sd in zip(("mu", "away"), means, sds, strict=True):
            off = tree.posterior[name].sel(fit=i).mean() - mean
            assert abs(off) < (NEAR + 4 / draws**0.5) * sd
    again = fits.to_datatree(draws=10, random_seed=1)
    assert again.posterior["mu"].sel(fit=3).values[0, 0] != again.posterior["mu"].values[0, 0, 1]


@pytest.mark.parametrize("method", ["advi", "fullrank_advi"])
def test_a_fit_is_what_it_is_alone(method):
    # A count is no shape, and may differ.
    data = [(3, 10), (40, 50), (7, 7)]
    options = {"method": method, "progressbar": False}
    fits = vix.map([clinic(*one) for one in data], random_seed=1, **options)
    alone = vix.fit(model=clinic(*data[2]), random_seed=fits.seeds[2], **options)
    mapped = fits[2]
    np.testing.assert_allclose(mapped.hist, alone.hist, rtol=1e-9)
    for one, other in zip(mapped.params, alone.params, strict=True):
        np.testing.assert_allclose(one.get_value(), other.get_value(), rtol=1e-8, atol=1e-8)
    same = ("steps", "stop_reason", "evidence", "method", "seed", "backend", "rule", "loss")
    for name in same:
        assert getattr(mapped.report, name) == getattr(alone.report, name)


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    def losses():
        data = {"y": np.arange(6.0).reshape(2, 3)}
        options = {"convergence": None, "random_seed": 1, "progressbar": False}
        return vix.map(school(np.zeros(3)), 20, data=data, **options)[1].hist

    known = losses()
    monkeypatch.setattr("pymc_vi_ext.engine.jax_lanes._ONE_THREAD", {"xla_cpu_nobody_knows": ""})
    np.testing.assert_array_equal(losses(), known)


def test_data_by_name_and_a_fit_that_fails_alone():
    with pm.Model() as model:
        x = pm.Data("x", np.zeros(3))
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Normal("y", mu + x, 1.0, observed=np.zeros(3))
    y = np.arange(12.0).reshape(4, 3) / 4
    x = np.full((4, 3), 0.5)
    y[1, 2] = np.nan
    with pytest.warns(vix.ConvergenceWarning, match=r"1 of 4 fits .* fits\[1\].*NaN occurred"):
        fits = vix.map(model, data={"x": x, "y": y}, random_seed=1, progressbar=False)
    reasons = [report.stop_reason.value for report in fits.reports]
    assert reasons == ["converged", "not finite", "converged", "converged"]
    for i in (0, 2, 3):
        [mean], [sd] = moments_of(fits[i])
        assert abs(mean - np.sum(y[i] - x[i]) / 4) < NEAR / 2
        assert abs(np.log(sd / 0.5)) < NEAR
        np.testing.assert_array_equal(fits[i].model["x"].get_value(), x[i])
    np.testing.assert_array_equal(model["x"].get_value(), np.zeros(3))  # the user's stays


@pytest.mark.parametrize("rounds", [1, 4])
def test_ctrl_c_loses_nothing_that_has_ended(monkeypatch, rounds):
    left = iter([False] * rounds)
    monkeypatch.setattr(side_by_side, "take", lambda: next(left, True))
    monkeypatch.setattr("pymc_vi_ext.mapping._WIDTH", 2)
    rows = np.arange(15.0).reshape(5, 3)
    steps = 2 * SLICE
    fits = vix.map(
        school(rows[0]), steps, data={"y": rows}, random_seed=1, convergence=None, progressbar=False
    )
    reports = fits.reports
    assert len(fits) == 5
    done = [report.stop_reason.value == "completed" for report in reports]
    assert all(
        report.steps == steps for report in reports if report.stop_reason.value == "completed"
    )
    assert [report.stop_reason.value for report in reports][-1] == "interrupted"
    assert any(done) == (rounds > 1)
    assert np.isfinite(fits[4].mean.eval()).all()


def with_more():
    model = school(np.zeros(4))
    with model:
        pm.Normal("more")
    return model


def bounded(upper):
    with pm.Model() as model:
        pm.Normal("x", default_transform=pm.distributions.transforms.Interval(0.0, upper))
    return model


def unnormalised(power):
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Potential("p", -(x**2) if power == 2 else -abs(x))
    return model


@pytest.mark.parametrize(
    ("models", "options", "says"),
    [
        ([], {}, "no models"),
        ([school(np.zeros(4)), with_more()], {}, "models.1. differs .*`more`"),
        ([bounded(1.0), bounded(2.0)], {}, "`x`, which is transformed in another way"),
        ([unnormalised(2), unnormalised(1)], {}, "`p`, which is computed in another way"),
        ([school(np.zeros(n)) for n in range(2, 12)], {}, "10 different shapes.* 8 at most"),
        (school(np.zeros(4)), {"data": {"z": np.zeros((2, 4))}}, "no data `z`: there are y"),
        (school(np.zeros(4)), {"data": {"y": np.zeros((2, 3))}}, r"\(2, 3\): .* \(sets, 4\)"),
        (school(np.zeros(4)), {"data": {}}, "not none"),
        ([school(np.zeros(4))], {"method": "svgd"}, "fits by advi or fullrank_advi"),
        ([school(np.zeros(4))], {"method": "adv"}, "adv"),
    ],
)
def test_what_cannot_be_fitted_side_by_side_is_said(models, options, says):
    with pytest.raises(ValueError, match=says):
        vix.map(models, progressbar=False, **options)


@pytest.mark.parametrize(
    ("models", "options", "says"),
    [
        (school(np.zeros(4)), {}, "give `data`"),
        ([school(np.zeros(4))], {"data": {"y": np.zeros((1, 4))}}, "leave it out"),
        ([school(np.zeros(4)), "school"], {}, r"models\[1\] is no pymc.Model but str"),
    ],
)
def test_what_are_no_models_is_said(models, options, says):
    with pytest.raises(TypeError, match=says):
        vix.map(models, progressbar=False, **options)


def test_only_what_differs_is_set():
    [alike] = groups_of([school(np.full(4, value)) for value in (1.0, 2.0)])
    assert [np.shape(value) for value in alike.values[0]] == [(4,)]
    assert [variable.name for variable in alike.template().model.free_RVs] == ["mu", "away"]
