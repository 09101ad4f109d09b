"""What a person reads first: note, page, headlines, outcomes, the model and its data."""

import json
import os
import re
import subprocess

from html.parser import HTMLParser
from pathlib import Path

import arviz_base as azb
import numpy as np
import pymc as pm
import pytest

from pymc_vi_ext.comparison import MethodResult, Status, summarise
from pymc_vi_ext.comparison.outcomes import Outcome, outcome_of
from pymc_vi_ext.tracking import About, environment, open_tracker, report_comparison, report_model
from pymc_vi_ext.tracking.headlines import headline_metrics, headline_tags, headlines
from pymc_vi_ext.tracking.keys import keys_of
from pymc_vi_ext.tracking.notes import comparison_note, result_note
from pymc_vi_ext.tracking.page import report_page

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

ABOUT = About("a <b> title", "gamma", "/x/gamma.yaml", "pymc-vi compare gamma.yaml")


def draws(seed, chains=1, shift=0.0, **stats):
    rng = np.random.default_rng(seed)
    groups = {"posterior": {"x": rng.normal(shift, size=(chains, 300))}}
    if chains > 1:
        stats = {"diverging": np.zeros((chains, 300), bool), **stats}
    if stats:
        groups["sample_stats"] = stats
    return azb.from_dict(groups)


def finished(label, seed, tree, **fields):
    return MethodResult(label, "advi", seed, Status.FINISHED, datatree=tree, **fields)


@pytest.fixture(scope="module")
def comparison():
    apart = draws(3, 4)
    apart["posterior"]["x"].values[0] += 5
    diverging = np.zeros((4, 300), bool)
    diverging[0, :7] = True
    weights = {"lp": np.zeros((1, 300)), "log_q": np.random.default_rng(0).normal(size=(1, 300))}
    results = [
        finished("exact | *draws*", 1, draws(1, 4, diverging=diverging), compile_s=1.0, fit_s=2.0),
        finished("exact | *draws*", 2, draws(2, 4), compile_s=2.0, fit_s=4.0),
        finished("apart", 1, apart),
        finished("apart", 2, draws(9, 4)),
        finished(
            "advi", 1, draws(4, 1, 0.5, **weights), losses=np.arange(200.0), steps=200,
            stop_reason="converged", began=0.0, seconds=12.5,
        ),
        finished(
            "advi", 2, draws(5, 1, 0.5, **weights), losses=np.arange(100.0), steps=100,
            stop_reason="completed", options={"convergence": "default"},
            warnings=("The fit took all of its 100 steps before it converged. Raise `n`.",),
        ),
        MethodResult("broken", "advi", 1, Status.FAILED, reason="ValueError: a|b", error="<x>"),
        MethodResult("broken", "advi", 2, Status.NOT_RUN, reason="not run"),
    ]  # fmt: skip
    return summarise(results, "exact | *draws*")


def result(status=Status.FINISHED, tree=None, **fields):
    tree = draws(1) if tree is None and status is Status.FINISHED else tree
    return MethodResult("a", "advi", 1, status, datatree=tree, **fields)


def judged(verdict, chains=1):
    tree = draws(1, chains)
    tree.attrs["verdict"] = verdict
    return tree


DEFAULT = {"convergence": "default"}


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (result(stop_reason="converged", steps=9, options=DEFAULT), Outcome.CONVERGED),
        (result(stop_reason="completed", steps=9, options=DEFAULT), Outcome.NOT_CONVERGED),
        (result(stop_reason="stopped", steps=9, options=DEFAULT), Outcome.NOT_CONVERGED),
        (
            result(stop_reason="completed", steps=9, options={"convergence": None}),
            Outcome.FIXED,
        ),
        (result(steps=9), Outcome.FIXED),  # of another library, which judges nothing
        (result(stop_reason="completed", options=DEFAULT), Outcome.COMPUTED),
        (result(tree=draws(1, 4)), Outcome.SAMPLED),
        (result(tree=judged("PASS", 4)), Outcome.CONVERGED),
        (result(tree=judged("WARN")), Outcome.NOT_CONVERGED),
        (result(Status.FAILED), Outcome.FAILED),
        (result(Status.INTERRUPTED, draws(1)), Outcome.INTERRUPTED),
        (result(Status.NOT_RUN), Outcome.NOT_RUN),
    ],
)
def test_outcomes_tell_fits_apart_that_all_finished(found, outcome):
    assert outcome_of(found)[0] is outcome


