"""What a comparison found, a method a row: what a person reads first."""

from __future__ import annotations

import math

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pymc_vi_ext.comparison import METRICS, Comparison, MethodResult
from pymc_vi_ext.comparison.noise import NOISE_FLOOR
from pymc_vi_ext.comparison.outcomes import Outcome, outcome_of
from pymc_vi_ext.tracking.keys import keys_of

SECONDS = "seconds"
_TIMES = ("time/compile_s", "time/run_s")
# What an execution has of each method, `error/advi` for instance, and where it comes from.
_HEADLINES = {
    "error": "compare/mean_error_sd_max",
    "overlap": "compare/kde_overlap_min",
    "khat": "diag/khat",
    "rhat": "diag/rhat_max",
    "divergences": "diag/divergences",
    "warnings": "diag/warnings",
}


@dataclass(frozen=True)
class Headline:
    """A method, or the noise floor, over its seeds.

    Attributes
    ----------
    label : str
    medians : mapping of str to float
        Metrics, and the seconds from the model to the draws, by key; NaN where not known.
    results : tuple of MethodResult
        Its runs; none of the noise floor.
    """

    label: str
    medians: Mapping[str, float]
    results: tuple[MethodResult, ...]

    @property
    def outcome(self) -> str:
        """What its runs came to, in words; with numbers where they differ."""
        outcomes = [outcome_of(result)[0].value for result in self.results]
        different = list(dict.fromkeys(outcomes))
        if len(different) < 2:
            return "".join(different)
        return ", ".join(f"{outcomes.count(word)} {word}" for word in different)

    @property
    def verdict(self) -> str:
        """The worst that its runs say of their own draws; empty where none says anything."""
        found = {_verdict(result) for result in self.results}
        return next((word for word in ("FAIL", "WARN", "PASS") if word in found), "")


def headlines(comparison: Comparison) -> list[Headline]:
    """Return a row for each method in their order, and one for the noise floor.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    list of Headline
    """
    found = []
    for label, rows in comparison.table.groupby(level="method", sort=False):
        medians = {key: _median(rows[key].to_numpy(float)) for key in METRICS}
        # Compilation is known of some methods only, and within the run of the others.
        seconds = np.nansum([rows[key].to_numpy(float) for key in _TIMES], axis=0)
        medians[SECONDS] = _median(np.where(seconds > 0, seconds, np.nan))
        of_label = () if label == NOISE_FLOOR else tuple(_of(label, comparison))
        found.append(Headline(str(label), medians, of_label))
    return found


def headline_metrics(comparison: Comparison) -> dict[str, float]:
    """Return the numbers that an execution has of its methods, ``error/advi`` and so on.

    Parameters
    ----------
    comparison : Comparison

    Returns
    -------
    dict of str to float
        Medians over the seeds, without what is not known.
    """
    methods = _methods(comparison)
    keys = keys_of(method.label for method in methods)
    sources = {**_HEADLINES, "seconds": SECONDS}
    return {
        f"{name}/{keys[method.label]}": method.medians[source]
        for name, source in sources.items()
        for method in methods
        if not math.isnan(method.medians[source])
    }


def headline_tags(comparison: Comparison) -> dict[str, str]:
    """Return what became of each method, ``outcome/advi``, and its verdict, where it has one."""
    methods = _methods(comparison)
    keys = keys_of(method.label for method in methods)
    tags = {f"outcome/{keys[method.label]}": method.outcome for method in methods}
    tags |= {f"verdict/{keys[m.label]}": m.verdict for m in methods if m.verdict}
    return tags


def flaws(comparison: Comparison) -> dict[Outcome, list[tuple[str, str]]]:
    """Return names and reasons of the runs that are not as one would wish, by what they came to."""
    found: dict[Outcome, list[tuple[str, str]]] = {}
    good = {Outcome.CONVERGED, Outcome.FIXED, Outcome.COMPUTED, Outcome.SAMPLED}
    for name, result in zip(comparison.names, comparison.results, strict=True):
        outcome, reason = outcome_of(result)
        if outcome not in good:
            found.setdefault(outcome, []).append((name, reason))
    return found


def _methods(comparison: Comparison) -> list[Headline]:
    return [headline for headline in headlines(comparison) if headline.results]


def _of(label: object, comparison: Comparison) -> list[MethodResult]:
    return [result for result in comparison.results if result.label == label]


def _verdict(result: MethodResult) -> str:
    return "" if result.datatree is None else str(result.datatree.attrs.get("verdict", ""))


def _median(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else float("nan")
