"""What a comparison finds: results, their scores, figures, a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from pymc_vi_ext._show import ShortTable
from pymc_vi_ext.comparison.metrics import METRICS
from pymc_vi_ext.comparison.noise import COMPARED, NOISE_FLOOR, SEED
from pymc_vi_ext.comparison.references import Posterior
from pymc_vi_ext.comparison.shown import short_table
from pymc_vi_ext.comparison.types import MethodResult, Status
from pymc_vi_ext.diagnostics import Verdict

if TYPE_CHECKING:
    import pandas as pd

    from matplotlib.figure import Figure

_ERROR = "compare/mean_error_sd_max"


@dataclass(frozen=True)
class Comparison:
    """Results of several methods on one model, scored against a reference.

    It prints as the table that ``pymc-vi compare`` shows, and as HTML in notebooks.

    Attributes
    ----------
    results : tuple of MethodResult
        One per (method, seed), in the order in which they ran.
    table : pandas.DataFrame
        One row per result, indexed by ``method`` (label) and ``seed``: ``status``, the metrics of
        :data:`pymc_vi_ext.comparison.METRICS` (seconds, nats, reference standard deviations) and
        ``note``, what a reader should know before trusting the row: why a metric could not be
        computed, for instance. Where the reference has draws, one row more, ``("noise floor", 0)``:
        what draws of the reference itself are off by, below which a distance says nothing.
    reference : xarray.DataTree, xarray.Dataset or None
        The draws or moments that the distances are measured to; None too where what was to be the
        reference has not converged.
    reference_name : str
        What figures call it; empty if there is none.

    Examples
    --------
    >>> from pymc_vi_ext.comparison import make_spec, not_run, summarise
    >>> comparison = summarise([not_run(make_spec("advi"), seed) for seed in (1, 2)], None)
    >>> comparison.table["status"].tolist()
    ['NOT_RUN', 'NOT_RUN']
    """

    results: tuple[MethodResult, ...]
    table: pd.DataFrame
    reference: Posterior | None
    reference_name: str

    def _shown(self) -> ShortTable:
        labels = list(dict.fromkeys(result.label for result in self.results))
        against = f", errors against {self.reference_name}" if self.reference_name else ""
        title = f"{len(labels)} method{'s' * (len(labels) != 1)}{against or ', no reference'}"
        return short_table(title, self.table.reset_index().to_dict(orient="records"))

    def __str__(self) -> str:
        return self._shown().text()

    def _repr_html_(self) -> str:
        return self._shown().html()

    def plot_kde(self, var_names: Sequence[str] | None = None) -> Figure:
        """Overlay the marginal densities of all methods, a panel per element.

        Parameters
        ----------
        var_names : sequence of str, optional
            By default all variables, Deterministics included.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from pymc_vi_ext.plots import plot_kde

        return plot_kde(self.posteriors(), var_names, labels=self.labels)

    def plot_elbo(self) -> Figure:
        """Draw the ELBO (nats) of each optimisation against its steps.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from pymc_vi_ext.plots import plot_elbo

        traces = {
            name: result.losses for name, result in zip(self.names, self.results, strict=True)
        }
        return plot_elbo(traces, labels=self.labels)

    def plot_forest(self, var_names: Sequence[str] | None = None) -> Figure:
        """Draw intervals of all methods, element by element, over those of the reference.

        Parameters
        ----------
        var_names : sequence of str, optional
            By default all variables, Deterministics included.

        Returns
        -------
        matplotlib.figure.Figure
            Medians, 50 % and 90 % intervals.
        """
        from pymc_vi_ext.plots import plot_forest

        return plot_forest(
            self.posteriors(), var_names, reference=self.reference_name, labels=self.labels
        )

    def plot_pair(self, x: str, y: str) -> Figure:
        """Draw the draws of two elements, a panel per method, over those of the reference.

        Parameters
        ----------
        x, y : str
            A variable without dims, such as ``"tau"``, or an element, such as ``"theta[Oslo]"``.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from pymc_vi_ext.plots import plot_pair

        return plot_pair(self.posteriors(), x, y, reference=self.reference_name, labels=self.labels)

    def plot_accuracy(self) -> Figure:
        """Draw the largest error of a mean of each run against its seconds.

        Returns
        -------
        matplotlib.figure.Figure
            A mark per method and seed, and the noise floor. Seconds count from the model on,
            compilation included.

        Raises
        ------
        ValueError
            If there is no reference, and so no error.
        """
        from pymc_vi_ext.plots import plot_accuracy

        if self.reference is None:
            raise ValueError("There is no reference, so that no errors are known.")
        runs: dict[str, list[tuple[float, float]]] = {}
        for name, result, (_, row) in zip(
            self.names, self.results, self.table.iterrows(), strict=False
        ):
            if name != self.reference_name:
                # Of peers those of compilation are not known, and within those of the run.
                seconds = row["time/run_s"] + np.nan_to_num(row["time/compile_s"])
                runs.setdefault(result.label, []).append((seconds, row[_ERROR]))
        labels = filter(None, dict.fromkeys([self.reference_name, *runs]))
        floor = self.noise_floor.get(_ERROR, float("nan"))
        return plot_accuracy(runs, noise_floor=floor, labels=list(labels))

    def summary(self) -> pd.DataFrame:
        """Summarise the seeds of each method.

        Returns
        -------
        pandas.DataFrame
            A row per method in their order, and the noise floor, where there is one. Columns of
            two levels: ``("runs", ...)`` and ``("verdict", ...)`` count how the runs ended and
            what was said of their draws, where a verdict was; ``(metric, "median")``, ``"least"``
            and ``"most"`` are over the seeds for which the metric is known.

        Examples
        --------
        >>> import pymc_vi_ext as vix
        >>> model = vix.zoo.build("mixture")
        >>> exact = vix.zoo.exact("mixture")
        >>> summary = vix.compare(model, ["advi"], exact, seeds=[1, 2]).summary()
        >>> int(summary.loc["advi", ("runs", "finished")])
        2
        >>> bool(summary.loc["advi", ("compare/mean_error_sd_max", "median")] > 0.3)
        True
        """
        import pandas as pd

        verdicts = [*self.verdicts, *[""] * (len(self.table) - len(self.results))]
        ends, said = self.table["status"], pd.Series(verdicts, index=self.table.index)
        counts = {("runs", status.value.lower()): ends == status.value for status in Status}
        counts |= {("verdict", verdict.value): said == verdict.value for verdict in Verdict}
        ranges = self.table[list(METRICS)].groupby("method", sort=False)
        return pd.concat(
            [
                pd.DataFrame(counts).groupby("method", sort=False).sum(),
                ranges.agg(["median", "min", "max"]).rename(
                    columns={"min": "least", "max": "most"}, level=1
                ),
            ],
            axis=1,
        )

    def to_netcdf(self, path: str | Path) -> Path:
        """Write everything to one file, which ``xarray.open_datatree`` reads.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        Path
            Of the file. Its groups: ``/table`` by ``run``, with a metric such as ``diag/khat`` at
            ``/table/diag/khat``; ``/runs/0``, ``/runs/1`` and so on, each with its draws,
            ``losses``, and all else as attributes, options and versions as JSON; and
            ``/reference``, where draws or moments were given.

        Raises
        ------
        ImportError
            Without h5netcdf or h5py.
        """
        from pymc_vi_ext.comparison.storage import save_comparison

        return save_comparison(self, path)

    def posteriors(self) -> dict[str, xr.DataTree]:
        """Return the posteriors of the runs that finished, the given reference's first.

        Returns
        -------
        dict of str to xarray.DataTree
            By the names that figures show.
        """
        found = {
            name: result.datatree
            for name, result in zip(self.names, self.results, strict=True)
            if result.datatree is not None
        }
        if isinstance(self.reference, xr.DataTree) and self.reference_name not in found:
            found = {self.reference_name: self.reference, **found}
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each result in figures: the label, and the seed where there are several."""
        seeds = {result.seed for result in self.results}
        return tuple(
            f"{result.label} (seed {result.seed})" if len(seeds) > 1 else result.label
            for result in self.results
        )

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What was said of the draws of each result, such as PASS; empty where nothing was."""
        trees = [result.datatree for result in self.results]
        return tuple("" if tree is None else tree.attrs.get("verdict", "") for tree in trees)

    @property
    def noise_floor(self) -> dict[str, float]:
        """Distances of the reference from itself, by their keys; empty where there are none."""
        if NOISE_FLOOR not in self.table.index:
            return {}
        row = self.table.loc[(NOISE_FLOOR, SEED)]
        return {key: float(row[key]) for key in METRICS if key.startswith(COMPARED)}

    @property
    def labels(self) -> tuple[str, ...]:
        """All names that figures may show, in the order that gives them their colours."""
        return tuple(dict.fromkeys(filter(None, [self.reference_name, *self.names])))
