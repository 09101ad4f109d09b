"""What distances are measured to, what may not be called a reference, and the noise floor."""

import io
import json

import arviz_base as azb
import numpy as np
import pymc as pm
import pytest
import xarray as xr

from rich.console import Console

from flows.display import print_table
from pymc_vi_ext import comparison, zoo
from pymc_vi_ext.comparison import (
    METRICS,
    MethodResult,
    ReferenceWarning,
    Status,
    compare,
    summarise,
)
from pymc_vi_ext.comparison.noise import noise_floor
from pymc_vi_ext.tracking import open_tracker, report_comparison

COMPARED = [key for key in METRICS if key.startswith("compare/")]
OF_MOMENTS = ["compare/mean_error_sd_max", "compare/sd_ratio_worst"]


def tree(seed=0, chains=4, draws=500, shift=0.0, **attrs):
    """Draws of N(0, I) in three dimensions; `shift` moves the chains apart."""
    x = np.random.default_rng(seed).normal(size=(chains, draws, 3))
    x += shift * np.arange(chains)[:, None, None]
    found = azb.from_dict({"posterior": {"x": x}})
    found.attrs |= attrs
    return found


def run(label, datatree, status=Status.FINISHED, **fields):
    return MethodResult(label, label, 1, status, datatree=datatree, **fields)


OTHER = run("other", tree(1, chains=1))
FAILED = run("nuts", None, Status.FAILED, reason="it rained", error="...")

UNSOUND = {
    "chains that disagree": (run("nuts", tree(shift=5.0)), r"R-hat [\d.]+ > 1.01, its chains"),
    "a verdict": (run("nuts", tree(verdict="WARN")), "its verdict is WARN"),
    "an interrupt": (run("nuts", tree(), Status.INTERRUPTED), "it was interrupted"),
    "a fit that warned": (
        run("nuts", tree(chains=1), warnings=["It took all steps. Take more."]),
        "It took all steps",
    ),
    "a failure": (FAILED, "it failed"),
    "an early interrupt": (
        run("nuts", None, Status.INTERRUPTED),
        "it was interrupted before it had draws",
    ),
}


@pytest.fixture(params=UNSOUND)
def unsound(request):
    """Return a comparison whose reference is none, and why."""
    result, problem = UNSOUND[request.param]
    with pytest.warns(ReferenceWarning, match=rf"'nuts' has not converged \({problem}.*\), so it"):
        return summarise([result, OTHER], "nuts"), problem


def test_nothing_is_measured_to_what_has_not_converged(unsound):
    found, _ = unsound
    assert found.table[COMPARED].isna().all(axis=None)
    assert "noise floor" not in found.table.index
    assert (found.reference, found.reference_name) == (None, "")
    assert found.noise_floor == {}


def test_what_has_not_converged_is_called_no_reference_anywhere(unsound, tmp_path):
    found, _ = unsound
    file = io.StringIO()
    rows = found.table.reset_index().to_dict(orient="records")
    print_table(Console(file=file, width=300), "title", rows)
    other = "no distances: 'nuts' has not converged"
    assert found.table.loc[("other", 1), "note"] == other
    assert f"other: {other}" in file.getvalue()
    assert "nuts: reference" not in file.getvalue()
    legend = [text.get_text() for text in found.plot_kde().legends[0].get_texts()]
    assert "reference" not in " ".join(legend)
    tracker = open_tracker(f"jsonl:{tmp_path}")
    execution = tracker.begin("unsound", ["nuts", "other"], {})
    report_comparison(tracker, execution, found)
    child = tmp_path / execution.children[1]
    events = [json.loads(line) for line in (child / "events.jsonl").read_text().splitlines()]
    logged = {e["key"]: e["value"] for e in events if e["event"] == "metric"}
    assert {logged[key] for key in COMPARED} == {"NaN"}
    assert other in (child / "files" / "note.md").read_text()


@pytest.mark.parametrize("kind", ["chains that disagree", "a verdict"])
def test_given_draws_that_have_not_converged_are_no_reference(kind):
    result, problem = UNSOUND[kind]
    with pytest.warns(ReferenceWarning, match=rf"'reference' has not converged \({problem}"):
        found = summarise([OTHER], result.datatree)
    assert found.table[COMPARED].isna().all(axis=None)
    assert set(found.posteriors()) == {"other"}


def test_a_verdict_counts_more_than_rhat_and_warnings_of_the_fit():
    """Nested R-hat of the few draws that are kept has noise; a correction judges all of them."""
    result = run("auto", tree(shift=0.1, verdict="PASS"), warnings=["The fit did not converge."])
    found = summarise([result, OTHER], "auto")
    assert found.table.loc[("other", 1), COMPARED].notna().all()


