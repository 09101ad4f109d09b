"""A result in a folder: netCDF, NumPy and JSON files, never pickles."""

from __future__ import annotations

import dataclasses
import json

from pathlib import Path

import numpy as np
import xarray as xr

from pymc_vi_ext.comparison.types import MethodResult, Status


def save_result(result: MethodResult, folder: str | Path) -> Path:
    """Write a result as ``result.json``, ``losses.npz`` and ``posterior.nc``.

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
    plain = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name not in {"datatree", "losses", "status"}
    }
    plain |= {"options": dict(result.options), "versions": dict(result.versions)}
    text = json.dumps({**plain, "status": result.status.value}, indent=1)
    (folder / "result.json").write_text(text, encoding="utf-8")
    np.savez_compressed(folder / "losses.npz", losses=np.asarray(result.losses))
    if result.datatree is not None:
        _write(result.datatree, folder / "posterior.nc")
    return folder


def load_result(folder: str | Path) -> MethodResult:
    """Read what :func:`save_result` wrote.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    MethodResult
    """
    folder = Path(folder)
    plain = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    with np.load(folder / "losses.npz", allow_pickle=False) as file:
        losses = file["losses"]
    path, datatree = folder / "posterior.nc", None
    if path.exists():
        with xr.open_datatree(path, engine="h5netcdf") as opened:
            datatree = opened.load()
    status = Status(plain.pop("status"))
    return MethodResult(**plain, status=status, losses=losses, datatree=datatree)


def _write(datatree: xr.DataTree, path: Path) -> None:
    try:
        import h5netcdf  # noqa: F401
        import h5py  # noqa: F401  # what h5netcdf writes with, and does not depend on
    except ImportError as error:
        raise ImportError(
            "Posteriors are saved with h5netcdf and h5py: pip install 'pymc-vi-ext[flows]'."
        ) from error
    groups = {}
    for name in ("posterior", "sample_stats"):
        if name in datatree.children:
            dataset = datatree[name].to_dataset()
            # Samplers add statistics that netCDF has no type for, such as warnings as objects.
            kept = [v for v in dataset.data_vars if dataset[v].dtype.kind != "O"]
            groups[name] = dataset[kept]
    xr.DataTree.from_dict(groups).to_netcdf(path, engine="h5netcdf")
