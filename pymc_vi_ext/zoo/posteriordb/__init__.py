"""Eighteen posteriors of posteriordb as PyMC models, with their published reference draws.

The data and the draws are read from a clone of https://github.com/stan-dev/posteriordb, or a folder
with its layout. Variables have the names and shapes of the reference draws and no named dims, so
that both can be compared as they are. Densities agree with the Stan programs of posteriordb up to
constants: PyMC normalises truncated priors where those leave the factor out; neither does so for
the order of ordered vectors.

References
----------
Magnusson, M., Bürkner, P. and Vehtari, A. (2023). posteriordb: a set of posteriors for Bayesian
inference and probabilistic programming, version 0.5.
"""

import json
import os
import zipfile

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import xarray as xr

from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.zoo.posteriordb.eight_schools import (
    eight_schools_centered,
    eight_schools_noncentered,
)
from pymc_vi_ext.zoo.posteriordb.gaussian_process import gp_pois_regr
from pymc_vi_ext.zoo.posteriordb.generalized_linear import glmm_poisson, wells_daae_c_model
from pymc_vi_ext.zoo.posteriordb.item_response import irt_2pl
from pymc_vi_ext.zoo.posteriordb.lotka_volterra import lotka_volterra
from pymc_vi_ext.zoo.posteriordb.mixtures import hmm_example, low_dim_gauss_mix
from pymc_vi_ext.zoo.posteriordb.radon import radon_hierarchical_intercept_noncentered
from pymc_vi_ext.zoo.posteriordb.regressions import (
    blr,
    diamonds,
    earn_height,
    kidscore_interaction,
    logmesquite_logvash,
    nes,
)
from pymc_vi_ext.zoo.posteriordb.time_series import ar_k, garch11

__all__ = ["POSTERIORS", "Posterior", "build", "data", "moments", "reference"]


@dataclass(frozen=True)
class Posterior:
    """A row of :data:`POSTERIORS`.

    Attributes
    ----------
    build : callable
        The model from its data.
    data : str
        Name of the data set.
    dimension : int
        Number of unconstrained parameters.
    draws : str, optional
        Name of the reference draws, where some are published.

    Examples
    --------
    >>> from pymc_vi_ext.zoo.posteriordb import POSTERIORS
    >>> POSTERIORS["wells_data-wells_daae_c_model"].dimension
    6
    """

    build: Callable[[Mapping[str, Any]], pm.Model]
    data: str
    dimension: int
    draws: str | None = None


_CLONE = "it (or path) names the folder of a clone of https://github.com/stan-dev/posteriordb."
_SCHOOLS = "eight_schools-eight_schools_noncentered"

POSTERIORS: Mapping[str, Posterior] = {
    _SCHOOLS: Posterior(eight_schools_noncentered, "eight_schools", 10, _SCHOOLS),
    "eight_schools-eight_schools_centered": Posterior(
        eight_schools_centered, "eight_schools", 10, _SCHOOLS
    ),
    "sblri-blr": Posterior(blr, "sblri", 6, "sblri-blr"),
    "kidiq-kidscore_interaction": Posterior(
        kidscore_interaction, "kidiq", 5, "kidiq-kidscore_interaction"
    ),
    "earnings-earn_height": Posterior(earn_height, "earnings", 3, "earnings-earn_height"),
    "mesquite-logmesquite_logvash": Posterior(
        logmesquite_logvash, "mesquite", 7, "mesquite-logmesquite_logvash"
    ),
    "nes1972-nes": Posterior(nes, "nes1972", 10, "nes1972-nes"),
    "diamonds-diamonds": Posterior(diamonds, "diamonds", 26, "diamonds-diamonds"),
    "arK-arK": Posterior(ar_k, "arK", 7, "arK-arK"),
    "garch-garch11": Posterior(garch11, "garch", 4, "garch-garch11"),
    "gp_pois_regr-gp_pois_regr": Posterior(
        gp_pois_regr, "gp_pois_regr", 13, "gp_pois_regr-gp_pois_regr"
    ),
    "hmm_example-hmm_example": Posterior(hmm_example, "hmm_example", 4, "hmm_example-hmm_example"),
    "low_dim_gauss_mix-low_dim_gauss_mix": Posterior(
        low_dim_gauss_mix, "low_dim_gauss_mix", 5, "low_dim_gauss_mix-low_dim_gauss_mix"
    ),
    "hudson_lynx_hare-lotka_volterra": Posterior(
        lotka_volterra, "hudson_lynx_hare", 8, "hudson_lynx_hare-lotka_volterra"
    ),
    "irt_2pl-irt_2pl": Posterior(irt_2pl, "irt_2pl", 144),
    "wells_data-wells_daae_c_model": Posterior(wells_daae_c_model, "wells_data", 6),
    "GLMM_Poisson_data-GLMM_Poisson_model": Posterior(glmm_poisson, "GLMM_Poisson_data", 45),
    "radon_mn-radon_hierarchical_intercept_noncentered": Posterior(
        radon_hierarchical_intercept_noncentered, "radon_mn", 90
    ),
}
"""Name in posteriordb to its port."""


