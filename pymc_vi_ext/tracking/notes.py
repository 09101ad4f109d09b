"""What is said of runs in Markdown, where a tracker shows it first."""

from __future__ import annotations

import math

from collections.abc import Sequence

from pymc_vi_ext.comparison import METRICS, Comparison, MethodResult
from pymc_vi_ext.comparison.outcomes import outcome_of
from pymc_vi_ext.tracking.about import About
from pymc_vi_ext.tracking.headlines import SECONDS, Headline, flaws, headlines

# Columns of the table, those that no method has left out.
_COLUMNS = (
    "compare/mean_error_sd_max",
    "compare/sd_ratio_worst",
    "compare/kde_overlap_min",
    "diag/elbo",
    "diag/khat",
    "diag/rhat_max",
)
# MLflow takes 8,000 characters of a note: rows of a table, of a list, and letters of a message.
_ROWS, _LISTED, _LETTERS = 30, 8, 240


def comparison_note(comparison: Comparison, about: About) -> str:
    """Return what was compared with what, what came out, what went wrong and how to repeat it.

    Parameters
    ----------
    comparison : Comparison
    about : About

    Returns
    -------
    str
        Markdown.
    """
    rows = headlines(comparison)
    parts = [sentence(comparison, about), _table(rows)]
    for outcome, runs in flaws(comparison).items():
        listed = [f"- **{_plain(name)}**: {_plain(reason)}" for name, reason in runs[:_LISTED]]
        more = len(runs) - _LISTED
        listed += [f"- and {more} more, in `summary.csv`"] * (more > 0)
        parts.append("\n".join([f"**{outcome.value.capitalize()}**", "", *listed]))
    parts.append("`report.html`, among the artifacts, has all metrics, figures and notes.")
    if about.command:
        parts.append(f"Run it again:\n\n```\n{about.command}\n```")
    return "\n\n".join(parts) + "\n"


def result_note(result: MethodResult, note: str) -> str:
    """Return what a run came to, and why, and what the table says of it.

    Parameters
    ----------
    result : MethodResult
    note : str
        That of the table, empty before there is one.

    Returns
    -------
    str
        Markdown.
    """
    outcome, reason = outcome_of(result)
    first = f"**{outcome.value.capitalize()}**" + f": {_plain(reason)}" * bool(reason)
    parts = [first] + [_plain(note)] * (bool(note) and note != reason)
    if result.error:
        # The end says what went wrong, and a fence keeps its lines.
        parts.append(f"```\n{result.error[-2000:].replace('```', '')}\n```")
    return "\n\n".join(parts) + "\n"


def sentence(comparison: Comparison, about: About) -> str:
    """Say in a sentence what was compared, and with what."""
    labels = list(dict.fromkeys(result.label for result in comparison.results))
    seeds = len({result.seed for result in comparison.results})
    text = f"{len(labels)} method{'s' * (len(labels) > 1)}"
    text += f" on the model {_plain(about.model)}" * bool(about.model)
    if seeds > 1:
        text += f", each with {seeds} seeds (the table has medians)"
    if comparison.reference_name:
        return f"{text}, held against {_plain(comparison.reference_name)}."
    return f"{text}; no reference, so that no errors are known."


def columns(rows: Sequence[Headline]) -> list[str]:
    """Return the keys of the headline columns that some method has a number for."""
    known = [key for key in _COLUMNS if any(not math.isnan(row.medians[key]) for row in rows)]
    return [*known, SECONDS]


def number(key: str, value: float) -> str:
    """Write a metric, or seconds, as tables show it."""
    if math.isnan(value):
        return ""
    return format(value, ".1f" if key == SECONDS else METRICS[key].format)


def heading(key: str) -> str:
    """Return the heading of a column."""
    return "seconds" if key == SECONDS else METRICS[key].heading or key


def _table(rows: Sequence[Headline]) -> str:
    keys = columns(rows)
    lines = [["method", "came to", *map(heading, keys)]]
    for row in rows[:_ROWS]:
        numbers = [number(key, row.medians[key]) for key in keys]
        said = " ".join(filter(None, [row.outcome, f"({row.verdict})" * bool(row.verdict)]))
        lines.append([_plain(row.label), said, *numbers])
    # MLflow leaves no room between columns.
    head, *body = (f"| {'&emsp; | '.join(line)} |" for line in lines)
    rule = f"| --- | --- |{' --: |' * len(keys)}"
    table = "\n".join([head, rule, *body])
    return table + f"\n\n{len(rows) - _ROWS} more in `summary.csv`." * (len(rows) > _ROWS)


def _plain(text: str) -> str:
    """Return a text on one line that Markdown shows as it is."""
    short = " ".join(text.split())
    short = short if len(short) <= _LETTERS else f"{short[:_LETTERS]} ..."
    return "".join(f"\\{c}" if c in r"\`*_[]<>|#" else c for c in short)