Y = np.random.default_rng(0).normal(1.0, 1.0, 10)
MEAN, SD = Y.sum() / 11, 1 / np.sqrt(11)


@pytest.fixture(scope="module")
def conjugate():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Normal("b", mu, 1.0, shape=2)
        pm.Deterministic("double", 2.0 * mu)
        pm.Normal("y", mu, 1.0, observed=Y)
    return model


def draws_of(**values):
    return azb.from_dict({"posterior": values}, check_conventions=False)


NORMAL = np.random.default_rng(0).normal(size=(2, 50))
BAD = {
    "no posterior": (
        xr.DataTree.from_dict({"prior": xr.Dataset()}),
        "no group /posterior; its groups: /prior",
    ),
    "no variable": (draws_of(z=NORMAL), "no variable of the model: it has z, the model mu, b, dou"),
    "shape": (
        draws_of(mu=NORMAL[..., None]),
        r"'mu' has shape \(1,\) in the reference, but \(\) in the model",
    ),
    "no chains": (
        xr.DataTree.from_dict({"posterior": xr.Dataset({"mu": ("draw", NORMAL[0])})}),
        "'mu' has no dim 'chain'",
    ),
    "empty": (draws_of(mu=NORMAL[:, :0]), "no draws of 'mu': its /posterior is empty"),
    "not finite": (draws_of(mu=np.nan * NORMAL), "No element of 'mu' has finite draws"),
    "single": (draws_of(mu=NORMAL[:1, :1]), "/posterior of the reference has a single draw"),
    "neither": (3, "A reference is a label, a DataTree, a Dataset, or a mapping .*, not int"),
    "a number": ({"mu": 1.0}, "no `mean` and `sd` of 'mu'"),
    "no sd": ({"mu": {"mean": 1.0}}, "no `mean` and `sd` of 'mu'"),
    "sd 0": ({"mu": {"mean": 1.0, "sd": 0.0}}, "standard deviation of 'mu' .* is 0: it must be"),
    "sd below 0": (
        {"b": {"mean": [0.0, 0.0], "sd": [1.0, -2.0]}},
        "standard deviation of 'b' in the reference is -2: it must be above 0",
    ),
    "sd of another shape": ({"mu": {"mean": 1.0, "sd": [1.0]}}, r"shape \(\) of 'mu', and an sd"),
    "moments of another shape": (
        {"b": {"mean": 1.0, "sd": 1.0}},
        r"'b' has shape \(\) in the reference, but \(2,\) in the model",
    ),
    "moments that are NaN": (
        {"mu": {"mean": np.nan, "sd": 1.0}},
        "No element of 'mu' has finite moments",
    ),
    "a Dataset of neither": (xr.Dataset({"mu": 1.0}), "need a dim 'moment' with the coords 'mean'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_reference_is_refused_before_anything_runs(conjugate, case, monkeypatch):
    reference, message = BAD[case]
    monkeypatch.setattr(comparison.runner, "run_method", lambda *a, **k: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=message) as error:
        compare(conjugate, ["advi"], reference)
    assert "\n" not in str(error.value)


def moments_dataset():
    mean = xr.DataArray([MEAN, SD], dims="moment", coords={"moment": ["mean", "sd"]})
    return xr.Dataset({"mu": mean, "double": 2 * mean})


MOMENTS = {
    "mapping": {"mu": {"mean": MEAN, "sd": SD}, "double": {"mean": 2 * MEAN, "sd": 2 * SD}},
    "dataset": moments_dataset(),
}


@pytest.mark.parametrize("form", MOMENTS)
def test_moments_tell_of_means_and_sds_alone(form):
    draws = MEAN + SD + 0.5 * SD * np.random.default_rng(0).normal(size=(1, 4_000))
    found = summarise([run("advi", draws_of(mu=draws, double=2 * draws))], MOMENTS[form])
    row = found.table.loc[("advi", 1)]
    # Exact moments: the draws' own standard errors, .5 / sqrt(4000) and .5 / sqrt(8000), remain.
    assert row["compare/mean_error_sd_max"] == pytest.approx(1, abs=4 * 0.5 / np.sqrt(4_000))
    assert row["compare/sd_ratio_worst"] == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(8_000))
    assert row[[key for key in COMPARED if key not in OF_MOMENTS]].isna().all()
    assert row["note"] == ""
    assert found.table.index.to_list() == [("advi", 1)]
    assert set(found.posteriors()) == {"advi"}


def test_elements_without_moments_are_left_out_and_named():
    moments = {"x": {"mean": [0.0, np.nan, 0.0], "sd": np.ones(3)}}
    row = summarise([OTHER], moments).table.loc[("other", 1)]
    assert row[OF_MOMENTS].notna().all()
    assert row["note"] == "not finite: x in the reference"


def test_a_dataset_of_draws_is_a_reference():
    found = summarise([OTHER], tree()["posterior"].to_dataset())
    assert found.table.loc[("other", 1), COMPARED].notna().all()


def test_exact_draws_are_a_reference_with_a_name():
    draws = zoo.exact("mixture", 4_000, random_seed=5)
    found = summarise([run("sampler", draws)], zoo.exact("mixture"))
    assert found.reference_name == "exact"
    assert list(found.posteriors()) == ["exact", "sampler"]
    # sqrt(1/4000 + 1/10000) of a standard deviation, the largest of three correlated ones.
    assert found.table.loc[("sampler", 1), "compare/mean_error_sd_max"] < 4 * 0.0188


# Of as many draws as `n` against `rest`, all independent: standard errors of a mean and of the
# logarithm of an sd, in sds.
def errors(n, rest):
    return np.sqrt(1 / n + 1 / rest), np.sqrt(0.5 / n + 0.5 / rest)


def test_the_noise_floor_is_what_independent_draws_are_off_by():
    scores, draws = noise_floor(tree(chains=1, draws=4_000), 1_000)
    assert draws == 1_000
    of_mean, of_sd = errors(1_000, 3_000)
    # The middle of 15 maxima of three: nearly sure to lie within a factor of 3 of their scale.
    assert of_mean / 2 < scores["compare/mean_error_sd_max"] < 3 * of_mean
    assert of_sd / 2 < abs(np.log(scores["compare/sd_ratio_worst"])) < 3 * of_sd
    assert 0.9 < scores["compare/kde_overlap_min"] < 1
    assert all(np.isfinite(value) for value in scores.values())


def test_the_noise_floor_of_slow_chains_is_that_of_their_effective_draws():
    """AR(1) with coefficient .95: 1 / 39 of the draws are effective."""
    noise = np.random.default_rng(0).normal(size=(4, 4_000))
    x = np.zeros((4, 4_000))
    for i in range(1, 4_000):
        x[:, i] = 0.95 * x[:, i - 1] + noise[:, i]
    scores, draws = noise_floor(draws_of(x=x), 4_000)
    # 16,000 / 39 / 2 are 205; the estimate of effective draws has a relative error of some 20 %.
    assert 120 < draws < 330
    of_mean, _ = errors(draws, draws)
    assert of_mean / 5 < scores["compare/mean_error_sd_max"] < 3 * of_mean


def test_the_noise_floor_is_a_row_that_names_its_draws():
    found = summarise([run("nuts", tree()), OTHER], "nuts")
    row = found.table.loc[("noise floor", 0)]
    assert row["note"] == "what 500 draws of the reference 'nuts' are off by"
    assert row["status"] == ""
    assert row[[key for key in METRICS if key not in COMPARED]].isna().all()
    assert found.noise_floor == {key: row[key] for key in COMPARED}
    # The other's draws are of the same distribution, so it is no further off than by chance.
    other = found.table.loc[("other", 1)]
    assert other["compare/mean_error_sd_max"] < 4 * row["compare/mean_error_sd_max"]


@pytest.mark.parametrize("results", [[run("nuts", tree())], [run("nuts", tree()), FAILED]])
def test_without_another_method_there_is_no_noise_floor(results):
    assert "noise floor" not in summarise(results[:1], "nuts").table.index


def test_trackers_have_the_noise_floor_with_the_execution(tmp_path):
    found = summarise([run("nuts", tree()), OTHER], "nuts")
    tracker = open_tracker(f"jsonl:{tmp_path}")
    execution = tracker.begin("floor", ["nuts", "other"], {})
    report_comparison(tracker, execution, found)

    def metrics(run_id):
        lines = (tmp_path / run_id / "events.jsonl").read_text().splitlines()
        return {e["key"]: e["value"] for e in map(json.loads, lines) if e["event"] == "metric"}

    floor = {key.replace("compare/", "noise_floor/"): v for key, v in found.noise_floor.items()}
    assert floor.items() <= metrics(execution.parent).items()
    assert [set(metrics(child)) for child in execution.children] == [set(METRICS)] * 2


def test_a_given_reference_never_takes_the_name_of_a_method():
    reference = tree(2)
    reference.name = "other"
    found = summarise([OTHER], reference)
    assert found.reference_name == "other (given)"
    assert list(found.posteriors()) == ["other (given)", "other"]
