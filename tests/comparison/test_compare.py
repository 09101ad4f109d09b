"""Running methods and scoring them."""

import subprocess
import sys

import arviz_base as azb
import numpy as np
import pymc as pm
import pytest

from pymc_vi_ext import comparison, zoo
from pymc_vi_ext.comparison import (
    METRICS,
    MethodResult,
    Status,
    compare,
    make_spec,
    run_method,
    runnable_names,
)
from pymc_vi_ext.comparison.storage import load_result, save_result

Y = np.random.default_rng(0).normal(1.0, 1.0, 10)
# mu ~ N(0, 1), y ~ N(mu, 1): mean sum(y) / 11, sd 1 / sqrt(11).
MEAN, SD = Y.sum() / 11, 1 / np.sqrt(11)


@pytest.fixture(scope="module")
def conjugate():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Deterministic("double", 2.0 * mu)
        pm.Normal("y", mu, 1.0, observed=Y)
    return model


@pytest.fixture(scope="module")
def finished(conjugate):
    methods = [
        {"name": "nuts", "sampler": "numpyro", "chains": 2, "tune": 500},
        {"name": "advi", "n": 5000, "convergence": None},
        {"name": "svgd", "n": 200, "n_particles": 100, "label": "particles"},
        {"name": "advi", "learning_rate": -1.0, "label": "broken"},
    ]
    return compare(conjugate, methods, seeds=[1, 2], draws=1000)


def result(label, draws, **fields):
    draws = np.asarray(draws)
    dt = azb.from_dict({"posterior": {"x": draws}})
    return MethodResult(label, "nuts", 1, Status.FINISHED, datatree=dt, **fields)


def test_the_table_has_every_run_and_every_metric(finished):
    table = finished.table
    labels = ["nuts", "advi", "particles", "broken"]
    runs = [(label, seed) for label in labels for seed in (1, 2)]
    assert list(table.index) == [*runs, ("noise floor", 0)]
    assert list(table.columns) == ["status", *METRICS, "note"]


def test_a_method_that_fails_leaves_the_others_finished(finished):
    assert finished.table["status"].to_list() == ["FINISHED"] * 6 + ["FAILED"] * 2 + [""]
    broken = finished.results[-1]
    assert "Traceback" in broken.error
    assert "`learning_rate` must be above 0" in broken.reason
    assert finished.table.loc[("broken", 1), "note"] == broken.reason
    assert set(finished.posteriors()) == {
        f"{label} (seed {seed})" for label in ("nuts", "advi", "particles") for seed in (1, 2)
    }


def test_what_a_fit_warns_of_is_in_its_note(finished):
    """Two hundred steps are too few for particles, and the row says so."""
    for seed in (1, 2):
        note = finished.table.loc[("particles", seed), "note"]
        assert note.startswith("The fit took all of its 200 steps before it converged (stage 1: ")
        assert finished.table.loc[("advi", seed), "note"] == ""


def test_scores_of_a_conjugate_posterior(finished):
    advi = finished.table.loc[("advi", 1)]
    # The family holds the posterior: the ELBO is the log evidence at every draw. Optimisation
    # leaves it short by less than .01 nats.
    cov = np.eye(10) + 1
    evidence = float(
        pm.logp(pm.MvNormal.dist(np.zeros(10), cov), Y).eval()  # y with mu integrated out
    )
    assert advi["diag/elbo"] == pytest.approx(evidence, abs=0.02)
    assert advi["fit/elbo"] == pytest.approx(evidence, abs=0.02)
    assert advi["diag/khat"] < 0.5
    assert advi["fit/steps"] == 5000
    # Means of 1000 draws and of a chain with at least 500 effective ones: sqrt(1/1000 + 1/500).
    assert advi["compare/mean_error_sd_max"] < 4 * 0.055
    assert 0.85 < advi["compare/sd_ratio_worst"] < 1.18
    assert advi["compare/kde_overlap_min"] > 0.85
    for result in finished.results[:4]:
        mu = result.datatree["posterior"]["mu"]
        assert float(mu.mean()) == pytest.approx(MEAN, abs=5 * 0.055 * SD)
        np.testing.assert_allclose(result.datatree["posterior"]["double"], 2 * mu)


