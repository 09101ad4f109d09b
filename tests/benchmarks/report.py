"""The table of the benchmark, its targets and the machine it ran on."""

from __future__ import annotations

import os
import statistics

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Row:
    """What was measured of one rival on one model.

    Attributes
    ----------
    rival, label, world : str
        Name in the table of rivals, how it is shown, and who it is.
    repetitions : list of float
        Microseconds per step of each repetition, warm.
    steps : int
        Of a warm repetition.
    cold_repetitions : list of float
        Seconds from the model to `cold_steps` steps, compilation included.
    cold_extrapolated, steps_cut : bool
        Whether the cold run stopped before its last step, after `cold_taken` steps, and the rest
        was extrapolated; and whether the time per step is from fewer steps too.
    loss : float or None
        Mean of the last 200 losses of the cold run, in nats; of SVGD minus the mean log density
        of the particles.
    diverged : bool
        Whether that loss is not finite.
    problem : str
        Why there are no numbers.
    """

    rival: str
    label: str
    world: str
    repetitions: list[float] = field(default_factory=list)
    cold_repetitions: list[float] = field(default_factory=list)
    steps: int = 0
    cold_extrapolated: bool = False
    cold_taken: int = 0
    steps_cut: bool = False
    loss: float | None = None
    diverged: bool = False
    problem: str = ""

    @property
    def step_us(self) -> float | None:
        """Median of the repetitions."""
        return statistics.median(self.repetitions) if self.repetitions else None

    @property
    def cold_s(self) -> float | None:
        """Median of the cold repetitions."""
        return statistics.median(self.cold_repetitions) if self.cold_repetitions else None


@dataclass
class Section:
    """All rivals on one model.

    Attributes
    ----------
    model : str
    particles : int
        0 for ADVI.
    steps, cold_steps : int
        Of a warm repetition, and of a cold run.
    rows : list of Row
    """

    model: str
    particles: int
    steps: int
    cold_steps: int
    rows: list[Row] = field(default_factory=list)

    @property
    def title(self) -> str:
        """As in the table."""
        if not self.particles:
            return self.model
        return f"{self.model}, SVGD {self.particles:,} x {self.cold_steps:,}"

    def row(self, rival: str) -> Row | None:
        """Return the row of a rival, None where it was not asked for."""
        return next((r for r in self.rows if r.rival == rival), None)

    def fastest(self, quantity: str, world: str) -> Row | None:
        """Return the row of least `quantity` (``step_us`` or ``cold_s``) among those of a world."""
        rows = [r for r in self.rows if r.world == world and getattr(r, quantity) is not None]
        return min(rows, key=lambda r: getattr(r, quantity), default=None)


def machine() -> dict[str, Any]:
    """Name the processor, its cores, the memory and the accelerators."""
    import jax

    cpu = _first(Path("/proc/cpuinfo"), "model name") or "unknown processor"
    memory = _first(Path("/proc/meminfo"), "MemTotal") or "0 kB"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu,
        "cores": cores,
        "memory_gib": round(int(memory.split()[0]) / 2**20),
        "jax_backend": jax.default_backend(),
        "jax_device": jax.devices()[0].device_kind,
    }


def _first(file: Path, key: str) -> str | None:
    if not file.exists():
        return None
    for line in file.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def as_json(
    sections: list[Section], machine: dict[str, Any], versions: dict[str, Any], **settings: Any
) -> dict[str, Any]:
    """Return everything measured, for other programs."""
    models = []
    for section in sections:
        entry = asdict(section)
        for row, described in zip(section.rows, entry["rows"], strict=True):
            described |= {"step_us": row.step_us, "cold_s": row.cold_s}
        models.append(entry)
    return {
        "machine": machine,
        "versions": versions,
        "settings": settings,
        "models": models,
        "targets": [asdict(t) for t in targets(sections)],
    }


def section_from_json(entry: dict[str, Any]) -> Section:
    """Return the section that :func:`as_json` wrote."""
    derived = {"step_us", "cold_s"}
    rows = [Row(**{k: v for k, v in row.items() if k not in derived}) for row in entry["rows"]]
    return Section(**(entry | {"rows": rows}))


@dataclass
class Target:
    """A target and how far the measurement is from it."""

    name: str
    where: str
    measured: str
    reached: bool


def targets(sections: list[Section]) -> list[Target]:
    """Compare with what was to be reached, as far as both sides were measured."""
    found = []
    for section in sections:
        found += _svgd_targets(section) if section.particles else _advi_targets(section)
    return found