def test_chains_that_disagree_did_not_converge(comparison):
    outcome, reason = outcome_of(comparison.results[2])
    assert outcome is Outcome.NOT_CONVERGED
    assert "R-hat" in reason


def test_headlines_are_medians_over_seeds(comparison):
    metrics = headline_metrics(comparison)
    table = comparison.table
    both = [table.loc[("advi", seed), "compare/mean_error_sd_max"] for seed in (1, 2)]
    assert metrics["error/advi"] == pytest.approx(np.median(both))
    assert metrics["seconds/exact _ _draws_"] == pytest.approx(4.5)
    assert metrics["divergences/exact _ _draws_"] == 3.5
    assert metrics["warnings/advi"] == 0.5
    assert "error/broken" not in metrics
    assert np.isfinite(list(metrics.values())).all()
    assert headline_tags(comparison)["outcome/advi"] == "1 converged, 1 did not converge"
    assert headline_tags(comparison)["outcome/broken"] == "1 failed, 1 not run"
    assert [headline.label for headline in headlines(comparison)][-1] == "noise floor"


def test_a_note_says_what_came_out_and_what_went_wrong(comparison):
    note = comparison_note(comparison, ABOUT)
    assert note.startswith("4 methods on the model gamma, each with 2 seeds")
    rows = re.findall(
        r"^\| ([^|]+?) \|.*\|$", note.replace(r"\|", "/").replace("&emsp;", ""), flags=re.MULTILINE
    )
    assert rows == ["method", "---", r"exact / \*draws\*", "apart", "advi", "broken", "noise floor"]
    assert (
        len({line.replace(r"\|", "").count("|") for line in note.splitlines() if line[:1] == "|"})
        == 1
    )
    assert re.search(r"\*\*Did not converge\*\*\n\n- \*\*apart \(seed 1\)\*\*: R-hat", note)
    assert r"- **broken (seed 1)**: ValueError: a\|b" in note
    assert "```\npymc-vi compare gamma.yaml\n```" in note


def test_a_note_fits_where_mlflow_keeps_it():
    many = [
        MethodResult(f"method {k}", "advi", 1, Status.FAILED, reason="x" * 5000) for k in range(200)
    ]
    assert len(comparison_note(summarise(many, None), ABOUT)) < 8000
    assert len(result_note(many[0], "y" * 5000)) < 8000
    traceback = MethodResult("a", "advi", 1, Status.FAILED, reason="z", error="```\n" * 5000)
    assert len(result_note(traceback, "")) < 8000


class Requests(HTMLParser):
    """All addresses that a page would ask for, and its tags."""

    def __init__(self):
        super().__init__()
        self.addresses, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in {"src", "href", "srcset", "action"}]


def test_a_page_is_all_there_and_shows_what_it_is_given_as_text(comparison):
    image = np.zeros((4, 5, 3), np.uint8)
    page = report_page("a <b> title", comparison, ABOUT, {"Densities": image})
    parsed = Requests()
    parsed.feed(page)
    assert len(parsed.addresses) == 1
    assert parsed.addresses[0].startswith("data:image/png;base64,")
    assert "url(" not in page
    assert "script" not in parsed.tags
    assert "b" not in parsed.tags
    assert "a &lt;b&gt; title" in page
    assert "pymc-vi compare gamma.yaml" in page
    assert "did not converge: R-hat" in page
    for metric in comparison.table.columns:
        assert metric in {"status", "note"} or f">{metric}<" in page


