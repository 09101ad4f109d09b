"""Data that a configuration names: columns of tables, variables of netCDF files and of the zoo."""

from __future__ import annotations

import hashlib

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pymc_vi_ext import zoo
from pymc_vi_ext.comparison._sentences import shown
from pymc_vi_ext.comparison._strict import Strict

if TYPE_CHECKING:
    import pandas as pd


class DataSource(Strict):
    """Where the data of one parameter of a model come from.

    Either ``file``, with ``columns`` of a table or the ``variable`` of a netCDF file, or ``zoo``
    with a ``variable``.
    """

    file: str | None = Field(
        default=None,
        description="A .csv, .parquet or .nc file, relative to the configuration.",
    )
    zoo: str | None = Field(
        default=None, description="A model of the zoo, with its default parameters."
    )
    columns: str | list[str] | None = Field(
        default=None,
        description="Of a table: a column gives an array (rows), a list of them (rows, columns). "
        "Text becomes whole numbers, in the order of the alphabet.",
    )
    variable: str | None = Field(
        default=None, description="Of a netCDF file, or data of a model of the zoo."
    )

    @model_validator(mode="after")
    def _is_one_thing(self) -> DataSource:
        if problem := self._problem():
            raise PydanticCustomError("sentence", "{problem}", {"problem": problem})
        return self

    def _problem(self) -> str:
        if (self.file is None) == (self.zoo is None):
            return "data come from a `file` or from a model of the `zoo`, one of the two"
        if self.zoo is not None:
            if self.zoo not in zoo.MODELS:
                known = ", ".join(zoo.MODELS)
                return f"there is no model {shown(self.zoo)} in the zoo; there are {known}"
            wanted, other = "variable", "columns"
        else:
            suffix = Path(str(self.file)).suffix.lower()
            if suffix not in _READERS:
                known = ", ".join(_READERS)
                return f"{shown(self.file)} is no file of a kind that is read: {known}"
            wanted, other = ("variable", "columns") if suffix == ".nc" else ("columns", "variable")
        if not getattr(self, wanted) or getattr(self, other) is not None:
            return f"say which `{wanted}` of {shown(self.file or self.zoo)}, and no `{other}`"
        return ""


def read_data(source: DataSource, folder: Path) -> np.ndarray:
    """Return the data of a parameter.

    Parameters
    ----------
    source : DataSource
    folder : Path
        That a relative file counts from.

    Returns
    -------
    numpy.ndarray
        (rows,) of a column, (rows, columns) of several, and a variable as it is.

    Raises
    ------
    ValueError
        With a sentence, if there is no such file, column or variable, or values are missing.
    """
    if source.zoo is not None:
        return _of_the_zoo(source.zoo, str(source.variable))
    path = folder / str(source.file)
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        return _READERS[path.suffix.lower()](path, source)
    except (OSError, UnicodeDecodeError, ImportError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def file_digest(path: Path) -> str:
    """Return a digest of what a file has now; empty where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _csv(path: Path, source: DataSource) -> np.ndarray:
    import pandas as pd

    try:
        table = pd.read_csv(path)
    except pd.errors.ParserError as error:
        raise ValueError(f"{path} is no table: {error}") from error
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{path} is empty") from error
    return _columns(table, path, source)


def _parquet(path: Path, source: DataSource) -> np.ndarray:
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except ValueError as error:  # Arrow's
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    return _columns(table, path, source)


def _columns(table: pd.DataFrame, path: Path, source: DataSource) -> np.ndarray:
    assert source.columns is not None
    names = [source.columns] if isinstance(source.columns, str) else source.columns
    for name in names:
        if name not in table:
            known = ", ".join(map(str, table.columns))
            raise ValueError(f"{path} has no column {name!r}; it has {known}")
    arrays = [_numbers(table[name], path) for name in names]
    return arrays[0] if isinstance(source.columns, str) else np.column_stack(arrays)


def _numbers(column: pd.Series[Any], path: Path) -> np.ndarray:
    import pandas as pd

    missing = np.flatnonzero(column.isna().to_numpy())
    if missing.size:
        raise ValueError(
            f"{path} has no value of {column.name!r} in {missing.size} rows, the first of them row "
            f"{missing[0] + 1}"
        )
    if column.dtype.kind in "iufb":
        return np.asarray(column)
    if not (pd.api.types.is_string_dtype(column) or isinstance(column.dtype, pd.CategoricalDtype)):
        raise ValueError(f"{path} has neither numbers nor text in {column.name!r}: {column.dtype}")
    return np.asarray(column.astype("category").cat.codes, "int64")


def _netcdf(path: Path, source: DataSource) -> np.ndarray:
    import xarray as xr

    with xr.open_dataset(path, engine="h5netcdf") as dataset:
        if source.variable not in dataset.variables:
            known = ", ".join(map(str, dataset.variables))
            raise ValueError(f"{path} has no variable {source.variable!r}; it has {known}")
        values: np.ndarray = dataset[source.variable].to_numpy()
    if values.dtype.kind not in "iufb":
        raise ValueError(f"{source.variable!r} of {path} has no numbers, but {values.dtype}")
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ValueError(f"{source.variable!r} of {path} has values that are NaN")
    return values


def _of_the_zoo(name: str, variable: str) -> np.ndarray:
    model = zoo.build(name)
    found = {rv.name: model.rvs_to_values[rv] for rv in model.observed_RVs}
    found |= {data.name: data for data in model.data_vars}
    if variable not in found:
        raise ValueError(f"{name!r} has no data {variable!r}; it has {', '.join(found) or 'none'}")
    value = found[variable]
    if value.owner is not None:
        raise ValueError(f"{variable!r} of {name!r} is another at each step, as minibatches are")
    return np.asarray(value.eval())


_READERS: dict[str, Callable[[Path, DataSource], np.ndarray]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".nc": _netcdf,
}
"""Suffix -> function of a file of that kind and a source."""
