"""Record statistics along a fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from pymc.model import Model
from pymc.variational.opvi import Approximation

from pymc_vi_ext.callbacks._signatures import call, numbers_of_arguments
from pymc_vi_ext.callbacks.callback import Callback, Losses
from pymc_vi_ext.options import whole_number
from pymc_vi_ext.upstream import layout


class Tracker(Callback):
    """Record the values of functions every few steps.

    PyMC's callback of that name with a rhythm, the steps, a bounded length, a Dataset and a figure.
    Like PyMC's it keeps what it has over several fits, until :meth:`clear`.

    Parameters
    ----------
    every : int
        Steps between two records.
    max_length : int
        Most records kept. When there are more, every second one is dropped, and from then on
        twice as many steps lie between two.
    **statistics
        By name, functions of no argument or of ``(approx, losses, i)``, told apart by their
        signature. One that takes either, or does not tell (``time.time``), is called without
        arguments, and with them if that fails. Their values are numbers, arrays, or dictionaries
        of these by variable.

    Attributes
    ----------
    hist : dict of str to list
        The values recorded; ``tracker["name"]`` is short for ``tracker.hist["name"]``.
    whatchdict : dict of str to callable
        The statistics, as PyMC spells it.

    Raises
    ------
    ValueError
        If `every` is not a whole number from 1, or `max_length` not one from 2.
    TypeError
        If a statistic is no function, or takes other arguments.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> from pymc_vi_ext.callbacks import Tracker
    >>> with pm.Model(coords={"city": ["Rome", "Oslo"]}):
    ...     x = pm.Normal("x", dims="city")
    ...     advi = vix.ADVI()
    ...     tracker = Tracker(every=10, mean=advi.approx.mean.eval, loss=lambda a, h, i: h[-1])
    ...     approx = vix.fit(100, advi, convergence=None, callbacks=[tracker], progressbar=False)
    >>> len(tracker["mean"]), tracker.steps[:3]
    (10, array([10, 20, 30]))
    >>> tracker.to_dataset()["mean_x"].dims
    ('step', 'city')
    """

    def __init__(self, every: int = 1, max_length: int = 10_000, **statistics: Callable[..., Any]):
        self.max_length = whole_number("max_length", max_length, least=2)
        self.whatchdict = statistics
        self._counts = {
            name: numbers_of_arguments(function, (0, 3), f"The statistic {name!r}")
            for name, function in statistics.items()
        }
        self._approx: Approximation | None = None
        super().__init__(every)

    def __getitem__(self, name: str) -> list[Any]:
        """Return the values recorded of a statistic."""
        return self.hist[name]

    @property
    def steps(self) -> np.ndarray:
        """Steps of the records, of shape (records,); those of a next fit are counted on."""
        return np.array(self._steps, dtype=np.int64)

    def _begin(self) -> None:
        self.hist: dict[str, list[Any]] = {name: [] for name in self.whatchdict}
        self._steps: list[int] = []
        self._stride = 1
        self._before = 0

    def _begin_again(self) -> None:
        self._before += self._last
        self._last = 0

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        self._approx = approx
        step = self._before + i
        if step % (self.every * self._stride):
            return
        for name in self.whatchdict:
            self.hist[name].append(self._value(name, (approx, losses, i)))
        self._steps.append(step)
        if len(self._steps) > self.max_length:
            self._thin()

    def _value(self, name: str, arguments: tuple[Any, ...]) -> Any:
        function, counts = self.whatchdict[name], self._counts[name]
        try:
            return call(function, counts[0], arguments)
        except Exception:
            if len(counts) == 1:
                raise
        value = call(function, counts[1], arguments)
        self._counts[name] = counts[1:]
        return value

    def _thin(self) -> None:
        self._stride *= 2
        kept = [j for j, i in enumerate(self._steps) if i % (self.every * self._stride) == 0]
        self._steps = [self._steps[j] for j in kept]
        for values in self.hist.values():
            values[:] = [values[j] for j in kept]

    def to_dataset(self, model: Model | None = None) -> xr.Dataset:
        """Return the records as a Dataset.

        Parameters
        ----------
        model : pymc.Model, optional
            Whose dims and coords are taken; by default the one of the last fit.

        Returns
        -------
        xarray.Dataset
            Dimension ``step`` first, with the steps as its coordinate. A statistic that returns
            dictionaries gives a variable ``statistic_variable`` for each key, and so does one of
            the shape of the flat unconstrained space (``approx.mean.eval``), for each of the
            model's variables there. These have the model's dims and coords where their shape is
            that of the variable; others have dims of their own.

        Raises
        ------
        ValueError
            If the values of a statistic change their shape.
        """
        if model is None and self._approx is not None:
            model = self._approx.model
        arrays, coords = {}, {"step": self.steps}
        for (name, key), values in self._arrays().items():
            parts = self._split(values) if key is None else {key: values}
            for variable, part in parts.items():
                title = f"{name}_{variable}" if variable else name
                dims, known = _dims(variable, part.shape[1:], title, model)
                arrays[title] = (("step", *dims), part)
                coords |= known
        return xr.Dataset(arrays, coords)

    def plot(self) -> np.ndarray:
        """Draw each statistic against the steps, a line for each of its elements.

        Returns
        -------
        numpy.ndarray of matplotlib.axes.Axes, shape (variables of the Dataset,)

        Raises
        ------
        ImportError
            Without matplotlib.
        ValueError
            If nothing was recorded.
        """
        from pymc_vi_ext.plots._style import new_figure, tidy

        data = self.to_dataset()
        if not self._steps or not data.data_vars:
            raise ValueError("There is nothing to plot: the tracker has recorded nothing.")
        figure = new_figure(7.0, 1.0 + 1.8 * len(data.data_vars))
        panels = figure.subplots(len(data.data_vars), squeeze=False, sharex=True)[:, 0]
        for axes, (name, array) in zip(panels, data.data_vars.items(), strict=True):
            axes.plot(self._steps, array.values.reshape(len(self._steps), -1), linewidth=1)
            axes.set_ylabel(name)
            tidy(axes)
        panels[-1].set_xlabel("step")
        return panels

    def state_dict(self) -> dict[str, Any]:
        """Return all that :meth:`load_state_dict` needs to go on as if nothing had happened.

        Returns
        -------
        dict of str to int, str, list[Any] or numpy.ndarray
            The values of a statistic are stacked.

        Raises
        ------
        ValueError
            If the values of a statistic change their shape.
        TypeError
            If they are not arrays of numbers.
        """
        values = {
            f"hist/{name}" if key is None else f"hist/{name}/{key}": array
            for (name, key), array in self._arrays().items()
        }
        return super().state_dict() | values

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` of a tracker with the same options returned."""
        own = {name: value for name, value in state.items() if not name.startswith("hist/")}
        super().load_state_dict(own)
        self.hist = {name: [] for name in self.whatchdict}
        for path, values in state.items():
            _, _, rest = path.partition("hist/")
            name, _, key = rest.partition("/")
            if name not in self.hist:
                continue
            if key:
                rows = self.hist[name] or [{} for _ in values]
                self.hist[name] = [row | {key: v} for row, v in zip(rows, values, strict=True)]
            else:
                self.hist[name] = list(values)

    _saved = ("steps", "stride", "before")

    def _arrays(self) -> dict[tuple[str, str | None], np.ndarray]:
        """Return the records stacked, by statistic and, for dictionaries, key."""
        arrays = {}
        for name, values in self.hist.items():
            if values and isinstance(values[0], Mapping):
                for key in values[0]:
                    arrays[name, key] = _stack(f"{name}[{key!r}]", [v[key] for v in values])
            elif values:
                arrays[name, None] = _stack(name, values)
        return arrays

    def _split(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Cut a flat vector of all variables into them; anything else comes back as it is."""
        groups = [] if self._approx is None else self._approx.groups
        if len(groups) != 1 or values.shape[1:] != (groups[0].ddim,):
            return {"": values}
        return {
            name: values[:, where].reshape(len(values), *shape)
            for name, (where, shape) in layout(groups[0]).items()
        }


def _stack(name: str, values: list[Any]) -> np.ndarray:
    try:
        array = np.stack([np.asarray(value) for value in values])
    except ValueError:
        raise ValueError(
            f"The values of the statistic {name} change their shape on the way."
        ) from None
    if array.dtype == object:
        raise TypeError(f"The values of the statistic {name} are not arrays: {values[0]!r}.")
    return array


def _dims(
    variable: str, shape: tuple[int, ...], title: str, model: Model | None
) -> tuple[list[str], dict[str, Any]]:
    """Return dims and coords of a variable, those of the model where they fit."""
    own = [f"{title}_dim_{axis}" for axis in range(len(shape))]
    if model is None:
        return own, {}
    names = {value.name: rv.name for rv, value in model.rvs_to_values.items()}
    name = names.get(variable, variable)
    dims = [str(dim) for dim in model.named_vars_to_dims.get(name, ())]
    if len(dims) != len(shape):
        return own, {}
    lengths = [int(model.dim_lengths[dim].eval()) for dim in dims]
    if lengths != list(shape):
        return own, {}
    return dims, {d: list(model.coords[d]) for d in dims if model.coords.get(d) is not None}