def test_keys_are_what_trackers_take_and_differ():
    names = ["a", "a/b", "..", ".", "", "μ", "λ", "x" * 400, "a b", "a_b"]
    keys = keys_of(names)
    assert len(set(keys.values())) == len(names)
    for key in keys.values():
        assert re.fullmatch(r"[A-Za-z0-9_\-. ]{1,110}", key)
        assert key.strip(".")
    assert keys_of(["theta [1]"]) == {"theta [1]": "theta _1_"}


@pytest.fixture(params=["sqlite:///{}/mlflow.db", "jsonl:{}/lines"])
def uri(request, tmp_path):
    return request.param.format(tmp_path)


def test_the_execution_has_the_traces_of_all_and_children_their_duration(comparison, uri):
    tracker = open_tracker(uri)
    names = [f"{r.label} seed {r.seed}" for r in comparison.results]
    execution = tracker.begin("a", names, ABOUT.tags())
    report_comparison(tracker, execution, comparison, ABOUT)
    if uri.startswith("sqlite"):
        from mlflow import MlflowClient

        client = MlflowClient(tracker.tracking_uri)
        points = client.get_metric_history(execution.parent, "elbo/advi _seed 1_")
        trace = {point.step: point.value for point in points}
        info = client.get_run(execution.children[4]).info
        seconds = (info.end_time - info.start_time) / 1000
    else:
        folder = uri.removeprefix("jsonl:")
        parent, child = (
            list(map(json.loads, Path(folder, run, "events.jsonl").read_text().splitlines()))
            for run in (execution.parent, execution.children[4])
        )
        trace = {e["step"]: e["value"] for e in parent if e.get("key") == "elbo/advi _seed 1_"}
        seconds = next(e["seconds"] for e in child if e["event"] == "end")
    assert seconds == 12.5
    # The first steps are points of their own.
    assert [trace[step] for step in range(1, 41)] == [-float(k) for k in range(40)]
    assert max(trace) == 200


def test_a_model_is_recorded_with_its_data(tmp_path):
    with pm.Model() as model:
        mu = pm.Normal("mu")
        pm.Normal("y", mu, observed=np.array([[1.0, 2.0]]))
    tracker = open_tracker(f"jsonl:{tmp_path}")
    execution = tracker.begin("a", ["b"], {})
    for _ in range(2):
        report_model(tracker, [execution.parent, *execution.children], model, "mine")
    files = tmp_path / execution.parent / "files"
    assert "mu ~ Normal(0, 1)" in (files / "model.txt").read_text()
    for run in (execution.parent, *execution.children):
        lines = (tmp_path / run / "events.jsonl").read_text().splitlines()
        [event] = [e for e in map(json.loads, lines) if e["event"] == "data"]
        assert event["variables"] == {"y": {"type": "float64", "shape": [1, 2]}}
        assert event["name"] == "mine"
        assert len(event["digest"]) == 16


def test_a_graph_that_cannot_be_drawn_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no program `dot`
    with pm.Model() as model:
        pm.Normal("mu")
    tracker = open_tracker(f"jsonl:{tmp_path}/lines")
    run = tracker.begin("a", [], {}).parent
    report_model(tracker, [run], model, "mine")
    text = (tmp_path / "lines" / run / "files" / "model.txt").read_text()
    assert "could not be drawn: ExecutableNotFound" in text


def test_the_commit_is_that_of_the_checkout_of_the_source(tmp_path):
    def git(*arguments):
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        run = ["git", "-C", str(tmp_path), *names, *arguments]
        return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()

    source = tmp_path / "gamma.yaml"
    source.write_text("name: a")
    assert "commit" not in About("a", "b", str(source)).tags()
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    tags = About("a", "b", str(source)).tags()
    assert tags["commit"] == git("rev-parse", "HEAD")
    assert (tags["model"], tags["source"]) == ("b", str(source))
    (tmp_path / ".gitignore").write_text("venv")
    (tmp_path / "venv").mkdir()
    assert "commit" not in About("a", "b", str(tmp_path / "venv" / "x.yaml")).tags()


def test_the_environment_names_versions():
    text = environment()
    assert f"pymc=={pm.__version__}" in text
    assert text.startswith("# Python 3.")
