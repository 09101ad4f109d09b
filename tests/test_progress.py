"""What fits and chains show of how far they are, and that the last line is true."""

import os
import pty
import re
import subprocess
import sys

import nbformat
import numpy as np
import pymc as pm
import pytensor.tensor as pt
import pytest

from nbclient import NotebookClient

import pymc_vi_ext as vix

from pymc_vi_ext import progress
from pymc_vi_ext.callbacks import WallTime

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
SECONDS = r", \d+(\.\d)? s"
LOSS = r", mean loss -?\d\S*"


class At300:
    """Do something at step 300."""

    every = 100

    def __init__(self, what):
        self.what = what

    def __call__(self, approx, losses, i):
        if i >= 300:
            raise self.what


@pytest.fixture(autouse=True)
def patient_log(monkeypatch):
    """Show no line before the last one, however slow the machine."""
    monkeypatch.setattr(progress._Log, "first", 1e9)


@pytest.fixture
def model():
    with pm.Model() as model:
        mu = pm.Normal("mu", 0.0, 1.0)
        pm.Normal("y", mu, 1.0, observed=[0.7, 1.5, 1.0])
    return model


def no_density_beyond_2():
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Potential("p", pt.switch(x > 2, np.nan, 0.0))
    return model


ENDS = {
    "converged": ({"n": 20_000}, rf"advi: converged, \d+ steps{LOSS}{SECONDS}"),
    "did not converge": ({"n": 100}, rf"advi: did not converge, 100 steps{LOSS}{SECONDS}"),
    "completed": (
        {"n": 500, "convergence": None},
        rf"advi: completed, 500 steps{LOSS}{SECONDS}",
    ),
    "stopped": (
        {"convergence": None, "callbacks": [At300(StopIteration("enough"))]},
        rf"advi: stopped by At300, 300 steps{LOSS}{SECONDS}",
    ),
    "stopped by the package's": (
        {"n": 10**9, "convergence": None, "callbacks": [WallTime(0.2)], "score": False},
        rf"advi: stopped by WallTime, [\d,]+ steps{SECONDS}",
    ),
    "interrupted": (
        {"convergence": None, "callbacks": [At300(KeyboardInterrupt())]},
        rf"advi: interrupted, 300 steps{LOSS}{SECONDS}",
    ),
    "failed": (
        {"convergence": None, "callbacks": [At300(ValueError("no"))]},
        rf"advi: failed in At300, 300 steps{LOSS}{SECONDS}",
    ),
    "computed": ({"method": "laplace"}, rf"laplace: computed{SECONDS}"),
    "dadvi": ({"method": "dadvi"}, rf"dadvi: converged, \d+ steps{LOSS}{SECONDS}"),
    "bam": ({"method": "bam"}, rf"bam: converged, \d+ steps{LOSS}{SECONDS}"),
}


@pytest.mark.filterwarnings("ignore::pymc_vi_ext.ConvergenceWarning")
@pytest.mark.parametrize("end", ENDS)
def test_the_last_line_is_true(model, end, capsys):
    options, pattern = ENDS[end]
    # A bound on n would keep a buffer of a billion losses; where the callback ends it, none is.
    options = {"n": 1_000, **options}
    try:
        approx = vix.fit(model=model, random_seed=1, **options)
    except ValueError as error:
        approx = error.approx
    out, err = capsys.readouterr()
    [line] = out.splitlines()  # no more than one line of a short fit in a log
    assert re.fullmatch(pattern, line), line
    assert err == ""
    assert not CONTROL.search(line)
    steps = approx.report.steps
    assert f", {steps:,} steps" in line or not steps
    if "mean loss" in line:
        said = float(re.search(r"mean loss (\S+),", line)[1])
        assert said == pytest.approx(approx.report.mean_loss, rel=1e-4)


def test_nan(capsys):
    with pytest.raises(FloatingPointError):
        vix.fit(2_000, model=no_density_beyond_2(), convergence=None, random_seed=1)
    [line] = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"advi: ended with NaN, \d+ steps{LOSS}{SECONDS}", line)


