r"""What has become worse between two tables of the same comparison.

Runs that are made again differ by chance. A method's accuracy is worse where the mean of a metric
over its seeds has moved away from its best value by more than chance explains: Student's test of
two samples, one-sided, at a level that all tests of a table share (Bonferroni). For :math:`n` seeds
now, :math:`m` before, :math:`K` tests and :math:`s` the standard deviation over seeds, pooled,

.. math::
    \bar x - \bar y > \max(t_{1 - .01/K,\, n + m - 2}\, s,\; z_{1 - .01/K}\, f)
    \sqrt{1/n + 1/m},

where :math:`f` is what a single run is off by anyhow: the distance of the noise floor from the best
value, the larger of both tables, or of the ELBO its Monte Carlo error. Where nothing changed and
seeds are independent and nearly normal, at most one table in a hundred has a false alarm, whatever
its size. Two seeds see only what is far off (:math:`t = 31.6` for twenty tests), three more (8.6),
five what matters (5.0).

With one seed there is no :math:`s`, and :math:`f` stands for it; where that is not known either, as
where the reference is moments, a metric is not judged. Over six seeds of the examples `gamma` and
`mixture`, NUTS and Gaussian families have standard deviations of .03 to .6 :math:`f`. Errors of a
correlation have up to 6 :math:`f` and are judged by several seeds alone; particles that fall into
one mode or the other have up to 8, so that alarms of SVGD mean something with several seeds alone.
"""

from __future__ import annotations

import math

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scipy import stats

from pymc_vi_ext.comparison.metrics import METRICS
from pymc_vi_ext.comparison.noise import NOISE_FLOOR
from pymc_vi_ext.comparison.references import RHAT_LIMIT
from pymc_vi_ext.comparison.types import Status
from pymc_vi_ext.diagnostics import Verdict

Row = Mapping[str, Any]

BEST = {
    "compare/mean_error_sd_max": 0.0,
    "compare/sd_ratio_worst": 1.0,
    "compare/quantile_error_sd_max": 0.0,
    "compare/wasserstein_mean": 0.0,
    "compare/sliced_wasserstein": 0.0,
    "compare/correlation_error_max": 0.0,
    "compare/kde_overlap_min": 1.0,
    "diag/elbo": math.inf,
}
"""Metrics of accuracy and what each is at best; one is worse the further it is from that."""

FALSE_ALARMS = 0.01
"""Share of tables in which nothing changed, and something is called worse in its accuracy."""
SLOWER, LEAST_S = 2.0, 5.0
"""Seconds are worse where they are so many times as many, and at least so many more.

The same run took 1.8 times as long where other work shared the machine."""

_CORRELATION = "compare/correlation_error_max"
_ELBO, _ELBO_SE, _RHAT = "diag/elbo", "diag/elbo_se", "diag/rhat_max"


@dataclass(frozen=True)
class Regression:
    """Something about a method that is worse than it was.

    Attributes
    ----------
    method : str
        Label of its rows.
    what : str
        Key of the metric, or ``"status"``, ``"verdict"`` or ``"seconds"``.
    before, now : str
        Means over seeds of metrics, medians of seconds, the worst of the others.
    limit : str
        What it might have been.

    Examples
    --------
    >>> from pymc_vi_ext.comparison import Regression
    >>> print(Regression("advi", "status", "FINISHED", "FAILED", "FINISHED"))
    advi: status FAILED, was FINISHED (FINISHED)
    """

    method: str
    what: str
    before: str
    now: str
    limit: str

    def __str__(self) -> str:
        metric = METRICS.get(self.what)
        name = (metric.heading if metric else "") or self.what
        return f"{self.method}: {name} {self.now}, was {self.before} ({self.limit})"


def regressions(now: Sequence[Row], before: Sequence[Row]) -> tuple[Regression, ...]:
    """Say what has become worse from one table to the next.

    Parameters
    ----------
    now, before : sequence of mapping
        Rows of :attr:`pymc_vi_ext.Comparison.table` as records, with ``method``, ``seed`` and
        ``status``; ``verdict`` too, where draws have one. What only one of them has is not judged.

    Returns
    -------
    tuple of Regression
        In the order of the methods. Of each: a run that finished and now fails, a worse verdict, an
        R-hat that was at most 1.01, accuracy by the rule above, distances that are not known any
        more, and seconds from the model on, twice as many and 5 more.

    Examples
    --------
    >>> from pymc_vi_ext.comparison.regression import regressions
    >>> row = {"method": "nuts", "seed": 1, "status": "FINISHED", "diag/rhat_max": 1.002}
    >>> [str(found) for found in regressions([row | {"diag/rhat_max": 1.04}], [row])]
    ['nuts: R-hat 1.04, was 1.00 (at most 1.01)']
    """
    methods = [m for m in _methods(now) if m in _methods(before) and m != NOISE_FLOOR]
    pairs = {method: (_of(now, method), _of(before, method)) for method in methods}
    tests = {
        (method, key): test
        for method, (rows, old) in pairs.items()
        for key in BEST
        if (test := _Test.of(key, rows, old, [*_of(now, NOISE_FLOOR), *_of(before, NOISE_FLOOR)]))
    }
    found: list[Regression] = []
    for method, (rows, old) in pairs.items():
        found += _failed(method, rows, old)
        found += _verdict(method, rows, old)
        found += _rhat(method, rows, old)
        for key in BEST:
            if (method, key) in tests:
                found += tests[method, key].outcome(method, len(tests))
        found += _unknown(method, rows, old)
        found += _slower(method, rows, old)
    return tuple(found)


