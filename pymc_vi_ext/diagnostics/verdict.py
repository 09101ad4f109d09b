"""A verdict, and the checks that it rests on."""

from __future__ import annotations

import enum

from dataclasses import dataclass

from pymc_vi_ext._show import ShortTable


class Verdict(enum.Enum):
    """What a check says, or all of them together.

    Attributes
    ----------
    PASS
        Nothing speaks against the result.
    WARN
        Near, or not known well enough.
    FAIL
        Not the posterior, or nothing shows that it is.

    Examples
    --------
    >>> from pymc_vi_ext import Verdict
    >>> max(Verdict.PASS, Verdict.WARN, key=lambda verdict: verdict.rank)
    <Verdict.WARN: 'WARN'>
    """

    PASS = "PASS"
    """Nothing speaks against the result."""
    WARN = "WARN"
    """Near, or not known well enough."""
    FAIL = "FAIL"
    """Not the posterior, or nothing shows that it is."""

    @property
    def rank(self) -> int:
        """0 of the best."""
        return list(Verdict).index(self)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
    value : float or str
        What was found.
    threshold : str
        What it has to be for a PASS; empty where it only informs.
    verdict : Verdict
    advice : str
        One sentence: what to do about it, or what it means.

    Examples
    --------
    >>> from pymc_vi_ext.diagnostics import Check, Verdict
    >>> check = Check("R-hat", 1.2, "< 1.01", Verdict.FAIL, "Draw longer.")
    >>> check.shown, check.advice
    ('1.2', 'Draw longer.')
    """

    name: str
    value: float | str
    threshold: str
    verdict: Verdict
    advice: str = ""

    @property
    def shown(self) -> str:
        """The value as text."""
        return self.value if isinstance(self.value, str) else f"{self.value:.4g}"


@dataclass(frozen=True)
class Diagnosis:
    """How far a result can be trusted as the posterior.

    Attributes
    ----------
    checks : tuple of Check
    looked_for : str
        What a PASS does not say: what nothing here has looked for.

    Examples
    --------
    >>> from pymc_vi_ext.diagnostics import Check, Diagnosis, Verdict
    >>> found = Diagnosis((Check("R-hat", 1.2, "< 1.01", Verdict.FAIL, "Draw longer."),))
    >>> found.verdict
    <Verdict.FAIL: 'FAIL'>
    >>> print(found)
    FAIL
          check  value  threshold  advice
    ───────────────────────────────────────────
    FAIL  R-hat  1.2    < 1.01     Draw longer.
    """

    checks: tuple[Check, ...]
    looked_for: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst of all checks."""
        return max((check.verdict for check in self.checks), key=lambda verdict: verdict.rank)

    @property
    def in_a_line(self) -> str:
        """What was found, without thresholds and advice."""
        return ", ".join(f"{check.name} {check.shown}" for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        """Return the check of this name."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"No check {name!r}: there are {', '.join(c.name for c in self.checks)}.")

    def _table(self) -> ShortTable:
        heads = ("", "check", "value", "threshold", "advice")
        rows = [(c.verdict.value, c.name, c.shown, c.threshold, c.advice) for c in self.checks]
        notes = [("", self.looked_for)] if self.looked_for else []
        return ShortTable(self.verdict.value, heads, rows, notes=notes)

    def __str__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()


def graded(
    name: str, value: float, passes: float, warns: float, advice: str, *, above: bool = False
) -> Check:
    """Return a check of a number that is to be below a threshold, or above.

    Parameters
    ----------
    name : str
    value : float
        NaN fails.
    passes, warns : float
        On the right side of the first it passes, of the second it warns, else it fails.
    advice : str
        Given where it does not pass.
    above : bool
        Whether large values are good.
    """
    sign = -1.0 if above else 1.0
    verdict = Verdict.FAIL
    if sign * value < sign * passes:
        verdict = Verdict.PASS
    elif sign * value < sign * warns:
        verdict = Verdict.WARN
    shown = f"{'>' if above else '<'} {passes:g}"
    return Check(name, value, shown, verdict, "" if verdict is Verdict.PASS else advice)
