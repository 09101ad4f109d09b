"""What a fit leaves in the DataTree of its draws: attributes, and the group ``variational``."""

from __future__ import annotations

import json
import math

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from pymc.variational.opvi import Approximation, Group

from pymc_vi_ext.approximations.empirical import Empirical
from pymc_vi_ext.callbacks.tracker import Tracker
from pymc_vi_ext.errors import warn
from pymc_vi_ext.state import running
from pymc_vi_ext.upstream import layout

if TYPE_CHECKING:
    from pymc_vi_ext.results import FitReport


def attributes_of(approx: Approximation) -> dict[str, str | int | float]:
    """Return what the report of a fit says, as netCDF can hold it; nothing without a report."""
    report = _report(approx)
    if report is None:
        return {}
    attributes: dict[str, str | int | float] = {
        "method": report.method,
        "approximation": type(approx).__name__,
        "stop_reason": report.stop_reason.value,
        "evidence": report.evidence,
        "backend": report.backend,
        "steps": report.steps,
        "fit_seconds": report.timings.total_s,
        "seed": -1 if report.seed is None else int(report.seed),
        "versions": json.dumps(dict(report.versions)),
    }
    if not math.isnan(report.khat):
        attributes["khat"] = report.khat
    # A correction of a fit judges its own draws, and not those of the fit.
    if isinstance(approx, Empirical) and report.verdict is not None:
        attributes["verdict"] = report.verdict.value
    return attributes


def variational_group(approx: Approximation) -> xr.DataTree:
    r"""Return the losses of a fit, the records of its trackers, and the variational parameters.

    Parameters
    ----------
    approx : Approximation

    Returns
    -------
    DataTree
        ``loss`` (step), where there is a history. A child for each group of the approximation, by
        the name of its family, with its parameters; their axes that go over the group's
        unconstrained space are called ``element``. A child ``tracked`` for each
        :class:`~pymc_vi_ext.callbacks.Tracker` of the last fit, (tracked_step, \*dims). Of several
        of a name each has a number behind it.
    """
    children = [(group.short_name, _parameters(group)) for group in approx.groups]
    children += [("tracked", records) for records in _records(approx)]
    names = _numbered([name for name, _ in children])
    below = {name: xr.DataTree(own) for name, (_, own) in zip(names, children, strict=True)}
    return xr.DataTree(_losses(approx), children=below)


def _report(approx: Approximation) -> FitReport | None:
    report: FitReport | None = vars(approx).get("report")
    return report


def _numbered(names: Sequence[str]) -> list[str]:
    """Return `names`; those that are there several times are numbered from 0."""
    return [
        name if names.count(name) == 1 else f"{name}_{names[:place].count(name)}"
        for place, name in enumerate(names)
    ]


def _losses(approx: Approximation) -> xr.Dataset:
    """Return the history of all fits of an approximation, which is that of its inference."""
    losses: np.ndarray | None = vars(approx).get("hist")
    if losses is None or not len(losses):
        return xr.Dataset()
    report = _report(approx)
    attributes = {} if report is None else {"long_name": report.loss}
    steps = np.arange(1, len(losses) + 1)
    return xr.Dataset({"loss": ("step", np.array(losses), attributes)}, {"step": steps})


def _parameters(group: Group) -> xr.Dataset:
    """Return the parameters of a group that are its own, and not graphs of the user's."""
    names = {parameter: name for name, parameter in group.params_dict.items()}
    arrays = {}
    for parameter in group.params:
        name = names[parameter]
        axes = enumerate(group.__param_spec__[name])
        dims = [f"{name}_dim_{axis}" if size != "d" else "element" for axis, size in axes]
        arrays[name] = (dims, parameter.get_value())
    return xr.Dataset(arrays, {"element": _elements(layout(group))})


def _elements(variables: Mapping[str, tuple[slice, tuple[int, ...]]]) -> list[str]:
    """Name the elements of a group's unconstrained space: ``tau_log__``, ``theta[0]``."""
    return [
        f"{name}[{','.join(map(str, index))}]" if index else name
        for name, (_, shape) in variables.items()
        for index in np.ndindex(shape)
    ]


def _records(approx: Approximation) -> Iterator[xr.Dataset]:
    """Return what the trackers of the last fit have recorded, if it can be laid out."""
    state = running(approx)
    trackers = [] if state is None else [c for c in state.callbacks if isinstance(c, Tracker)]
    for tracker in trackers:
        try:
            yield tracker.to_dataset().rename(step="tracked_step")
        except (TypeError, ValueError) as error:
            warn(
                f"A Tracker's records are not in the group `variational`: {error} They are in the "
                "Tracker itself, by the name of each."
            )
