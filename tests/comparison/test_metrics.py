"""The table of metrics: who reads it, and what becomes of a metric that cannot be computed."""

import io
import json

from pathlib import Path

import arviz_base as azb
import numpy as np
import pytest

from rich.console import Console

from flows.display import print_table
from pymc_vi_ext.comparison import METRICS, MethodResult, Metric, Status, summarise
from pymc_vi_ext.tracking import open_tracker, report_comparison

DOCS = Path(__file__).parents[2] / "docs" / "guides" / "comparisons.md"
COMPARED = [key for key in METRICS if key.startswith("compare/")]
# Of a single element, which has no correlation.
OF_ONE = [key for key in COMPARED if "correlation" not in key]
HEADINGS = ", ".join(METRICS[key].heading for key in COMPARED)
GOOD = np.random.default_rng(0).normal(size=(2, 100))
CONSTANT = np.ones((2, 100))
SINGLE = np.ones((1, 1))
ALL_NAN = np.full((2, 100), np.nan)
ONE_NAN = np.where(np.arange(100) == 3, np.nan, GOOD)
INFINITE = np.where(np.arange(100) == 3, np.inf, GOOD)


def sampler(draws, label="nuts", **fields):
    stats = {"diverging": np.zeros(np.shape(draws)[:2], bool)}
    dt = azb.from_dict({"posterior": {"x": draws}, "sample_stats": stats})
    return MethodResult(label, "nuts", 1, Status.FINISHED, datatree=dt, **fields)


def approximation(draws, label="advi", **fields):
    draws = np.asarray(draws)[:1]
    rng = np.random.default_rng(1)
    stats = {k: rng.normal(0, 0.1, draws.shape[:2]) for k in ("lp", "log_q")}
    dt = azb.from_dict({"posterior": {"x": draws}, "sample_stats": stats})
    return MethodResult(label, "advi", 1, Status.FINISHED, datatree=dt, **fields)


def rows(comparison):
    return comparison.table.reset_index().to_dict(orient="records")


def terminal(comparison, width=300):
    file = io.StringIO()
    print_table(Console(file=file, width=width), "title", rows(comparison))
    return file.getvalue()


def test_the_documentation_has_every_metric():
    lines = [
        "| metric | in the terminal | what it is |",
        "|---|---|---|",
        *(f"| `{m.key}` | {m.heading} | {m.caption} |" for m in METRICS.values()),
    ]
    table = "\n".join(lines)
    assert table in DOCS.read_text(encoding="utf-8"), f"docs/guides/comparisons.md needs\n{table}"


def test_keys_are_those_of_their_rows_and_headings_differ():
    assert all(key == metric.key for key, metric in METRICS.items())
    headings = [metric.heading for metric in METRICS.values() if metric.heading]
    assert len(set(headings)) == len(headings)


def test_a_metric_is_a_function_and_a_row(monkeypatch, tmp_path):
    def spread(scored):
        return float(scored.draws["posterior"]["x"].max()) if scored.draws else float("nan")

    row = Metric("toy/largest", spread, "largest", ".4f", "largest draw of x")
    monkeypatch.setitem(METRICS, row.key, row)
    comparison = summarise([sampler(GOOD), approximation(GOOD)], "nuts")
    largest = GOOD[:1].max()
    assert comparison.table.loc[("advi", 1), "toy/largest"] == largest
    shown = terminal(comparison)
    assert "largest: largest draw of x" in " ".join(shown.split())
    assert f"{largest:.4f}" in shown
    tracker = open_tracker(f"jsonl:{tmp_path}")
    execution = tracker.begin("toy", ["nuts", "advi"], {})
    report_comparison(tracker, execution, comparison)
    lines = (tmp_path / execution.children[1] / "events.jsonl").read_text().splitlines()
    assert largest in [e["value"] for e in map(json.loads, lines) if e.get("key") == "toy/largest"]


def test_the_terminal_shows_metrics_with_a_heading_in_their_order():
    shown = terminal(summarise([sampler(GOOD, sample_s=2.0)], "nuts"))
    heading = next(line for line in shown.splitlines() if "method" in line)
    assert heading.split("  ")[0].strip() == "method"
    places = [heading.index(m.heading) for m in METRICS.values() if m.heading]
    assert places == sorted(places)
    row = next(line for line in shown.splitlines() if line.strip().startswith("nuts"))
    assert row.split()[-1] == "2.0"


def test_the_run_takes_the_seconds_of_fit_and_draws():
    results = [
        sampler(GOOD, sample_s=2.0),
        approximation(GOOD, fit_s=0.5, sample_s=0.25),
        MethodResult("lost", "advi", 1, Status.FAILED),
    ]
    values = summarise(results, "nuts").table["time/run_s"]
    np.testing.assert_array_equal(values, [2.0, 0.75, np.nan, np.nan])


def test_what_the_draws_hold_decides_which_metrics_apply():
    # Whatever the method is called: chains have an R-hat, weights a k-hat.
    renamed = MethodResult("a", "advi", 1, Status.FINISHED, datatree=sampler(GOOD).datatree)
    one_chain = sampler(GOOD[:1], "one chain")
    weighted = approximation(GOOD, "b")
    table = summarise([renamed, one_chain, weighted], None).table
    assert table["diag/rhat_max"].isna().to_list() == [False, True, True]
    assert table["diag/ess_min"].isna().to_list() == [False, False, True]
    assert table["diag/khat"].isna().to_list() == [True, True, False]
    assert table["note"].to_list() == ["", "", ""]


