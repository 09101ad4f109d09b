"""What counts as worse, on tables made up for it."""

import numpy as np
import pytest

from scipy import stats

from pymc_vi_ext.comparison import METRICS
from pymc_vi_ext.comparison.regression import BEST, FALSE_ALARMS, regressions

ERROR, RATIO, OVERLAP = (
    "compare/mean_error_sd_max",
    "compare/sd_ratio_worst",
    "compare/kde_overlap_min",
)


def row(method="advi", seed=1, status="FINISHED", **values):
    metrics = dict.fromkeys(METRICS, float("nan"))
    return {"method": method, "seed": seed, "status": status, **metrics, **values}


def seeds(key, values, method="advi"):
    return [row(method, seed, **{key: value}) for seed, value in enumerate(values)]


def floor(**values):
    return row("noise floor", 0, "", **values)


def what(now, before):
    return [(found.method, found.what) for found in regressions(now, before)]


def test_all_built_in_distances_are_judged():
    assert set(BEST) == {key for key in METRICS if key.startswith("compare/")} | {"diag/elbo"}


def test_the_same_table_is_no_worse():
    table = [row(**dict.fromkeys(METRICS, 0.5)), floor(**{ERROR: 0.1})]
    assert regressions(table, table) == ()


@pytest.mark.parametrize("seed_count", [2, 3, 5])
def test_the_limit_over_seeds_is_students(seed_count):
    """Of one metric, and so one test, at one percent."""
    before = np.linspace(0.1, 0.2, seed_count)
    pooled = np.sqrt(2 * np.sum((before - before.mean()) ** 2) / (2 * seed_count - 2))
    limit = stats.t.ppf(0.99, 2 * seed_count - 2) * pooled * np.sqrt(2 / seed_count)
    for factor, found in ((0.999, []), (1.001, [("advi", ERROR)])):
        now = seeds(ERROR, before + factor * limit)
        assert what(now, seeds(ERROR, before)) == found


@pytest.mark.parametrize(
    ("key", "best", "sign"), [(ERROR, 0, 1), (RATIO, 1, 1), (RATIO, 1, -1), (OVERLAP, 1, -1)]
)
def test_the_noise_floor_is_the_least_spread(key, best, sign):
    """Of a single seed it is all that there is; the larger of both nights counts."""
    limit = stats.norm.ppf(0.99) * 0.05 * np.sqrt(2)
    before = [row(**{key: best + sign * 0.1}), floor(**{key: best + sign * 0.02})]
    for factor, found in ((0.999, []), (1.001, [("advi", key)])):
        worse = best + sign * (0.1 + factor * limit)
        now = [row(**{key: worse}), floor(**{key: best - sign * 0.05})]
        assert what(now, before) == found
    better = [row(**{key: best}), floor(**{key: best})]
    assert what(better, before) == []


def test_seeds_that_agree_do_not_make_nothing_of_the_floor():
    before = [*seeds(ERROR, [0.1, 0.1]), floor(**{ERROR: 0.1})]
    now = [*seeds(ERROR, [0.2, 0.2]), floor(**{ERROR: 0.1})]
    assert what(now, before) == []
    assert what(now[:-1], before[:-1]) == [("advi", ERROR)]


def test_what_has_no_known_noise_is_not_judged():
    """That of correlations is not what those of the reference have."""
    assert what([row(**{ERROR: 9.0})], [row(**{ERROR: 0.1})]) == []
    key = "compare/correlation_error_max"
    before, now = seeds(key, [0.1, 0.1]), seeds(key, [0.5, 0.5])
    assert what([now[0], floor(**{key: 0.01})], before[:1]) == []
    assert what([*now, floor(**{key: 0.01})], before) == [("advi", key)]


def test_the_elbo_has_its_monte_carlo_error():
    before = [row(**{"diag/elbo": -10.0, "diag/elbo_se": 0.03})]
    limit = stats.norm.ppf(0.99) * 0.05 / np.sqrt(2) * np.sqrt(2)
    for factor, found in ((0.999, []), (1.001, [("advi", "diag/elbo")])):
        now = [row(**{"diag/elbo": -10.0 - factor * limit, "diag/elbo_se": 0.04})]
        assert what(now, before) == found
    lost = [row(**{"diag/elbo": -np.inf, "diag/elbo_se": 0.04})]
    assert what(lost, before) == [("advi", "diag/elbo")]
    assert what(before, lost) == []


def test_false_alarms_are_one_table_in_a_hundred():
    """Of nights in which nothing changed, whatever the number of methods, metrics and seeds."""
    rng = np.random.default_rng(1)
    keys = list(BEST)[:6]
    spreads = {key: 0.05 * (number + 1) for number, key in enumerate(keys)}

    def night():
        return [
            row(method, seed, **{key: rng.normal(5.0, spreads[key]) for key in keys})
            for method in ("a", "b", "c")
            for seed in (1, 2, 3)
        ]

    tables = 1_500
    alarms = sum(bool(regressions(night(), night())) for _ in range(tables))
    # Independent here, so that the bound is nearly reached: within 4 standard errors of it.
    error = np.sqrt(FALSE_ALARMS * (1 - FALSE_ALARMS) / tables)
    assert abs(alarms / tables - FALSE_ALARMS) < 4 * error


@pytest.mark.parametrize(
    ("now", "before", "worse"),
    [
        ({"verdict": "WARN"}, {"verdict": "PASS"}, "verdict"),
        ({"verdict": "FAIL"}, {"verdict": "WARN"}, "verdict"),
        ({"verdict": "PASS"}, {"verdict": "FAIL"}, ""),
        ({"verdict": "FAIL"}, {}, ""),
        ({"diag/rhat_max": 1.011}, {"diag/rhat_max": 1.01}, "diag/rhat_max"),
        ({"diag/rhat_max": 1.5}, {"diag/rhat_max": 1.02}, ""),
        ({"time/run_s": 16.1}, {"time/run_s": 8.0}, "seconds"),
        ({"time/run_s": 15.9}, {"time/run_s": 8.0}, ""),
        ({"time/run_s": 6.1}, {"time/run_s": 1.0}, "seconds"),
        ({"time/run_s": 5.9}, {"time/run_s": 1.0}, ""),
        ({"time/run_s": 1.0, "time/compile_s": 9.0}, {"time/run_s": 1.0}, "seconds"),
        ({"status": "FAILED"}, {}, "status"),
        ({}, {"status": "FAILED"}, ""),
        ({"status": "INTERRUPTED"}, {}, ""),
        ({}, {ERROR: 0.1, RATIO: 1.0}, "error, sd"),
    ],
)
def test_one_thing_at_a_time(now, before, worse):
    assert what([row() | now], [row() | before]) == ([("advi", worse)] if worse else [])


def test_what_only_one_table_has_is_not_judged():
    new = [row(), row("svgd", status="FAILED"), row(seed=2, status="FAILED")]
    assert what(new, [row(), row("nuts")]) == []


def test_a_sentence_says_what_it_was_and_what_chance_explains():
    before = [row(**{ERROR: 0.1}), floor(**{ERROR: 0.05})]
    [found] = regressions([row(**{ERROR: 0.4}), floor(**{ERROR: 0.05})], before)
    assert str(found) == "advi: error 0.400, was 0.100 (chance explains 0.164)"
