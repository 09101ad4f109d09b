"""Short tables in the terminal and in notebooks, from the same rows."""

from __future__ import annotations

import io
import math

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rich import box
from rich.console import Console
from rich.markup import escape as without_markup
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

# Columns of a text that no terminal shows, of a printed table; one that needs more has it.
_WIDTH = 100
# Notebooks and pages have styles of their own for tables, some with no room between cells, and know
# whether the page is light or dark: no colours here.
_CELL = "padding:.15em 1em .15em 0; vertical-align:top"
_NAME, _TEXT, _NUMBER = (
    f' style="{_CELL}; {more}"'
    for more in (
        "text-align:left; white-space:nowrap",
        "text-align:left; min-width:16em",
        "text-align:right; white-space:nowrap",
    )
)


@dataclass(frozen=True)
class ShortTable:
    """A table of some rows, as text and as HTML.

    Attributes
    ----------
    title : str
    heads : sequence of str
        Of the columns; none for a list of names and what they are.
    rows : sequence of sequence of str
        What is missing at the end of a row is empty.
    numbers : bool
        Whether the columns after the first are aligned to the right and keep to one line; else the
        last one is a text that folds.
    styles : sequence of str
        How a terminal with colours shows the first cell of each row, in words of rich.
    caption : str
    notes : sequence of (str, str)
        A name and what is said of it, below.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = False
    styles: Sequence[str] = ()
    caption: str = ""
    notes: Sequence[tuple[str, str]] = ()

    def print_on(self, console: Console) -> None:
        """Print it, as wide as its numbers need: lines that wrap are better than numbers cut."""
        table = self._table()
        needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
        if not self.numbers:
            needed = min(needed, _WIDTH)
        options = console.options.update(width=max(needed, console.width))
        for segments in console.render_lines(table, options, pad=False):
            line = Text.assemble(*((part.text, part.style or "") for part in segments))
            line.rstrip()
            console.print(line, soft_wrap=True)
        if self.caption:
            console.print(Text(self.caption, style="dim italic"))
        for name, said in self.notes:
            lead = (f"{name}: ", "bold") if name else ("", "")
            console.print(Text.assemble(lead, said), soft_wrap=True)

    def text(self) -> str:
        """Return it as lines of plain text."""
        file = io.StringIO()
        # Whatever shows it: a terminal's colours would be control characters in a file.
        plain = Console(file=file, width=_WIDTH, color_system=None, force_jupyter=False)
        self.print_on(plain)
        return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())

    def html(self) -> str:
        """Return it as HTML without scripts and colours, which scrolls where it is too wide."""
        columns = self._columns
        last = _NUMBER if self.numbers else _TEXT
        between = _NUMBER if self.numbers else _NAME
        sides = [_NAME, *[between] * (columns - 2), last]
        head = "".join(f"<th{s}>{escape(h)}</th>" for h, s in zip(self.heads, sides, strict=False))
        body = ""
        for row in self.rows:
            cells = [*row, *[""] * (columns - len(row))]
            inside = "".join(f"<td{s}>{escape(c)}</td>" for c, s in zip(cells, sides, strict=True))
            body += f"<tr>{inside}</tr>"
        notes = "".join(
            f"<p>{f'<b>{escape(name)}</b>: ' if name else ''}{escape(said)}</p>"
            for name, said in self.notes
        )
        return (
            f"<p><b>{escape(self.title)}</b></p>"
            '<div style="overflow-x:auto"><table style="margin:0">'
            + f"<thead><tr>{head}</tr></thead>" * bool(self.heads)
            + f"<tbody>{body}</tbody></table></div>"
            + f"<p><small>{escape(self.caption)}</small></p>" * bool(self.caption)
            + notes
        )

    @property
    def _columns(self) -> int:
        return max([len(self.heads), *map(len, self.rows)])

    def _table(self) -> Table:
        table = Table(
            title=without_markup(self.title),
            title_style="bold",
            title_justify="left",
            box=box.SIMPLE_HEAD if self.heads else None,
            show_header=bool(self.heads),
            show_edge=False,
            pad_edge=False,
            padding=(0, 1 if self.heads else 2, 0, 0),
        )
        columns = self._columns
        for k in range(columns):
            head = self.heads[k] if self.heads else ""
            if self.numbers:
                table.add_column(head, justify="right" if k else "left", no_wrap=True)
            else:
                table.add_column(head, no_wrap=k + 1 < columns, overflow="fold")
        for k, row in enumerate(self.rows):
            first = Text(row[0], style=self.styles[k] if self.styles else "")
            table.add_row(first, *map(Text, row[1:]))
        return table


def shown(value: float) -> str:
    """Write a loss, or another number that may be of any size, to about five figures."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "not finite"
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.5g}"


def seconds_shown(seconds: float) -> str:
    """Write how long something took, as a person would say it."""
    if math.isnan(seconds):
        return "an unknown time"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"