def test_metrics_that_do_not_apply_are_nan(finished):
    table = finished.table
    assert table.loc[("nuts", 1), ["diag/khat", "fit/elbo", "time/fit_s"]].isna().all()
    assert table.loc[("advi", 1), ["diag/rhat_max", "diag/ess_min"]].isna().all()
    assert table.loc[("particles", 1), ["diag/khat", "diag/elbo", "fit/elbo"]].isna().all()
    # What it took until it failed is known.
    unknown = [key for key in METRICS if key != "fit/steps" and not key.startswith("time/")]
    assert table.loc[("broken", 1), unknown].isna().all()
    assert table.loc[("nuts", 1), "diag/rhat_max"] < 1.05
    assert table.loc[("nuts", 1), "diag/ess_min"] > 100


def test_the_reference_is_at_distance_zero_from_itself_and_seeds_differ(finished):
    assert finished.table.loc[("nuts", 1), "compare/wasserstein_mean"] == 0
    assert finished.table.loc[("nuts", 2), "compare/wasserstein_mean"] > 0
    assert finished.reference_name == "nuts (seed 1)"
    assert finished.table.loc[("nuts", 1), "note"].startswith("reference")


def test_figures_show_all_methods(finished):
    legend = finished.plot_kde().legends[0].get_texts()
    assert len(legend) == 6
    labels = [line.get_label() for line in finished.plot_elbo().axes[0].lines]
    assert sum("advi" in label for label in labels) == 2