def test_refine_says_what_it_adds(model, capsys):
    method = vix.ADVI(model=model, random_seed=1)
    method.fit(200)
    method.refine(300)
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"ADVI: completed, 200 steps{LOSS}{SECONDS}", first)
    pattern = rf"ADVI: completed, 300 more steps, 500 steps in all{LOSS}{SECONDS}"
    assert re.fullmatch(pattern, second)


def test_several_starts_and_their_correction(model, capsys):
    approx = vix.fit(model=model, n_starts=2, random_seed=1)
    tree = vix.correct(approx, random_seed=1)
    *starts, last = capsys.readouterr().out.splitlines()
    assert [line.partition(": converged, ")[0] for line in starts] == [
        "advi, start 1 of 2",
        "advi, start 2 of 2",
    ]
    found = f"posterior: {tree.attrs['verdict']} by {tree.attrs['correction']}"
    assert re.fullmatch(re.escape(found) + SECONDS, last)


def test_auto(model, capsys):
    approx = vix.fit(method="auto", model=model, random_seed=1)
    fitted, corrected = capsys.readouterr().out.splitlines()
    assert fitted.startswith("dadvi: converged, ")
    assert corrected.startswith(f"posterior: {approx.report.outcome}, ")


def test_what_fails_before_its_first_step(model, monkeypatch, capsys):
    def broken(*args, **kwargs):
        raise RuntimeError("no compiler")

    monkeypatch.setattr("pymc_vi_ext.engine.jax_loop.jax_step", broken)
    with pytest.raises(RuntimeError):
        vix.fit(model=model, random_seed=1)
    [line] = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"advi: failed: RuntimeError{SECONDS}", line)


def test_nothing_is_shown_where_nothing_is_wanted(model, capfd):
    approx = vix.fit(model=model, random_seed=1, progressbar=False)
    vix.correct(approx, random_seed=1, progressbar=False)
    assert capfd.readouterr() == ("", "")


class Recorded:
    """A screen that records, with seconds of its own."""

    def __init__(self, first, pause):
        self.first, self.pause = first, pause
        self.lines, self.last = [], None

    def show(self, line):
        self.lines.append(line)

    def end(self, words):
        self.last = words


class Clock:
    """Seconds that pass where one says so."""

    now = 1_000.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def run(screen, clock, seconds, *, is_bound=False):
    shown = progress.FitProgress(screen, "advi")
    shown.say("compiling")
    shown.begin(0, 10_000, is_bound=is_bound)
    for k in range(1, round(seconds * 20) + 1):
        clock.now += 0.05
        shown.update(10 * k, np.full(10 * k, 2.5))
    return shown


def test_it_is_drawn_five_times_a_second(clock):
    screen = Recorded(0.2, 0.2)
    run(screen, clock, 10.0)
    assert screen.lines[0].words == "advi: compiling"
    assert 40 <= len(screen.lines) - 2 <= 50


def test_a_log_has_few_lines(clock):
    screen = Recorded(progress._SECONDS_BEFORE_LINES, progress._SECONDS_BETWEEN_LINES)
    run(screen, clock, 9.9)
    assert screen.lines == []
    run(screen, clock, 101.0)
    # 200 steps a second.
    assert [round(line.done / 200) for line in screen.lines] == [10, 40, 70, 100]


def test_the_time_left_is_shown_where_it_is_known(clock):
    known, bound = Recorded(0.2, 0.2), Recorded(0.2, 0.2)
    run(known, clock, 20.0)
    run(bound, clock, 20.0, is_bound=True)
    # 200 steps a second, 6,000 of 10,000 left, or so.
    last = known.lines[-1]
    assert re.fullmatch(
        r"advi: [34],\d+ of 10,000 steps  0:00:\d\d  0:00:\d\d left  200 steps/s  loss 2.5",
        last.words,
    )
    assert 0 < last.done < last.total == 10_000
    last = bound.lines[-1]
    assert re.fullmatch(
        r"advi: [34],\d+ of at most 10,000 steps  0:00:\d\d  200 steps/s  loss 2.5", last.words
    )
    assert last.total == 0


