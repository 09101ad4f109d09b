"""Draws that are written while they are made, so that memory holds one block of them."""

from __future__ import annotations

import os
import shutil
import warnings

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pymc.variational.opvi import Approximation
from xarray import DataTree

from pymc_vi_ext.draws import Drawn, as_datatree, draws_in_blocks
from pymc_vi_ext.fit_record import attributes_of, variational_group
from pymc_vi_ext.minibatches import on_all_data
from pymc_vi_ext.options import whole_number

# Groups whose variables have a value at each draw.
_GROUPS = ("posterior", "sample_stats")


def write_draws(
    approx: Approximation,
    path: str | os.PathLike[str],
    draws: int = 1000,
    random_seed: int | None = None,
) -> Path:
    """Draw from an approximation into a file, block by block.

    For models of so many variables, or so many draws, that
    :func:`~pymc_vi_ext.to_datatree` would not fit in memory: here no more than a block of draws is
    there at a time, of some four million numbers. The draws are the same, and so is all else in
    the tree.

    The file appears under its name once it is complete. Until then it has another one beside it,
    which begins with a dot; it goes where writing fails.

    Parameters
    ----------
    approx : Approximation
        Any of PyMC's, fitted by this package or not.
    path : str or path
        Ends in ``.nc`` for netCDF, which is read by ``arviz.from_netcdf`` and
        ``xarray.open_datatree``, or in ``.zarr`` for a folder of Zarr. What is there by this name
        is replaced.
    draws : int
        Number of draws, in one chain.
    random_seed : int, optional
        The same seed gives the draws of ``to_datatree`` with it.

    Returns
    -------
    pathlib.Path
        Where it is.

    Raises
    ------
    ValueError
        If `draws` is not positive, or `path` ends in something else.
    OSError
        If the disk has less space than all draws need.
    FileNotFoundError
        If the folder is not there.
    ImportError
        Without h5netcdf and h5py for netCDF, or without zarr.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> import xarray as xr
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=3)
    ...     approx = vix.fit(1000, convergence=None, random_seed=1, progressbar=False)
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> path = vix.write_draws(approx, folder / "draws.nc", draws=500, random_seed=2)
    >>> with xr.open_datatree(path, engine="h5netcdf") as tree:
    ...     dict(tree["posterior"]["x"].sizes)
    {'chain': 1, 'draw': 500, 'x_dim_0': 3}
    """
    draws, path = whole_number("draws", draws), Path(path)
    if path.suffix not in _WRITERS:
        raise ValueError(f"Draws are written to a `.nc` or a `.zarr`, not to {path.name!r}.")
    needed, write = _WRITERS[path.suffix]
    for module in needed:
        _require(module, path.suffix)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} to.")
    made = draws_in_blocks(approx, draws, random_seed)
    try:
        first = next(made)
        tree = _laid_out(approx, first)
        tree.attrs |= attributes_of(approx)
        tree["variational"] = variational_group(approx)
        _check_space(path, tree, draws)
        with _complete_or_gone(path) as temporary:
            write(temporary, tree, draws, _rest(approx, made))
    finally:
        made.close()
    return path


def _laid_out(approx: Approximation, block: Drawn) -> DataTree:
    return as_datatree(
        on_all_data(approx.model),
        {name: values[None] for name, values in block.values.items()},
        {name: values[None] for name, values in block.statistics.items()},
    )


def _rest(
    approx: Approximation, made: Generator[Drawn, None, None]
) -> Iterator[Mapping[str, Mapping[str, np.ndarray]]]:
    """Return the other blocks: arrays of (chain, draw, ...) by group and name."""
    for block in made:
        groups = zip(_GROUPS, (block.values, block.statistics), strict=True)
        yield {
            group: {name: values[None] for name, values in arrays.items()}
            for group, arrays in groups
        }


def _groups_of(tree: DataTree) -> dict[str, DataTree]:
    return {name: tree.children[name] for name in _GROUPS if name in tree.children}


def _check_space(path: Path, first: DataTree, draws: int) -> None:
    """Raise OSError where the disk has no room: HDF5 may end the process there."""
    written = _groups_of(first).values()
    needed = sum(group.nbytes * draws / group.sizes["draw"] for group in written)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(
            f"{draws:,} draws need {needed / 1e9:,.1f} GB, and {path.parent} has "
            f"{free / 1e9:,.1f} GB left: ask for fewer draws, or for another disk."
        )


@contextmanager
def _complete_or_gone(path: Path) -> Iterator[Path]:
    """Give a name to write to, which becomes `path` where the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def _write_netcdf(
    path: Path, first: DataTree, draws: int, rest: Iterator[Mapping[str, Any]]
) -> None:
    import h5netcdf

    groups = _groups_of(first)
    first.to_netcdf(
        path,
        engine="h5netcdf",
        unlimited_dims={f"/{group}": ["draw"] for group in groups},
        encoding={f"/{name}": _encoding(group, "chunksizes") for name, group in groups.items()},
    )
    done = first["posterior"].sizes["draw"]
    with h5netcdf.File(path, "r+") as file:
        for group in groups:
            file[group].resize_dimension("draw", draws)
            file[group]["draw"][...] = np.arange(draws)
        for block in rest:
            for group in groups:
                for name, values in block[group].items():
                    stored = file[group][name]
                    end = done + values.shape[1]
                    stored[:, done:end] = values.astype(stored.dtype, copy=False)
            done = end


def _write_zarr(path: Path, first: DataTree, draws: int, rest: Iterator[Mapping[str, Any]]) -> None:
    import zarr

    groups = _groups_of(first)
    encoding = {f"/{name}": _encoding(group, "chunks") for name, group in groups.items()}
    first.to_zarr(path, encoding=encoding, consolidated=False)
    done = first["posterior"].sizes["draw"]
    root: Any = zarr.open_group(path, mode="r+")
    for group, tree in groups.items():
        for name, variable in tree.data_vars.items():
            root[f"{group}/{name}"].resize((1, draws, *variable.shape[2:]))
        root[f"{group}/draw"].resize((draws,))
        root[f"{group}/draw"][...] = np.arange(draws)
    for block in rest:
        for group in groups:
            for name, values in block[group].items():
                end = done + values.shape[1]
                root[f"{group}/{name}"][:, done:end] = values
        done = end
    with warnings.catch_warnings():
        # What xarray reads first; that other readers of Zarr may not is no matter of this file.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(path)


def _encoding(group: DataTree, key: str) -> dict[str, Any]:
    """Return chunks of a block of draws for each variable: a block is written once."""
    return {str(name): {key: variable.shape} for name, variable in group.data_vars.items()}


Writer = Callable[[Path, DataTree, int, Iterator[Mapping[str, Any]]], None]

# By the end of a name: what is needed, and what writes.
_WRITERS: Mapping[str, tuple[tuple[str, ...], Writer]] = {
    ".nc": (("h5netcdf", "h5py"), _write_netcdf),
    ".zarr": (("zarr",), _write_zarr),
}


def _require(module: str, suffix: str) -> None:
    try:
        __import__(module)
    except ImportError as error:
        raise ImportError(f"{module} writes `{suffix}` files: pip install {module}.") from error
