"""Results in a folder or a file: netCDF, NumPy and JSON, never pickles."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from pymc_vi_ext.comparison.types import MethodResult, Status

if TYPE_CHECKING:
    from pymc_vi_ext.comparison.comparison import Comparison

RESULT = "result.json"
"""What a folder with a whole result has."""
_LOSSES, _POSTERIOR = "losses.npz", "posterior.nc"
FILES = (_LOSSES, _POSTERIOR, RESULT)
"""What a result is written as; a run without draws has no ``posterior.nc``."""
# With how many bytes of each of these a result is whole.
_SIZES = "files"


class DamagedResultError(ValueError):
    """A folder whose result is not there, or not whole."""


def save_result(result: MethodResult, folder: str | Path) -> Path:
    """Write a result as ``losses.npz``, ``posterior.nc`` and, at last, ``result.json``.

    Parameters
    ----------
    result : MethodResult
    folder : str or Path
        Made if it does not exist.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ImportError
        Without h5netcdf or h5py.
    OSError
        If it cannot be written; there is no result then, and what there was of it is removed.

    Examples
    --------
    >>> import tempfile
    >>> from pymc_vi_ext.comparison import MethodResult, Status
    >>> from pymc_vi_ext.comparison.storage import load_result, save_result
    >>> result = MethodResult("advi", "advi", 1, Status.FAILED, error="no luck")
    >>> load_result(save_result(result, tempfile.mkdtemp())).error
    'no luck'
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / _LOSSES]
    for name in (RESULT, _POSTERIOR):
        (folder / name).unlink(missing_ok=True)
    try:
        np.savez(folder / _LOSSES, losses=np.asarray(result.losses))
        if result.datatree is not None:
            files.append(folder / _POSTERIOR)
            _write(_storable(result.datatree), folder / _POSTERIOR)
        sizes = {file.name: file.stat().st_size for file in files}
        # Last: where it is, everything is.
        write_json(folder / RESULT, _plain(result) | {_SIZES: sizes})
    except OSError:
        # On a full disk there is room again to say so.
        for file in files:
            file.unlink(missing_ok=True)
        raise
    return folder


def result_status(folder: str | Path) -> Status | None:
    """Return how the run ended whose result lies in a folder; None without a whole result.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    Status or None
        None where a file is missing or shorter than it was written.
    """
    folder = Path(folder)
    try:
        plain = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in plain[_SIZES].items())
        return Status(plain["status"]) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def clear_parts(folder: Path) -> None:
    """Remove what is left of files that were being written when a process was killed."""
    for part in folder.glob("*.part"):
        part.unlink(missing_ok=True)


def load_result(folder: str | Path) -> MethodResult:
    """Read what :func:`save_result` wrote.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    MethodResult

    Raises
    ------
    DamagedResultError
        A ValueError: if it is not there, or not whole.
    """
    folder = Path(folder)
    try:
        plain = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        # Opened here: what cannot be read is closed, too.
        with (folder / _LOSSES).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            losses = file["losses"]
        datatree = None
        if _POSTERIOR in plain.pop(_SIZES):
            with xr.open_datatree(folder / _POSTERIOR, engine="h5netcdf") as opened:
                datatree = opened.load()
        status = Status(plain.pop("status"))
        return MethodResult(**plain, status=status, losses=losses, datatree=datatree)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DamagedResultError(
            f"There is no whole result in {folder} ({type(error).__name__}: {error}): remove it, "
            "and the same command makes it anew."
        ) from error


def result_tree(result: MethodResult) -> xr.DataTree:
    """Return a result as a DataTree that netCDF can hold.

    Parameters
    ----------
    result : MethodResult

    Returns
    -------
    xarray.DataTree
        ``/posterior`` and ``/sample_stats`` of its draws, ``/losses`` (step), and all else as
        attributes, options and versions as JSON.
    """
    tree = xr.DataTree() if result.datatree is None else _storable(result.datatree)
    if result.losses.size:
        tree["losses"] = xr.DataTree(xr.Dataset({"loss": ("step", np.asarray(result.losses))}))
    for name, value in _plain(result).items():
        tree.attrs[name] = json.dumps(value) if isinstance(value, dict | list | tuple) else value
    return tree


def save_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Write a comparison to one netCDF file.

    Parameters
    ----------
    comparison : Comparison
    path : str or Path

    Returns
    -------
    Path
        Of the file, as :meth:`pymc_vi_ext.Comparison.to_netcdf` describes it.

    Raises
    ------
    ImportError
        Without h5netcdf or h5py.
    """
    tree = xr.DataTree(xr.Dataset(attrs={"reference": comparison.reference_name}))
    for column, values in comparison.table.reset_index().items():
        # The part of a metric's key before the slash becomes a group.
        tree[f"table/{column}"] = xr.DataArray(values.to_numpy(), dims="run")
    for number, result in enumerate(comparison.results):
        tree[f"runs/{number}"] = result_tree(result)
    if isinstance(comparison.reference, xr.Dataset):
        tree["reference"] = xr.DataTree(comparison.reference)
    elif comparison.reference is not None and comparison.reference_name not in comparison.names:
        tree["reference"] = _storable(comparison.reference)
    _write(tree, Path(path))
    return Path(path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file that is whole whenever it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _plain(result: MethodResult) -> dict[str, Any]:
    """Return all but draws and losses, as JSON can hold it."""
    plain = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name not in {"datatree", "losses"}
    }
    return plain | {
        "status": result.status.value,
        "options": dict(result.options),
        "versions": dict(result.versions),
    }


def _storable(datatree: xr.DataTree) -> xr.DataTree:
    """Return the draws and their statistics, and what is said of them, such as a verdict."""
    groups = {"/": xr.Dataset(attrs=datatree.attrs)}
    for name in ("posterior", "sample_stats"):
        if name in datatree.children:
            dataset = datatree[name].to_dataset()
            # Samplers add statistics that netCDF has no type for, such as warnings as objects.
            kept = [v for v in dataset.data_vars if dataset[v].dtype.kind != "O"]
            groups[name] = dataset[kept]
    return xr.DataTree.from_dict(groups)


def _write(tree: xr.DataTree, path: Path) -> None:
    try:
        import h5netcdf  # noqa: F401
        import h5py  # noqa: F401  # what h5netcdf writes with, and does not depend on
    except ImportError as error:
        raise ImportError(
            "Posteriors are saved with h5netcdf and h5py: pip install 'pymc-vi-ext[flows]'."
        ) from error
    # In memory first: HDF5 ends the process by a segmentation fault where a disk is full.
    path.write_bytes(tree.to_netcdf(engine="h5netcdf"))
