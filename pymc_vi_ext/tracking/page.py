"""A comparison as one page of HTML that needs nothing else."""

from __future__ import annotations

import base64
import io

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from pymc_vi_ext.comparison import METRICS, Comparison
from pymc_vi_ext.tracking.about import About
from pymc_vi_ext.tracking.headlines import Headline, flaws, headlines
from pymc_vi_ext.tracking.notes import columns, heading, number, sentence

_STYLE = """
:root { color-scheme: light; --line: #dfe3e8; --soft: #5b6673; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 20px 48px; max-width: 1080px; background: #fff; color: #1b222a;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 36px 0 8px; }
p { margin: 4px 0 12px; } .soft { color: var(--soft); font-size: 13px; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; text-align: right; white-space: nowrap; }
th { font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--line); }
tr + tr td { border-top: 1px solid #eef0f3; }
th:first-child, td:first-child, td.word, th.word { text-align: left; }
td:first-child { font-weight: 600; position: sticky; left: 0; background: #fff; }
.tag { display: inline-block; padding: 1px 9px; border-radius: 10px; font-size: 13px; }
.good { background: #e2f4e8; color: #14602f; } .bad { background: #fde6e4; color: #8f1d14; }
.fair { background: #fdf1d8; color: #7a4b00; }
dt { font-weight: 600; margin-top: 8px; } dd { margin: 0 0 0 0; overflow-wrap: anywhere; }
figure { margin: 0 0 20px; } figcaption { color: var(--soft); font-size: 13px; }
img { max-width: 100%; height: auto; display: block; }
pre { background: #f5f6f8; padding: 10px 12px; border-radius: 8px; overflow-x: auto;
  font-size: 13px; }
@media (max-width: 600px) { body { padding: 16px 12px 32px; } th, td { padding: 6px 8px; }
  table { font-size: 13px; }
  td:first-child { max-width: 36vw; white-space: normal; overflow-wrap: break-word; } }
"""
_COLOURS = {
    "converged": "good",
    "sampled": "good",
    "did not converge": "bad",
    "failed": "bad",
}


def report_page(
    title: str, comparison: Comparison, about: About, figures: Mapping[str, np.ndarray]
) -> str:
    """Return a page with tables, notes and figures, which asks nothing of any server.

    Parameters
    ----------
    title : str
    comparison : Comparison
    about : About
    figures : mapping of str to array of shape (height, width, 3)
        uint8, by caption.

    Returns
    -------
    str
        HTML.
    """
    rows = headlines(comparison)
    repeat = f"<h2>Run it again</h2><pre>{escape(about.command)}</pre>" if about.command else ""
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(sentence(comparison, about).replace(chr(92), ''))}</p>",
        _headline_table(rows),
        f"<p class=soft>{_legend(rows)}</p>",
        _notes(comparison),
        *(_figure(caption, image) for caption, image in figures.items()),
        "<h2>All metrics of all runs</h2>",
        _whole_table(comparison),
        repeat,
    ]
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _headline_table(rows: Sequence[Headline]) -> str:
    keys = columns(rows)
    heads = "".join(f"<th>{escape(heading(key))}</th>" for key in keys)
    lines = [f"<th>method</th><th class=word>came to</th>{heads}"]
    for row in rows:
        numbers = "".join(f"<td>{number(key, row.medians[key])}</td>" for key in keys)
        lines.append(f"<td>{escape(row.label)}</td><td class=word>{_outcome(row)}</td>{numbers}")
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class=wide><table>{body}</table></div>"


def _outcome(row: Headline) -> str:
    if not row.results:
        return ""
    colour = _COLOURS.get(row.outcome, "fair")
    found = f'<span class="tag {colour}">{escape(row.outcome)}</span>'
    return found + f" {escape(row.verdict)}" * bool(row.verdict)


def _legend(rows: Sequence[Headline]) -> str:
    known = [METRICS[key] for key in columns(rows) if key in METRICS]
    words = [f"{metric.heading or metric.key}: {metric.caption}" for metric in known]
    return escape("; ".join([*words, "seconds: from the model to the draws"]) + ".")


def _notes(comparison: Comparison) -> str:
    names = _names(comparison)
    said = {name: [note] for name, note in zip(names, comparison.table["note"], strict=True)}
    for outcome, runs in flaws(comparison).items():
        for name, reason in runs:
            known = reason and reason not in said[name][0]
            said[name].insert(0, f"{outcome.value}: {reason}" if known else outcome.value)
    items = [
        f"<dt>{escape(name)}</dt><dd>{escape('; '.join(filter(None, notes)))}</dd>"
        for name, notes in said.items()
        if any(notes)
    ]
    return f"<h2>What to know</h2><dl>{''.join(items)}</dl>" if items else ""


def _names(comparison: Comparison) -> list[str]:
    """Return the names of all rows of the table, that of the noise floor last."""
    labels = comparison.table.index.get_level_values("method")
    return [*comparison.names, *map(str, labels[len(comparison.names) :])]


def _figure(caption: str, image: np.ndarray) -> str:
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, image, format="png")
    data = base64.b64encode(file.getvalue()).decode()
    words = escape(caption)
    return (
        f'<h2>{words}</h2><figure><img alt="{words}" src="data:image/png;base64,{data}"></figure>'
    )


def _whole_table(comparison: Comparison) -> str:
    """Return the table on its side: metrics below each other, a column a run."""
    head = "".join(f"<th>{escape(name)}</th>" for name in ["metric", *_names(comparison)])
    lines = []
    for metric in METRICS.values():
        values = comparison.table[metric.key].to_numpy(float)
        cells = "".join(f"<td>{number(metric.key, value)}</td>" for value in values)
        lines.append(f'<tr><td title="{escape(metric.caption)}">{metric.key}</td>{cells}</tr>')
    return f"<div class=wide><table><tr>{head}</tr>{''.join(lines)}</table></div>"
