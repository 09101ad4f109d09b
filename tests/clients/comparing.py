"""A library's model, fitted by the package and sampled by NUTS."""

from __future__ import annotations

import time

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pymc as pm

from clients.models import Client

import pymc_vi_ext as vix

from pymc_vi_ext.diagnostics import khat
from pymc_vi_ext.modes import unconstrained_points

DRAWS = 1_000
# As :func:`pymc.sample` by default; two chains for two cores.
CHAINS, TUNE = 2, 1_000


@dataclass
class Row:
    """What became of both.

    Attributes
    ----------
    method, stop_reason : str
    fit_s, nuts_s : float
        Seconds from model to draws.
    worst_mean : float
        Largest distance of means, in standard deviations of NUTS.
    worst_sd : float
        Standard deviation furthest from that of NUTS, as a ratio.
    worst_use : float
        Largest distance of what the library makes of both, in standard deviations over what it
        makes.
    khat : float
        Pareto k-hat of the fit.
    warnings : tuple of str
    evidence : str
    """

    method: str
    stop_reason: str
    fit_s: float
    nuts_s: float
    worst_mean: float
    worst_sd: float
    worst_use: float
    khat: float
    warnings: tuple[str, ...]
    evidence: str

    @property
    def flagged(self) -> bool:
        """Whether the fit itself says that it is not the posterior."""
        return bool(self.warnings) or self.khat > 0.7 or "too few" in self.evidence

    @property
    def agrees(self) -> bool:
        """Whether means are within .3 standard deviations, and these within a third."""
        return self.worst_mean < 0.3 and 0.75 < self.worst_sd < 1.33


def compared(client: Client, folder: Path) -> Row:
    """Fit a client's model, sample it, and let the client use both."""
    started = time.perf_counter()
    approx = vix.fit(method=client.method, model=client.model, random_seed=1, progressbar=False)
    tree = client.tree(approx, DRAWS, random_seed=1)
    fit_s = time.perf_counter() - started
    plain = vix.to_datatree(approx, DRAWS, random_seed=1)
    started = time.perf_counter()
    with client.model:
        nuts = pm.sample(
            DRAWS,
            tune=TUNE,
            chains=CHAINS,
            var_names=client.names,
            random_seed=1,
            progressbar=False,
        )
    nuts_s = time.perf_counter() - started
    # On the unconstrained space, where tails are those of normal distributions.
    here, there = (
        unconstrained_points(client.model, t["posterior"].to_dataset()) for t in (plain, nuts)
    )
    sd = there.std(axis=0)
    ratios = here.std(axis=0) / sd
    ours = client.uses(tree, folder)
    theirs = client.uses(client.sampled(nuts), folder)
    report = approx.report
    return Row(
        client.method,
        report.stop_reason.value,
        fit_s,
        nuts_s,
        float(np.abs((here.mean(axis=0) - there.mean(axis=0)) / sd).max()),
        float(ratios[np.argmax(np.abs(np.log(ratios)))]),
        float(np.abs(ours - theirs).max() / theirs.std()),
        khat(plain),
        report.warnings,
        report.evidence,
    )