def test_a_posterior_can_be_the_reference(conjugate):
    draws = np.random.default_rng(0).normal(MEAN, SD, (1, 4000))
    reference = azb.from_dict({"posterior": {"mu": draws}})
    c = compare(conjugate, [{"name": "advi", "n": 3000}], reference)
    # 1000 draws against 4000: .035 of an sd.
    assert c.table.loc[("advi", 1), "compare/mean_error_sd_max"] < 4 * 0.035
    assert set(c.posteriors()) == {"reference", "advi"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["nutz"]}, "Unknown method 'nutz': the known ones are advi, asvgd"),
        ({"methods": [{"name": "svgd", "n_particle": 3}]}, "no option 'n_particle': it takes n, c"),
        ({"methods": ["advi", "advi"], "reference": None}, "2 methods are called 'advi'"),
        ({"methods": ["advi"]}, "reference 'nuts' is none of the methods that run: advi"),
        ({"methods": []}, "at least one method"),
        ({"methods": ["nuts"], "seeds": [1, 1]}, "not all different"),
        ({"methods": [3]}, "A method is a name or a mapping"),
        (
            {"methods": ["advi"], "reference": "exact"},
            r"that run: advi. Exact .* zoo.exact\(name\)",
        ),
        ({"methods": [{"name": "nuts", "label": "noise floor"}]}, "is a row of every table"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(conjugate, arguments, message, monkeypatch):
    monkeypatch.setattr(comparison.runner, "run_method", lambda *a, **k: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=message):
        compare(conjugate, **arguments)


@pytest.mark.parametrize("sampler", ["pymc", "nutpie", "numpyro", "blackjax"])
def test_every_sampler_draws_from_the_posterior(conjugate, sampler):
    pytest.importorskip(sampler)
    spec = {"name": "nuts", "sampler": sampler, "chains": 2, "tune": 300}
    r = run_method(conjugate, spec, seed=3, draws=500)
    assert r.status is Status.FINISHED, r.error
    posterior = r.datatree["posterior"]
    assert posterior["mu"].shape == (2, 500)
    # At least 200 effective draws: standard errors .07 sd of the mean, 5 % of the sd.
    assert float(posterior["mu"].mean()) == pytest.approx(MEAN, abs=4 * 0.07 * SD)
    assert float(posterior["mu"].std()) == pytest.approx(SD, rel=0.2)
    np.testing.assert_allclose(posterior["double"], 2 * posterior["mu"])
    assert r.backend == sampler
    assert r.sample_s > 0
    assert r.compile_s >= 0


def test_blackjax_keeps_dims_coords_and_transforms():
    pytest.importorskip("blackjax")
    with pm.Model(coords={"k": ["p", "q"]}) as model:
        pm.HalfNormal("s", 1.0, dims="k")
    spec = {"name": "nuts", "sampler": "blackjax", "chains": 2, "tune": 300}
    r = run_method(model, spec, seed=3, draws=500)
    s = r.datatree["posterior"]["s"]
    assert s.dims == ("chain", "draw", "k")
    assert list(s.k.values) == ["p", "q"]
    # Half normal: mean sqrt(2/pi); at least 200 effective draws of sd .6.
    np.testing.assert_allclose(s.mean(("chain", "draw")), np.sqrt(2 / np.pi), atol=4 * 0.6 / 14)


def test_the_seed_decides_the_draws(conjugate):
    spec = make_spec({"name": "advi", "n": 500})
    first, again, other = (run_method(conjugate, spec, s, 50) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.losses, again.losses)
    np.testing.assert_array_equal(
        first.datatree["posterior"]["mu"], again.datatree["posterior"]["mu"]
    )
    assert (first.losses != other.losses).any()


def test_a_sampler_that_is_missing_names_the_extra(conjugate, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    r = run_method(conjugate, {"name": "nuts", "sampler": "nutpie"}, 1)
    assert r.status is Status.FAILED
    assert r.reason == (
        "ImportError: The NUTS sampler 'nutpie' is not installed: "
        "pip install 'pymc-vi-ext[samplers]'."
    )


def test_a_failed_fit_keeps_its_losses_and_says_what_it_took():
    r = run_method(zoo.build("gamma", n=20), {"name": "advi", "learning_rate": 1e6}, 1)
    assert r.status is Status.FAILED
    assert r.losses.size > 0
    assert r.compile_s > 0
    assert r.fit_s > 0


def test_a_result_survives_the_disk(finished, tmp_path):
    pytest.importorskip("h5netcdf")
    for number, r in enumerate([finished.results[0], finished.results[2], finished.results[-1]]):
        back = load_result(save_result(r, tmp_path / str(number)))
        assert (back.label, back.seed, back.status, back.error) == (
            r.label, r.seed, r.status, r.error,
        )  # fmt: skip
        assert back.options == r.options
        np.testing.assert_array_equal(back.losses, r.losses)
        if r.datatree is None:
            assert back.datatree is None
        else:
            assert back.datatree["posterior"].equals(r.datatree["posterior"])
        assert not list((tmp_path / str(number)).glob("*.pkl"))


def test_every_method_has_options_with_defaults():
    for name in runnable_names():
        # Peers without steps have none.
        without = ("extras_dadvi", "extras_laplace", "extras_pathfinder")
        assert bool(make_spec(name).all_options) == (name not in without)


def test_importing_the_comparison_stays_light():
    heavy = "{'jax', 'mlflow', 'prefect', 'matplotlib', 'plotly', 'pydantic', 'sklearn'}"
    modules = "comparison, diagnostics, plots, tracking, zoo"
    code = f"import sys; from pymc_vi_ext import {modules}; print(*({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.split() == []


@pytest.fixture(scope="module")
def bimodal():
    methods = ["auto", {"name": "advi", "correct": True}, {"name": "advi", "label": "alone"}]
    return compare(zoo.build("mixture"), methods, reference="auto")


def test_chains_that_jump_are_a_reference(bimodal):
    """.2 N(-.3, .1) + .8 N(.5, .1): chains from two fits agree; the fit alone does not."""
    table = bimodal.table.droplevel("seed")
    assert bimodal.reference.attrs["verdict"] == "PASS"
    assert abs(float(bimodal.reference["posterior"]["x"].mean()) - 0.34) < 4 * 0.335 / np.sqrt(
        1_000
    )
    assert table.loc["advi", "note"] == "PASS"
    # Both are worth 1,000 draws at least.
    assert table.loc["advi", "compare/mean_error_sd_max"] < 4 * np.sqrt(2 / 1_000)
    # Of the 16 draws of a chain that are kept: nested R-hat of fewer has more noise.
    assert table.loc["advi", "diag/rhat_max"] < 1.03
    assert table.loc["alone", "compare/mean_error_sd_max"] > 0.3