def _advi_targets(section: Section) -> list[Target]:
    found = []

    def add(name: str, text: str, reached: bool) -> None:
        found.append(Target(name, section.title, text, reached))

    ours, bar = section.row("vix-jax"), section.row("vix-jax-bar")
    numpyro, limit = section.row("numpyro"), section.fastest("step_us", "limit")
    if ours and ours.step_us and limit and limit.step_us:
        ratio = ours.step_us / limit.step_us
        name = "within 1.15 of the limit (the faster of its two forms)"
        add(name, f"{ratio:.2f}", ratio <= 1.15)
    pymc = [r for r in section.rows if r.rival.startswith("pymc-") and r.step_us]
    if ours and ours.step_us and pymc and section.model in ("gamma", "mixture"):
        rival = min(pymc, key=lambda r: r.step_us or 0.0)
        ratio = (rival.step_us or 0.0) / ours.step_us
        name = "50 times faster a step than the fastest `pm.fit`"
        add(name, f"{ratio:.0f} x ({rival.label})", ratio >= 50)
    if bar and bar.step_us and numpyro and numpyro.step_us:
        ratio = bar.step_us / numpyro.step_us
        add(
            "with progress bar and callback not slower than NumPyro without",
            f"{ratio:.2f} of its time",
            ratio <= 1.0,
        )
    quickest = section.fastest("cold_s", "pymc")
    if ours and ours.cold_s and quickest and quickest.cold_s:
        ratio = quickest.cold_s / ours.cold_s
        add(
            f"from the model to {section.cold_steps:,} steps in a fifth of any PyMC rival's time",
            f"{ratio:.1f} x ({quickest.label})",
            ratio >= 5,
        )
    return found


def _svgd_targets(section: Section) -> list[Target]:
    ours, rival = section.row("vix-jax"), section.fastest("step_us", "pymc")
    if not (ours and ours.step_us and rival and rival.step_us):
        return []
    ratio = rival.step_us / ours.step_us
    name = "SVGD 30 times faster a step than the fastest `pm.fit`"
    return [Target(name, section.title, f"{ratio:.0f} x ({rival.label})", ratio >= 30)]


def as_markdown(
    sections: list[Section], machine: dict[str, Any], versions: dict[str, Any], **settings: Any
) -> str:
    """Return the table, with the machine above and the targets beneath."""
    device = machine["jax_device"] if machine["jax_backend"] != "cpu" else "CPU"
    lines = [
        f"# Speed: {machine['jax_backend'].upper()}",
        "",
        (
            f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB of "
            f"memory; JAX on {device}, PyTensor's numba and C on the CPU. float64."
        ),
        "",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in versions["main"].items() if v) + ".",
    ]
    if latest := versions.get("latest"):
        lines += [
            "",
            f"Rows marked [latest] ran on PyMC {latest['pymc']}, pytensor {latest['pytensor']}.",
        ]
    lines += [
        "",
        "| model | rival | µs a step | rival / ours | s, model to result | rival / ours | loss |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for section in sections:
        ours = section.row("vix-jax") or Row("", "", "")
        lines += [_line(section, row, ours) for row in section.rows]
    lines += ["", *_notes(sections, settings), "", "## Targets", ""]
    lines += ["| target | model | measured | |", "|---|---|--:|---|"]
    lines += [
        f"| {t.name} | {t.where} | {t.measured} | {'reached' if t.reached else '**not reached**'} |"
        for t in targets(sections)
    ]
    return "\n".join(lines) + "\n"


def _line(section: Section, row: Row, ours: Row) -> str:
    cells = [section.title, row.label]
    if row.problem:
        return f"| {' | '.join([*cells, row.problem.replace('|', '/'), '', '', '', ''])} |"
    step, cold = row.step_us, row.cold_s
    cells += [
        ("~" if row.steps_cut else "") + _number(step),
        _ratio(step, ours.step_us),
        ("~" if row.cold_extrapolated else "") + _number(cold),
        _ratio(cold, ours.cold_s),
        "not finite" if row.diverged else "" if row.loss is None else f"{row.loss:,.4g}",
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(value: float | None, ours: float | None) -> str:
    return f"{value / ours:.3g}" if value and ours else ""


def _number(value: float | None) -> str:
    if value is None:
        return ""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"


def _notes(sections: list[Section], settings: dict[str, Any]) -> list[str]:
    warm = ", ".join(f"{s.steps:,} on {s.title}" for s in sections)
    cold = " or ".join(f"{n:,}" for n in dict.fromkeys(s.cold_steps for s in sections))
    hasty = ["**A quick run: too few steps for its numbers to be quoted.**", ""]
    return [
        *(hasty if settings["quick"] else []),
        (
            "How it was measured. Every rival takes the same steps: one draw a step for ADVI, Adam "
            "with a learning rate of 0.01, in float64."
        ),
        "",
        (
            f"- Microseconds a step: median of {settings['repeats']} repetitions on a program that "
            f"is compiled already, the rivals taking turns (steps of a run: {warm}; a tenth of "
            "them for ADVI rivals that return to Python at every step)."
        ),
        (
            "- Seconds from model to result: a process of its own with empty compilation caches, "
            f"from the PyMC model to the last of {cold} steps, imports excluded, median of three "
            "where that takes less than 15 s. For the limit, "
            "NumPyro and BlackJAX from the log density as a JAX function, which costs them nothing "
            "here."
        ),
        (
            "- `pm.fit` runs without its progress bar, which makes it faster; NumPyro without its "
            "own and as a whole under `jax.jit`; `fit_advi` without its posterior draws."
        ),
        (
            "- Loss: mean of the last 200 of that run, for SVGD minus the mean log density of the "
            "particles. It says whether all solve the same problem."
        ),
        (
            f"- ~ stands before numbers of a rival that was stopped after {settings['cap']:g} s: "
            "a time per step from fewer steps, a total extrapolated with it."
        ),
    ]