def build(name: str, path: str | os.PathLike[str] | None = None) -> pm.Model:
    """Build the model of a posterior with its data.

    Parameters
    ----------
    name : str
        Name in :data:`POSTERIORS`.
    path : path-like, optional
        Folder that holds ``posterior_database``; by default the environment variable
        ``POSTERIORDB``.

    Returns
    -------
    pymc.Model

    Raises
    ------
    UnknownNameError
        If the posterior is none of those ported.
    FileNotFoundError
        Without such a folder.
    """
    return _posterior(name).build(data(name, path))


def data(name: str, path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Read the data of a posterior.

    Parameters
    ----------
    name, path
        As for :func:`build`.

    Returns
    -------
    dict
        Numbers and (nested) lists, by the names that posteriordb gives them.

    Raises
    ------
    UnknownNameError, FileNotFoundError
        As for :func:`build`.
    """
    posterior = _posterior(name)
    folder = _folder(path) / "posterior_database" / "data" / "data"
    content: dict[str, Any] = _unzip(folder / f"{posterior.data}.json.zip")
    return content


def reference(name: str, path: str | os.PathLike[str] | None = None) -> xr.Dataset:
    """Read the reference draws of a posterior: ten chains of a thousand, nearly independent.

    Parameters
    ----------
    name, path
        As for :func:`build`.

    Returns
    -------
    xarray.Dataset
        Dims ``chain``, ``draw`` and, of vectors, ``<variable>_dim_0``; on the constrained space.

    Raises
    ------
    LookupError
        If none are published.
    UnknownNameError, FileNotFoundError
        As for :func:`build`.
    """
    posterior = _posterior(name)
    if posterior.draws is None:
        raise LookupError(f"posteriordb has no reference draws of {name!r}.")
    folder = _folder(path) / "posterior_database" / "reference_posteriors" / "draws" / "draws"
    chains = _unzip(folder / f"{posterior.draws}.json.zip")
    return _dataset(
        _vectors({entry: np.array([chain[entry] for chain in chains]) for entry in chains[0]})
    )


def moments(name: str, path: str | os.PathLike[str] | None = None) -> xr.Dataset:
    """Mean and standard deviation of a posterior, from reference draws or as published.

    Parameters
    ----------
    name, path
        As for :func:`build`.

    Returns
    -------
    xarray.Dataset
        Dims ``moment`` (``"mean"`` and ``"sd"``) and, of vectors, ``<variable>_dim_0``.

    Raises
    ------
    LookupError
        If neither draws nor moments are published.
    UnknownNameError, FileNotFoundError
        As for :func:`build`.
    """
    if _posterior(name).draws is not None:
        draws = reference(name, path)
        sample = ["chain", "draw"]
        both = xr.concat([draws.mean(sample), draws.std(sample, ddof=1)], dim="moment")
        return both.assign_coords(moment=["mean", "sd"])
    file = _folder(path) / "moments" / f"{name}.json"
    if not file.exists():
        raise LookupError(f"Neither reference draws nor moments of {name!r} are published.")
    entries = json.loads(file.read_text(encoding="utf-8"))["parameters"]
    columns = {entry: np.array([value["mean"], value["sd"]]) for entry, value in entries.items()}
    dataset = _dataset(_vectors(columns), sample_dims=["moment"])
    return dataset.assign_coords(moment=["mean", "sd"])


def _dataset(values: Mapping[str, np.ndarray], **kwargs: Any) -> xr.Dataset:
    # Imported on use: it loads JAX's name, and `vix.zoo` is to stay light.
    from arviz_base import dict_to_dataset

    return dict_to_dataset(values, **kwargs)


def _posterior(name: str) -> Posterior:
    if name not in POSTERIORS:
        raise UnknownNameError("posterior", name, POSTERIORS)
    return POSTERIORS[name]


def _folder(path: str | os.PathLike[str] | None) -> Path:
    given = os.environ.get("POSTERIORDB") if path is None else path
    if not given:
        raise FileNotFoundError(f"The environment variable POSTERIORDB is not set: {_CLONE}")
    if not (Path(given) / "posterior_database").is_dir():
        raise FileNotFoundError(f"No folder 'posterior_database' in {str(given)!r}: {_CLONE}")
    return Path(given)


def _unzip(file: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        return json.loads(archive.read(file.stem))


def _vectors(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gather the entries ``beta[1]``, ``beta[2]``, ... into ``beta``, along a new last axis."""
    entries: dict[str, list[str]] = {}
    for entry in columns:
        entries.setdefault(entry.partition("[")[0], []).append(entry)
    return {
        name: columns[name]
        if group == [name]
        else np.stack([columns[f"{name}[{i}]"] for i in range(1, len(group) + 1)], axis=-1)
        for name, group in entries.items()
    }
