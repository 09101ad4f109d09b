"""Who looks on changes nothing, sees what is so, and is let go where it raises."""

import json

import numpy as np
import pymc as pm
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.comparison import live
from pymc_vi_ext.comparison.live import LiveFile, Looking, load_snapshot
from pymc_vi_ext.testing import gaussian_model
from pymc_vi_ext.traces import growing_blocks
from pymc_vi_ext.watching import Watcher, watched_by


def fitted(**options):
    arguments = {"random_seed": 1, "progressbar": False, **options}
    return vix.fit(model=gaussian_model(), **arguments)


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(live, "SECONDS_BETWEEN_LOOKS", 0.0)


def test_blocks_stay_what_they_are_while_there_are_more():
    losses = np.random.default_rng(1).normal(size=5_000)
    ends, means = growing_blocks(losses)
    assert ends[-1] == losses.size
    seen, elbo = [], []
    for known in (1, 17, 900, 901, 4_990, 5_000):
        new, values = growing_blocks(losses[:known], after=seen[-1] if seen else 0, whole=True)
        seen += new.tolist()
        elbo += values.tolist()
    assert len(seen) >= len(ends) - 1
    assert seen == ends[: len(seen)].tolist()
    assert elbo == means[: len(seen)].tolist()  # to the last bit
    np.testing.assert_allclose(np.average(means, weights=np.diff(ends, prepend=0)), -losses.mean())


def test_the_snapshot_of_a_fit_is_that_of_its_result(often, tmp_path):
    with watched_by(LiveFile(tmp_path, traced=True)):
        approx = fitted(n=700, convergence=None)
    snapshot = load_snapshot(tmp_path)
    ends, means = growing_blocks(approx.hist)
    count = len(snapshot.steps)
    assert count > 100
    assert snapshot.steps == ends[:count].tolist()
    assert snapshot.elbo == means[:count].tolist()
    assert snapshot.status.startswith("700 steps")


def test_what_rules_measure_is_part_of_it(often, tmp_path):
    with watched_by(LiveFile(tmp_path, traced=True)):
        fitted()
    assert "; " in load_snapshot(tmp_path).status


def test_looking_changes_no_bit(often):
    plain = fitted(n=300)
    with watched_by(Looking()):
        watched = fitted(n=300)
    np.testing.assert_array_equal(plain.hist, watched.hist)
    np.testing.assert_array_equal(plain.mean.eval(), watched.mean.eval())


def test_only_the_first_of_several_fits_is_traced(often):
    watcher = Looking()
    with watched_by(watcher):
        fitted(n=200, convergence=None, n_starts=2)
    ends, _ = growing_blocks(np.zeros(200), whole=True)
    assert watcher.snapshot.steps == ends.tolist()


@pytest.mark.parametrize("options", [{"method": "svgd", "n": 20, "convergence": None}])
def test_particles_have_no_elbo_and_steps_all_the_same(often, options):
    watcher = Looking()
    with watched_by(watcher):
        fitted(**options)
    assert watcher.snapshot.elbo == []
    assert watcher.snapshot.status.startswith("20 steps")


class Seen(Watcher):
    def __init__(self):
        self.events = []

    def fit_begins(self, given):
        self.events.append(given)

    def fit_ends(self, approx, error):
        self.events.append((approx, error))


def test_a_fit_is_one_however_many_it_is_made_of():
    seen = Seen()
    with watched_by(seen):
        approx = vix.fit(method="auto", model=gaussian_model(), random_seed=1, progressbar=False)
    given, ended = seen.events
    assert given["method"] == "auto"
    assert ended == (approx, None)


def test_pymc_fits_by_methods_of_the_package_are_seen():
    seen = Seen()
    with watched_by(seen), gaussian_model():
        approx = pm.fit(n=50, method=vix.ADVI(random_seed=1), progressbar=False)
    given, ended = seen.events
    assert given["n"] == 50
    assert ended == (approx, None)
    assert approx.report.steps == 50


def test_an_error_is_seen_and_raised():
    seen = Seen()
    with watched_by(seen), pytest.raises(FloatingPointError):
        fitted(learning_rate=1e9, start="prior", n=2000)
    approx, error = seen.events[-1]
    assert isinstance(error, FloatingPointError)
    assert approx.report.stop_reason is vix.StopReason.NOT_FINITE


class Broken(Watcher):
    looks = 0

    def look(self, losses, steps, status):
        self.looks += 1
        raise OSError("gone")


def test_one_that_raises_is_let_go_and_the_fit_goes_on(caplog):
    broken = Broken()
    with watched_by(broken):
        approx = fitted(n=300, convergence=None)
    assert len(approx.hist) == 300
    assert broken.looks == 1
    assert "Broken does not look on any more" in caplog.text


def test_a_file_that_cannot_be_written_or_read_is_no_error(often, tmp_path):
    (tmp_path / "file").touch()
    with watched_by(LiveFile(tmp_path / "file", traced=True)):
        fitted(n=50, convergence=None)
    (tmp_path / live.LIVE).write_text('{"status": "12 st')
    assert load_snapshot(tmp_path) is None
    (tmp_path / live.LIVE).write_text(json.dumps({"other": 1}))
    assert load_snapshot(tmp_path) is None
    assert load_snapshot(tmp_path / "none") is None