@pytest.mark.parametrize(
    ("draws", "reason"),
    [
        (CONSTANT, "No element varies in the reference, so it gives no scale"),
        (SINGLE, "The reference has a single draw, which gives no scale"),
        (ALL_NAN, "No element of the reference has finite draws, so it gives no scale"),
        (ONE_NAN, "No element of the reference has finite draws, so it gives no scale"),
        (INFINITE, "No element of the reference has finite draws, so it gives no scale"),
    ],
)
def test_a_reference_without_a_scale_costs_only_the_distances(draws, reason):
    comparison = summarise([sampler(draws), approximation(GOOD)], "nuts")
    table = comparison.table
    assert table["status"].to_list() == ["FINISHED", "FINISHED"]
    assert table[COMPARED].isna().all(axis=None)
    assert "noise floor" not in table.index
    advi = table.loc[("advi", 1)]
    assert np.isfinite(advi[["diag/elbo", "diag/elbo_se", "diag/khat"]].astype(float)).all()
    assert advi["note"].endswith(f"{HEADINGS} not computed: {reason}")
    assert f"advi: {advi['note']}" in terminal(comparison)
    given = summarise([approximation(GOOD)], comparison.reference).table
    assert given.loc[("advi", 1), "note"] == advi["note"]


def test_a_single_draw_has_the_metrics_that_need_no_more():
    advi = summarise([sampler(GOOD), approximation(SINGLE)], "nuts").table.loc[("advi", 1)]
    known = ["diag/elbo", "compare/mean_error_sd_max", "compare/wasserstein_mean"]
    assert np.isfinite(advi[known].astype(float)).all()
    unknown = ["diag/elbo_se", "diag/khat", "compare/sd_ratio_worst", "compare/kde_overlap_min"]
    unknown += ["compare/correlation_error_max"]
    assert advi[unknown].isna().all()
    assert advi["note"] == (
        "diag/elbo_se not computed: A single draw has no standard error; "
        "k-hat not computed: k-hat needs the weights of at least 25 draws, not of 1; "
        "sd, corr, overlap not computed: A single draw has neither a standard deviation nor a "
        "density"
    )


def test_a_constant_result_is_the_worst_rather_than_unknown():
    advi = summarise([sampler(GOOD), approximation(CONSTANT)], "nuts").table.loc[("advi", 1)]
    assert advi["compare/sd_ratio_worst"] == pytest.approx(0, abs=1e-12)  # rounding
    assert advi["compare/kde_overlap_min"] == 0
    assert advi["note"] == ""


@pytest.mark.parametrize("draws", [ALL_NAN, ONE_NAN[:, ::-1], INFINITE])
def test_draws_that_are_not_finite_are_named(draws):
    table = summarise([sampler(GOOD), approximation(draws), sampler(draws, "other")], "nuts").table
    for label in ("advi", "other"):
        row = table.loc[(label, 1)]
        assert row[COMPARED].isna().all()
        assert row["note"].startswith("not finite: draws of x; ")
        assert "overlap not computed: No element that varies in the reference has" in row["note"]
    assert table.loc[("nuts", 1), OF_ONE].notna().all()


def test_elements_that_are_left_out_are_mentioned_where_the_others_are_measured():
    half = np.stack([GOOD, ALL_NAN], axis=-1)
    table = summarise([sampler(half), approximation(np.stack([GOOD, GOOD], -1))], "nuts").table
    assert table[OF_ONE].notna().all(axis=None)
    assert table.loc[("nuts", 1), "note"] == "reference; not finite: draws of x"
    assert table.loc[("advi", 1), "note"] == "not finite: x in the reference"


def test_weights_that_are_no_numbers_say_so():
    result = approximation(GOOD)
    result.datatree["sample_stats"]["lp"][0, 3] = np.nan
    row = summarise([result], None).table.loc[("advi", 1)]
    assert row[["diag/elbo", "diag/elbo_se"]].isna().all()
    assert row["diag/khat"] == np.inf
    assert row["note"].startswith("ELBO not computed: Log weights of the draws are NaN; diag/elbo_")


def test_a_metric_that_breaks_says_how_and_costs_no_other(monkeypatch):
    row = Metric("toy/broken", lambda scored: {}["k"], "", ".1f", "nothing")
    monkeypatch.setitem(METRICS, row.key, row)
    table = summarise([sampler(GOOD)], "nuts").table
    assert table.loc[("nuts", 1), "note"] == "reference; toy/broken not computed: KeyError: 'k'"
    assert table.loc[("nuts", 1), OF_ONE].notna().all()


@pytest.mark.parametrize("draws", [CONSTANT, SINGLE, ALL_NAN, INFINITE])
def test_results_that_cannot_be_measured_are_kept_by_a_tracker(draws, tmp_path):
    tracker = open_tracker(f"jsonl:{tmp_path}")
    execution = tracker.begin("faults", ["nuts", "advi"], {})
    report_comparison(tracker, execution, summarise([sampler(draws), approximation(draws)], "nuts"))
    for run in (*execution.children, execution.parent):
        last = (tmp_path / run / "events.jsonl").read_text().splitlines()[-1]
        assert json.loads(last) == {"event": "end", "status": "FINISHED"}
