"""Families set to what a Gaussian says: the start of a fit from another one's result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pymc.variational.approximations import EmpiricalGroup, FullRankGroup, MeanFieldGroup
from pymc.variational.opvi import Group

from pymc_vi_ext.approximations._base import softplus_inverse
from pymc_vi_ext.approximations.flow import FlowGroup
from pymc_vi_ext.approximations.low_rank import LowRankGroup
from pymc_vi_ext.approximations.mixture import FullRankMixtureGroup, MixtureGroup
from pymc_vi_ext.approximations.student_t import FullRankStudentTGroup, StudentTGroup


def set_gaussian(group: Group, mean: np.ndarray, cov: np.ndarray) -> None:
    """Set the parameters of `group` to those nearest to N(mean, cov) that it has.

    Parameters
    ----------
    group : pymc.Group
    mean : array of shape (d,)
    cov : array of shape (d, d)
        Positive definite.

    Raises
    ------
    NotImplementedError
        If the family is neither PyMC's nor the package's.
    """
    set_family = _SETTERS.get(type(group))
    if set_family is None:
        raise NotImplementedError(
            f"{type(group).__name__} cannot start from a Gaussian; PyMC's and the package's "
            "families can."
        )
    set_values(group, set_family(group, mean, cov))


def mean_field_scales(cov: np.ndarray) -> np.ndarray:
    """Return the standard deviations of the mean field closest to a Gaussian in KL(q || p), (d,).

    They are conditional ones, one over the roots of the precision's diagonal.
    """
    return 1 / np.sqrt(np.diag(np.linalg.inv(cov)))


def packed_factor(cov: np.ndarray) -> np.ndarray:
    """Return the Cholesky factor as PyMC packs it, the diagonal before its softplus."""
    factor = np.linalg.cholesky(cov)
    diagonal = np.diag_indices(len(cov))
    factor[diagonal] = softplus_inverse(factor[diagonal])
    return factor[np.tril_indices(len(cov))]


def set_components(
    group: MixtureGroup | FullRankMixtureGroup,
    means: Sequence[np.ndarray],
    covs: Sequence[np.ndarray],
    masses: np.ndarray,
) -> None:
    """Set a mixture's components to Gaussians, several of them to one where there are too few.

    Parameters
    ----------
    group : MixtureGroup or FullRankMixtureGroup
    means, covs : sequence of array of shape (d,) and (d, d)
        Heaviest first.
    masses : array
        Of these Gaussians, positive.
    """
    means, covs, masses = means[: group.K], covs[: group.K], np.asarray(masses)[: group.K]
    masses = np.maximum(masses / masses.sum(), 1e-3)
    # The components left over share the places of those there are, scattered by their spread.
    more = group.rng.choice(len(means), size=group.K - len(means), p=masses / masses.sum())
    owner = np.concatenate([np.arange(len(means)), more]).astype(int)
    placed = np.array([means[k] for k in owner])
    for row in range(len(means), group.K):
        factor = np.linalg.cholesky(covs[owner[row]])
        placed[row] += factor @ group.rng.normal(size=len(factor))
    values = {
        "mu": placed,
        "logits": np.log(masses[owner] / np.bincount(owner)[owner]),
    }
    if isinstance(group, MixtureGroup):
        values["rho"] = [softplus_inverse(mean_field_scales(covs[k])) for k in owner]
    else:
        values["L_tril"] = [packed_factor(covs[k]) for k in owner]
    set_values(group, values)


def set_values(group: Group, values: Mapping[str, Any]) -> None:
    """Set parameters of `group` by name, in their own precision."""
    for name, value in values.items():
        parameter = group.params_dict[name]
        parameter.set_value(np.asarray(value, dtype=parameter.get_value(borrow=True).dtype))


def _mean_field(group: Group, mean: np.ndarray, cov: np.ndarray) -> dict:
    return {"mu": mean, "rho": softplus_inverse(mean_field_scales(cov))}


def _full_rank(group: Group, mean: np.ndarray, cov: np.ndarray) -> dict:
    return {"mu": mean, "L_tril": packed_factor(cov)}


def _low_rank(group: LowRankGroup, mean: np.ndarray, cov: np.ndarray) -> dict:
    """Factors along the leading directions of the correlations, the rest on the diagonal."""
    sd = np.sqrt(np.diag(cov))
    values, vectors = np.linalg.eigh(cov / np.outer(sd, sd))
    leading = np.argsort(values)[::-1][: group.rank]
    # The mean of the other eigenvalues stays on the diagonal, as in probabilistic PCA.
    rest = np.delete(values, leading)
    noise = min(rest.mean(), 0.9) if len(rest) else 0.5 * values.min()
    factors = vectors[:, leading] * np.sqrt(np.maximum(values[leading] - noise, 1e-4))
    own = np.maximum(1 - np.sum(factors**2, axis=1), 1e-2 * noise)
    return {"mu": mean, "rho": softplus_inverse(sd * np.sqrt(own)), "W": sd[:, None] * factors}


def _student_t(group: StudentTGroup, mean: np.ndarray, cov: np.ndarray) -> dict:
    df = group.df.eval()
    return _mean_field(group, mean, cov * np.sqrt(np.outer((df - 2) / df, (df - 2) / df)))


def _full_rank_student_t(group: FullRankStudentTGroup, mean: np.ndarray, cov: np.ndarray) -> dict:
    df = float(group.df.eval())
    return _full_rank(group, mean, cov * (df - 2) / df)


def _mixture(group: MixtureGroup, mean: np.ndarray, cov: np.ndarray) -> dict:
    means = _scattered(group, mean, cov)
    scales = softplus_inverse(mean_field_scales(cov))
    return {"mu": means, "rho": np.tile(scales, (group.K, 1)), "logits": np.zeros(group.K)}


def _full_rank_mixture(group: FullRankMixtureGroup, mean: np.ndarray, cov: np.ndarray) -> dict:
    return {
        "mu": _scattered(group, mean, cov),
        "L_tril": np.tile(packed_factor(cov), (group.K, 1)),
        "logits": np.zeros(group.K),
    }


def _scattered(group: Group, mean: np.ndarray, cov: np.ndarray) -> np.ndarray:
    """Return draws of the Gaussian as means of the components, its mean where there is one."""
    if group.K == 1:
        return mean[None]
    noise = group.rng.normal(size=(group.K, len(mean)))
    return mean + noise @ np.linalg.cholesky(cov).T


def _particles(group: EmpiricalGroup, mean: np.ndarray, cov: np.ndarray) -> dict:
    shape = group.params_dict["histogram"].get_value(borrow=True).shape
    return {"histogram": mean + group.rng.normal(size=shape) @ np.linalg.cholesky(cov).T}


_SETTERS: dict[type[Group], Callable[..., dict]] = {
    MeanFieldGroup: _mean_field,
    FullRankGroup: _full_rank,
    EmpiricalGroup: _particles,
    LowRankGroup: _low_rank,
    StudentTGroup: _student_t,
    FullRankStudentTGroup: _full_rank_student_t,
    MixtureGroup: _mixture,
    FullRankMixtureGroup: _full_rank_mixture,
    FlowGroup: _full_rank,
}