def test_it_shows_what_rules_measure(model, monkeypatch):
    screen = Recorded(0.0, 0.0)
    monkeypatch.setattr(progress, "_screen", lambda theme: screen)
    check = vix.callbacks.CheckParametersConvergence(every=50, tolerance=1e-9)
    vix.fit(600, model=model, callbacks=[check], convergence=None, random_seed=1)
    last = screen.lines[-1]
    assert check.status.startswith("change ")
    assert last.words.startswith("advi: 600 of ")
    assert last.words.endswith(f"  {check.status}")
    assert screen.last.startswith("advi: ")


def test_the_mean_is_of_the_end():
    assert np.isnan(progress.mean_at_end(None))
    assert np.isnan(progress.mean_at_end(np.full(20, np.inf)))
    assert progress.mean_at_end(np.array([5.0])) == 5.0
    assert progress.mean_at_end(np.array([1e9] * 90 + [1.0] * 5 + [3.0] * 4 + [np.inf])) == 17 / 9
    assert progress.mean_at_end(np.arange(50_000.0)) == np.arange(49_000, 50_000).mean()


SCRIPT = """
import pymc as pm, pymc_vi_ext as vix
with pm.Model():
    pm.Normal("x")
    def slow(approx, losses, i):
        import time; time.sleep(0.06)
    slow.every = 50
    vix.fit(500, convergence=None, random_seed=1, callbacks=[slow])
    print("between")
    vix.fit(random_seed=1)
"""


def last_states(text):
    """Return the lines that stay, of a terminal in which a line is drawn anew."""
    lines = re.sub(r"\x1b\[\??[\d;]*[a-zA-Z]", "", text).split("\n")
    return [line.rstrip("\r").rpartition("\r")[2] for line in lines]


def in_terminal(script):
    """Run a script in a terminal; returns what it wrote."""
    leader, follower = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "120"}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=follower, stderr=follower, env=environment
    ) as process:
        os.close(follower)
        written = b""
        while True:
            try:
                more = os.read(leader, 1 << 16)
            except OSError:  # the other end has closed
                break
            if not more:
                break
            written += more
    os.close(leader)
    assert process.returncode == 0, written.decode()
    return written.decode()


def test_in_a_terminal_one_line_is_drawn_anew_and_stays():
    text = in_terminal(SCRIPT)
    assert "-:--:--" not in text
    assert re.search(r"━.* of 500 steps  0:00:00  0:00:00 left", text)
    first, between, second, *rest = last_states(text)
    assert re.fullmatch(rf"advi: completed, 500 steps{LOSS}{SECONDS}", first)
    assert between == "between"
    assert re.fullmatch(rf"advi: converged, \d+ steps{LOSS}{SECONDS}", second)
    assert not "".join(rest)


@pytest.mark.parametrize("colours", ["", "1"])
def test_a_pipe_gets_plain_lines_whatever_colours_are_asked_for(colours):
    environment = os.environ | {"FORCE_COLOR": colours}
    if not colours:
        del environment["FORCE_COLOR"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment
    )
    assert len(done.stdout.splitlines()) == 3
    assert not CONTROL.search(done.stdout)


def test_in_a_notebook_one_output_is_replaced():
    """Without widgets, which need not be installed."""
    cells = [nbformat.v4.new_code_cell(SCRIPT), nbformat.v4.new_code_cell("1 + 1")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    first, between, second = notebook.cells[0].outputs
    assert (between.output_type, between.text) == ("stream", "between\n")
    for output, end in ((first, "completed, 500"), (second, r"converged, \d+")):
        assert output.output_type == "display_data"
        text, page = output.data["text/plain"], output.data["text/html"]
        assert re.fullmatch(rf"advi: {end} steps{LOSS}{SECONDS}", text)
        assert f">{text}</div>" in page
        # It takes the colours of the page, dark or light.
        assert not re.search(r"color|background|<script", page)
    assert [output.data["text/plain"] for output in notebook.cells[1].outputs] == ["2"]
