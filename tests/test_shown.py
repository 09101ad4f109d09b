"""What reports, diagnoses and comparisons print, and where warnings point."""

import ast
import io
import re
import threading
import warnings

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pymc as pm
import pytest

from pytensor.gradient import disconnected_grad
from rich.console import Console

import pymc_vi_ext as vix

from flows.display import print_table
from pymc_vi_ext._show import ShortTable, seconds_shown, shown
from pymc_vi_ext.callbacks import Checkpoint, Tracker
from pymc_vi_ext.comparison import MethodResult, Status, summarise
from pymc_vi_ext.diagnostics import Check, Diagnosis, Verdict
from pymc_vi_ext.results import FitReport, StopReason, Timings

PACKAGE = Path(vix.__file__).parent
QUIET = {"random_seed": 1, "progressbar": False}


class Page(HTMLParser):
    """Rows of tables, the tags, and all that is no table."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.rest = [], [], ""
        self._in_cell = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self.rows[-1][-1] += data
        else:
            self.rest += data


def gaussian():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Normal("y", mu, 1.0, observed=[0.7, 1.5, 1.0])
    return model


def report(**fields):
    """A report as `vix.fit` makes it, without a fit."""
    common = {
        "stop_reason": StopReason.CONVERGED,
        "stopped_by": "StagedStop",
        "steps": 12_300,
        "evidence": "the gain was small",
        "timings": Timings(0.5, 0.01, 2.0, 1.2),
        "backend": "jax",
        "seed": 1,
        "versions": {},
        "loss": "negative ELBO",
        "mean_loss": 1234.5678,
        "khat": 0.123,
        "method": "advi",
        "rule": "StagedStop",
    }
    return FitReport(**{**common, **fields})


def test_a_report_prints_as_a_short_table():
    assert str(report()).splitlines() == [
        "advi converged",
        "steps      12,300",
        "mean loss  1,234.6 (negative ELBO)",
        "evidence   the gain was small",
        "k-hat      0.12",
        "backend    jax",
        "time       3.7 s: construction 0.5, compilation 2.0, steps 1.2",
    ]


def test_a_report_of_a_fit_is_that_in_notebooks_too():
    with gaussian():
        approx = vix.fit(50, convergence=None, **QUIET)
    page = Page(approx.report._repr_html_())
    lines = str(approx.report).splitlines()
    assert lines[0] == page.rest == "advi completed"
    assert page.rows[0] == ["steps", "50"]
    assert [re.sub(r" {2,}", "|", line) for line in lines[1:]] == ["|".join(r) for r in page.rows]
    assert repr(approx.report).startswith("FitReport(stop_reason=<StopReason.COMPLETED")


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, "converged"),
        ({"stop_reason": StopReason.COMPLETED}, "did not converge"),
        ({"stop_reason": StopReason.COMPLETED, "rule": ""}, "completed"),
        ({"stop_reason": StopReason.COMPLETED, "steps": 0}, "computed"),
        ({"stop_reason": StopReason.STOPPED}, "did not converge"),
        ({"stop_reason": StopReason.STOPPED, "stopped_by": "WallTime"}, "stopped by WallTime"),
        ({"stop_reason": StopReason.INTERRUPTED, "stopped_by": None}, "interrupted"),
        ({"stop_reason": StopReason.NOT_FINITE, "stopped_by": None}, "ended with NaN"),
        ({"stop_reason": StopReason.FAILED, "stopped_by": "Mine"}, "failed in Mine"),
        ({"stop_reason": StopReason.FAILED, "stopped_by": None}, "failed"),
    ],
)
def test_outcomes_in_words(fields, outcome):
    assert report(**fields).outcome == outcome


def test_a_corrected_report_has_all_that_was_done():
    with gaussian():
        found = vix.fit(method="auto", **QUIET).report
    lines = str(found).splitlines()
    assert lines[0] == f"auto {found.verdict.value} by {found.stopped_by}"
    assert [line.startswith("ran ") for line in lines].count(True) == len(found.rungs) == 2
    # Its evidence is the judgement of its draws, once.
    assert any(line.split()[:2] == ["evidence", f"{found.verdict.value}:"] for line in lines)
    assert "correction" not in str(found)


def test_a_correction_is_told_beside_the_evidence_of_its_fit():
    with gaussian():
        approx = vix.fit(**QUIET)
        vix.correct(approx, **QUIET)
    found = approx.report
    lines = str(found).splitlines()
    assert any(line.startswith(f"correction  {found.verdict.value}: ") for line in lines)


def test_warnings_are_in_the_table():
    found = str(report(warnings=("It took all steps. Take more.",)))
    assert found.endswith("warning    It took all steps. Take more.")


def test_long_texts_fold_under_themselves():
    lines = str(report(evidence="word " * 60)).splitlines()
    assert max(map(len, lines)) <= 100
    start = lines[3].index("word")
    assert all(line[:start].strip() in ("", "evidence") for line in lines[3:6])


FOUND = Diagnosis(
    (
        Check("R-hat", 1.2345678, "< 1.01", Verdict.FAIL, "Draw <longer> & more."),
        Check("divergences", "0 of 4,000", "", Verdict.PASS),
    ),
    "Not looked for: [modes].",
)


def test_a_diagnosis_is_the_same_in_text_and_in_html():
    title, heads, rule, first, second, note = str(FOUND).splitlines()
    assert (title, note) == ("FAIL", "Not looked for: [modes].")
    assert heads.split() == ["check", "value", "threshold", "advice"]
    assert set(rule) == {"─"}
    assert re.split(" {2,}", first) == ["FAIL", "R-hat", "1.235", "< 1.01", "Draw <longer> & more."]
    assert re.split(" {2,}", second) == ["PASS", "divergences", "0 of 4,000"]
    html = FOUND._repr_html_()
    page = Page(html)
    assert page.rows == [
        ["", "check", "value", "threshold", "advice"],
        ["FAIL", "R-hat", "1.235", "< 1.01", "Draw <longer> & more."],
        ["PASS", "divergences", "0 of 4,000", "", ""],
    ]
    assert page.rest == "FAILNot looked for: [modes]."
    # Nothing of what a page in the dark would have to know, and nothing that runs.
    assert not re.search(r"color|background|<script|on\w+=", html)
    assert set(page.tags) <= {"p", "b", "div", "table", "thead", "tbody", "tr", "th", "td"}


def comparison(labels=("advi", "<b>svgd</b>"), seeds=(1,)):
    results = []
    for k, label in enumerate(labels):
        for seed in seeds:
            with gaussian():
                tree = vix.to_datatree(vix.fit(50, convergence=None, **QUIET), 100, random_seed=k)
            results.append(MethodResult(label, "advi", seed, Status.FINISHED, datatree=tree))
    failed = MethodResult("wild", "advi", 1, Status.FAILED, reason="ValueError: [no]", error="...")
    return summarise([*results, failed], results[0].datatree)


@pytest.fixture(scope="module")
def compared():
    return comparison(seeds=(1, 2))


def test_a_comparison_prints_what_the_command_line_prints(compared):
    file = io.StringIO()
    rows = compared.table.reset_index().to_dict(orient="records")
    title = str(compared).splitlines()[0]
    print_table(Console(file=file, width=100), title, rows)
    printed = [line.rstrip() for line in file.getvalue().splitlines()]
    assert str(compared).splitlines() == printed
    assert title == "3 methods, errors against reference"
    assert any(re.fullmatch(r"wild +1 +FAILED", line) for line in printed)
    assert "wild (seed 1): ValueError: [no]" in printed


def test_a_comparison_in_a_notebook_has_the_same_cells(compared):
    page = Page(compared._repr_html_())
    lines = str(compared).splitlines()
    as_text = [re.split(r" {2,}", line) for line in [lines[1], *lines[3 : 3 + 6]]]
    assert [[cell for cell in row if cell] for row in page.rows] == as_text
    assert page.rows[3][0] == "<b>svgd</b>"
    assert "wild (seed 1): ValueError: [no]" in page.rest
    assert "good below 0.7" in page.rest


def test_numbers_of_a_table_are_never_cut():
    table = ShortTable("t", ["name", *"abc"], [["x" * 60, "1.000", "2.000", "3.000"]], numbers=True)
    file = io.StringIO()
    table.print_on(Console(file=file, width=40))
    assert "x" * 60 in file.getvalue()
    assert "3.000" in file.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4.0399, "4.0399"),
        (-1234.567, "-1,234.6"),
        (1234567.8, "1,234,568"),
        (np.nan, "nan"),
        (np.inf, "not finite"),
        (0.0, "0"),
    ],
)
def test_losses_are_written_to_five_figures(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (99.4, "99 s"),
        (100.0, "1 min 40 s"),
        (3_000.0, "50 min 0 s"),
        (7_260.0, "2 h 1 min"),
        (np.nan, "an unknown time"),
    ],
)
def test_seconds_in_words(seconds, text):
    assert seconds_shown(seconds) == text


# Where warnings point, and the way out that each names.


def short_fit():
    with gaussian():
        return vix.fit(50, **QUIET)


def short_fit_of_pymc():
    with gaussian():
        return pm.fit(50, method=vix.ADVI(), convergence="default", progressbar=False)


def more_steps():
    method = vix.ADVI(model=gaussian(), random_seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method.fit(50, convergence="default", progressbar=False)
    method.refine(10, progressbar=False)


def far_from_the_posterior():
    with pm.Model():
        pm.MvNormal("x", np.zeros(2), [[1.0, 0.99], [0.99, 1.0]])
        vix.fit(**QUIET)


def in_a_thread():
    thread = threading.Thread(target=lambda: short_fit())
    thread.start()
    thread.join()


def where_there_is_no_density():
    with pm.Model():
        x = pm.Normal("x")
        pm.Potential("bound", pm.math.switch(x > 0, 0.0, -np.inf))
        vix.fit(3_000, **QUIET)


def old_name():
    vix.fit(5, model=gaussian(), convergence=None, fn_kwargs={"mode": "NUMBA"}, **QUIET)


def minibatch(total_size):
    rows = np.random.default_rng(1).normal(size=(200, 3))
    with pm.Model() as model:
        mu = pm.Normal("mu", 0, 10.0, shape=3)
        batch = pm.Minibatch(rows, batch_size=50)
        pm.Normal("y", mu, 3.0, observed=batch, total_size=total_size)
    return model


def a_total_of_numbers():
    vix.fit(5, model=minibatch(600), convergence=None, **QUIET)


def a_total_forgotten():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = minibatch(None)
    vix.fit(5, model=model, convergence=None, **QUIET)


def collapsed_particles():
    with pm.Model() as model:
        pm.Normal("x", shape=60)
    options = {"convergence": None, "inf_kwargs": {"n_particles": 20}}
    vix.fit(500, "svgd", model, **options, **QUIET)


def cut():
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Potential("pull", -((disconnected_grad(x) - 3.0) ** 2))
    return model


def a_gradient_that_is_cut():
    vix.fit(10, model=cut(), convergence=None, **QUIET)


def a_gradient_that_is_cut_on_the_way_to_a_mode():
    vix.fit(method="laplace", model=cut(), **QUIET)


def records_of_changing_shape():
    tracker = Tracker(every=10, shapes=lambda approx, losses, i: np.zeros(i))
    approx = vix.fit(20, model=gaussian(), convergence=None, callbacks=[tracker], **QUIET)
    vix.to_datatree(approx, 5)


def no_reference():
    model = gaussian()
    vix.compare(model, [{"name": "nuts", "tune": 5, "chains": 2}, "laplace"], "nuts", draws=20)


def a_verdict():
    vix.fit(method="auto", model=gaussian(), max_seconds=1e-6, **QUIET)


WARNINGS = {
    short_fit: "Raise `n`, or `refine`",
    short_fit_of_pymc: "Raise `n`, or `refine`",
    more_steps: "Raise `n`, or `refine`",
    in_a_thread: "Raise `n`, or `refine`",
    far_from_the_posterior: r"vix\.correct\(approx\), or fit by method=\"auto\"",
    where_there_is_no_density: r"vix\.correct\(approx\).*`bound`.*support of a prior",
    old_name: "use `compile_kwargs`",
    a_total_of_numbers: "give it total_size=200",
    a_total_forgotten: "Give it total_size=200",
    collapsed_particles: "Take more n_particles",
    a_gradient_that_is_cut: "leave out what cuts the gradient",
    a_gradient_that_is_cut_on_the_way_to_a_mode: "leave out what cuts the gradient",
    records_of_changing_shape: "in the Tracker itself",
    no_reference: "Let it draw for longer",
    a_verdict: "Give it more seconds|raise `max_seconds`",
}


def caught_from(act):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    # Not what PyMC, JAX and others say.
    return [w for w in caught if w.category.__module__.startswith("pymc_vi_ext")] or [
        w for w in caught if w.filename == __file__
    ]


@pytest.mark.parametrize("act", WARNINGS, ids=lambda act: act.__name__)
def test_warnings_point_here_and_name_the_way_out(act):
    found = caught_from(act)
    assert found
    assert {warning.filename for warning in found} == {__file__}
    assert any(re.search(WARNINGS[act], str(warning.message)) for warning in found)


def test_a_checkpoint_that_cannot_be_written(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr("pymc_vi_ext.callbacks.checkpoint.os.fsync", full)
    saving = Checkpoint(tmp_path / "fit.npz", 100)
    with pytest.warns(UserWarning, match="Make room there, or name a path elsewhere") as caught:
        vix.fit(300, model=gaussian(), callbacks=[saving], convergence=None, **QUIET)
    assert [warning.filename for warning in caught] == [__file__]


def test_the_line_is_that_of_the_call():
    model = gaussian()
    with pytest.warns(vix.ConvergenceWarning) as caught:
        here = vix.fit(50, model=model, **QUIET)
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    assert lines[caught[0].lineno - 1].strip() == "here = vix.fit(50, model=model, **QUIET)"
    assert caught[0].message.approx is here


def test_no_warning_goes_another_way():
    """`errors.warn` alone knows whose line it is."""
    found = []
    for root in (PACKAGE, PACKAGE.parent / "flows"):
        for path in sorted(root.rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += [f"{path.name}:{node.lineno}" for node in ast.walk(tree) if raises(node)]
    assert [name.partition(":")[0] for name in found] == ["errors.py"], found


def raises(node):
    """Tell whether a node of source calls Python's `warnings`, or takes its functions."""
    if isinstance(node, ast.ImportFrom):
        names = {alias.name for alias in node.names}
        return node.module == "warnings" and bool(names & {"warn", "warn_explicit"})
    return (
        isinstance(node, ast.Attribute)
        and node.attr in ("warn", "warn_explicit")
        and isinstance(node.value, ast.Name)
        and node.value.id == "warnings"
    )