@dataclass(frozen=True)
class _Test:
    """Two samples of a metric, as what each run lacks to its best value."""

    key: str
    now: np.ndarray
    before: np.ndarray
    floor: float

    @classmethod
    def of(
        cls, key: str, rows: Sequence[Row], old: Sequence[Row], floors: Sequence[Row]
    ) -> _Test | None:
        """Return the test of a metric; None where there is nothing to compare."""
        if key == _ELBO:
            errors = _known(_finished(rows), _ELBO_SE) + _known(_finished(old), _ELBO_SE)
            floor = math.sqrt(np.mean(np.square(errors))) if errors else math.nan
        else:
            floor = max((abs(v - BEST[key]) for v in _known(floors, key)), default=math.nan)
        now, before = (np.array(_known(_finished(some), key)) for some in (rows, old))
        test = cls(key, now, before, floor)
        if not test.now.size or not np.isfinite(test.before).any():
            return None
        several = test.now.size + test.before.size > 2
        alone = key != _CORRELATION and not math.isnan(floor)
        return test if several or alone else None

    def lacks(self, values: np.ndarray) -> np.ndarray:
        best = BEST[self.key]
        return -values if best == math.inf else np.abs(values - best)

    def outcome(self, method: str, tests: int) -> Iterator[Regression]:
        """Yield what it finds, at a level that so many tests share."""
        now, before = self.lacks(self.now), self.lacks(self.before[np.isfinite(self.before)])
        form = METRICS[self.key].format
        mean = format(float(np.mean(self.now)), form)
        was = format(float(np.mean(self.before[np.isfinite(self.before)])), form)
        level = 1.0 - FALSE_ALARMS / tests
        freedom = now.size + before.size - 2
        spread = 0.0 if math.isnan(self.floor) else float(stats.norm.ppf(level)) * self.floor
        if freedom > 0 and np.isfinite(now).all():
            squares = sum(float(np.sum((x - x.mean()) ** 2)) for x in (now, before))
            t = float(stats.t.ppf(level, freedom))
            spread = max(spread, t * math.sqrt(squares / freedom))
        limit = spread * math.sqrt(1 / now.size + 1 / before.size)
        if np.mean(now) - np.mean(before) > limit:
            yield Regression(method, self.key, was, mean, f"chance explains {limit:{form}}")


def _failed(method: str, rows: Sequence[Row], old: Sequence[Row]) -> Iterator[Regression]:
    finished = {row["seed"] for row in _finished(old)}
    failed = [r for r in rows if r["status"] == Status.FAILED.value and r["seed"] in finished]
    if failed:
        seeds = ", ".join(str(row["seed"]) for row in failed)
        yield Regression(
            method, "status", Status.FINISHED.value, Status.FAILED.value, f"seed {seeds}"
        )


def _verdict(method: str, rows: Sequence[Row], old: Sequence[Row]) -> Iterator[Regression]:
    def worst(some: Sequence[Row]) -> Verdict | None:
        found = [Verdict(row["verdict"]) for row in _finished(some) if row.get("verdict")]
        return max(found, key=lambda verdict: verdict.rank, default=None)

    now, before = worst(rows), worst(old)
    if now is not None and before is not None and now.rank > before.rank:
        yield Regression(
            method, "verdict", before.value, now.value, f"no worse than {before.value}"
        )


def _rhat(method: str, rows: Sequence[Row], old: Sequence[Row]) -> Iterator[Regression]:
    now, before = (max(_known(_finished(some), _RHAT), default=math.nan) for some in (rows, old))
    if before <= RHAT_LIMIT < now:
        form = METRICS[_RHAT].format
        yield Regression(
            method, _RHAT, format(before, form), format(now, form), f"at most {RHAT_LIMIT}"
        )


def _unknown(method: str, rows: Sequence[Row], old: Sequence[Row]) -> Iterator[Regression]:
    lost = [
        METRICS[key].heading
        for key in BEST
        if _finished(rows) and not _known(_finished(rows), key) and _known(_finished(old), key)
    ]
    if lost:
        yield Regression(method, ", ".join(lost), "known", "not known", "the note says why")


def _slower(method: str, rows: Sequence[Row], old: Sequence[Row]) -> Iterator[Regression]:
    def seconds(some: Sequence[Row]) -> float:
        # Of peers those of compilation are not known, and within those of the run.
        compiling = {id(row): _known([row], "time/compile_s") or [0.0] for row in some}
        found = [v + compiling[id(row)][0] for row in some for v in _known([row], "time/run_s")]
        return float(np.median(found)) if found else math.nan

    now, before = seconds(_finished(rows)), seconds(_finished(old))
    limit = max(SLOWER * before, before + LEAST_S)
    if now > limit:
        yield Regression(method, "seconds", f"{before:.1f}", f"{now:.1f}", f"at most {limit:.1f}")


def _methods(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(str(row["method"]) for row in rows))


def _of(rows: Sequence[Row], method: str) -> list[Row]:
    return [row for row in rows if row["method"] == method]


def _finished(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["status"] == Status.FINISHED.value]


def _known(rows: Sequence[Row], key: str) -> list[float]:
    return [float(row[key]) for row in rows if key in row and not math.isnan(row[key])]
