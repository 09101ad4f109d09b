"""Mixtures of Gaussians."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt

from pytensor.tensor.linalg import solve_triangular

from pymc_vi_ext.approximations._algebra import (
    length,
    log_sd_of_factor,
    mean_field_scales,
    normal_log_density,
    packed_factor,
    packed_identity,
    set_values,
    softplus_inverse,
    unpacked,
)
from pymc_vi_ext.approximations.coordinates import (
    Coordinates,
    FullRankCoordinates,
    MeanFieldCoordinates,
)
from pymc_vi_ext.approximations.family import Strata
from pymc_vi_ext.approximations.family_group import FamilyGroup
from pymc_vi_ext.options import Options, option
from pymc_vi_ext.upstream import node_property, starting_means

# Least mass of a component that is set, so that its weight can be learned.
_LEAST_MASS = 1e-3


@dataclass(frozen=True)
class MixtureOptions(Options):
    """Options of the mixtures."""

    K: int = option(2, "Number of components.", ge=1, le=1_000)
    spread: float = option(
        1.0,
        "Standard deviation of the components' means at the start, on the unconstrained space.",
        ge=0,
        le=1e6,
    )


class _Mixture(FamilyGroup[MixtureOptions]):
    """What mixtures share, whatever the components' covariances.

    The first number of a draw's noise chooses its component, the others place it there.
    """

    Options = MixtureOptions

    def start_values(self, start: Any, options: MixtureOptions) -> dict[str, np.ndarray]:
        """Return equal weights, PyMC's scales, and means around PyMC's."""
        K = options.K
        means = np.tile(starting_means(self, start), (K, 1))
        if K > 1:
            means += options.spread * self.rng.normal(size=means.shape)
        return {"logits": np.zeros(K), "mu": means, **self._start_scales(K)}

    @abstractmethod
    def _start_scales(self, K: int) -> dict[str, np.ndarray]:
        """Return PyMC's scales, for `K` components."""

    @abstractmethod
    def _scales_of(self, covs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return the scales nearest to covariances, one row each."""

    def _sizes(self) -> dict[str, int]:
        return {"K": -1}

    @property
    def noise_dim(self) -> int:
        """One number for the component, and one for each variable."""
        return 1 + int(self.ddim)

    @property
    def K(self) -> int:
        """Number of components."""
        return length(self.params_dict["logits"], 0)

    @node_property
    def weights(self) -> pt.TensorVariable:
        """Weights of the components, (K,)."""
        return pt.special.softmax(self.params_dict["logits"], axis=-1)

    @node_property
    def component(self) -> pt.TensorVariable:
        """Component of each draw, (draws,)."""
        uniform = 0.5 * (1.0 + pt.erf(self.symbolic_initial[:, 0] / np.sqrt(2.0)))
        below = pt.cumsum(self.weights)[:-1]
        return pt.sum(uniform[:, None] > below[None, :], axis=1).astype("int64")

    @node_property
    def mean(self) -> pt.TensorVariable:
        """Means, (d,)."""
        return self.weights.dot(self.params_dict["mu"])

    @node_property
    def cov(self) -> pt.TensorVariable:
        """Covariance, (d, d)."""
        away = self.params_dict["mu"] - self.mean
        weights = self.weights[:, None, None]
        return pt.sum(weights * (self.covariances + away[:, :, None] * away[:, None, :]), axis=0)

    @node_property
    def std(self) -> pt.TensorVariable:
        """Standard deviations, (d,)."""
        return pt.sqrt(pt.diagonal(self.cov))

    def log_density(
        self, z: pt.TensorVariable, parameters: Mapping[str, pt.TensorVariable]
    ) -> pt.TensorVariable:
        """Return log q(z), the log of the weighted sum of densities."""
        logits = parameters["logits"]
        weights = logits - pt.logsumexp(logits)
        return pt.logsumexp(weights + self._component_log_densities(z, parameters), axis=1)

    @abstractmethod
    def _component_log_densities(
        self, z: pt.TensorVariable, parameters: Mapping[str, pt.TensorVariable]
    ) -> pt.TensorVariable:
        """Return the log density of each component, (draws, K)."""

    def strata(self) -> Strata:
        """Return the components."""
        return Strata(self.K, self.weights, self.component)

    def place(self, point: np.ndarray) -> None:
        """Move a single component to `point`; several are where they were set to be, and stay."""
        if self.K == 1:
            super().place(point)

    def gaussian_values(self, mean: np.ndarray, cov: np.ndarray) -> dict[str, np.ndarray]:
        """Return components of this covariance, at draws of the Gaussian if they are several."""
        placed = mean[None]
        if self.K > 1:
            noise = self.rng.normal(size=(self.K, len(mean)))
            placed = mean + noise @ np.linalg.cholesky(cov).T
        scales = {p: np.tile(rows, (self.K, 1)) for p, rows in self._scales_of([cov]).items()}
        return {"mu": placed, "logits": np.zeros(self.K), **scales}

    def set_components(
        self, means: Sequence[np.ndarray], covs: Sequence[np.ndarray], masses: np.ndarray
    ) -> None:
        """Set the components to Gaussians, several of them to one where there are too few.

        Parameters
        ----------
        means, covs : sequence of array of shape (d,) and (d, d)
            Heaviest first.
        masses : array
            Of these Gaussians, positive.
        """
        means, covs, masses = means[: self.K], covs[: self.K], np.asarray(masses)[: self.K]
        masses = np.maximum(masses / masses.sum(), _LEAST_MASS)
        # The components left over share the places of those there are, scattered by their spread.
        more = self.rng.choice(len(means), size=self.K - len(means), p=masses / masses.sum())
        owner = np.concatenate([np.arange(len(means)), more]).astype(int)
        placed = np.array([means[k] for k in owner])
        for row in range(len(means), self.K):
            factor = np.linalg.cholesky(covs[owner[row]])
            placed[row] += factor @ self.rng.normal(size=len(factor))
        logits = np.log(masses[owner] / np.bincount(owner)[owner])
        scales = self._scales_of([covs[k] for k in owner])
        set_values(self, {"mu": placed, "logits": logits, **scales})

    def moments(self, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return means and log standard deviations, (..., d)."""
        raw = np.exp(values["logits"] - values["logits"].max(axis=-1, keepdims=True))
        weights = (raw / raw.sum(axis=-1, keepdims=True))[..., None]
        means = np.sum(weights * values["mu"], axis=-2)
        within = np.exp(2 * self._component_log_sds(values))
        away = values["mu"] - means[..., None, :]
        return means, 0.5 * np.log(np.sum(weights * (within + away**2), axis=-2))

    @abstractmethod
    def _component_log_sds(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return log standard deviations of the components, (..., K, d)."""


class MixtureGroup(_Mixture):
    r"""Mixture of Gaussians with diagonal covariances, :math:`\sum_k w_k N(\mu_k, \sigma_k^2)`.

    Parameters
    ----------
    {options}

    Raises
    ------
    ParametrizationError
        If `K` is no whole number from 1.

    References
    ----------
    Morningstar, W. et al. (2021). Automatic differentiation variational inference with mixtures.
    AISTATS. https://arxiv.org/abs/2003.01687

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext.approximations
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=3)
    ...     group = pm.Group([x], vfam="mixture", K=4)
    >>> group.params_dict["mu"].get_value().shape
    (4, 3)
    """

    __param_spec__ = {"logits": ("K",), "mu": ("K", "d"), "rho": ("K", "d")}  # noqa: RUF012
    short_name = "mixture"

    def _start_scales(self, K: int) -> dict[str, np.ndarray]:
        return {"rho": np.zeros((K, self.ddim))}

    def _scales_of(self, covs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        return {"rho": np.array([softplus_inverse(mean_field_scales(cov)) for cov in covs])}

    def coordinates(self) -> list[Coordinates]:
        """Return the components' means in standard deviations, and logarithms of these."""
        return [MeanFieldCoordinates(self)]

    @node_property
    def covariances(self) -> pt.TensorVariable:
        """Covariances of the components, (K, d, d)."""
        variances = pt.softplus(self.params_dict["rho"]) ** 2
        return variances[:, :, None] * pt.eye(self.ddim)

    @node_property
    def symbolic_random(self) -> pt.TensorVariable:
        """Draws, (draws, d)."""
        mu, scale = self.params_dict["mu"], pt.softplus(self.params_dict["rho"])
        return mu[self.component] + scale[self.component] * self.symbolic_initial[:, 1:]

    def _component_log_densities(
        self, z: pt.TensorVariable, parameters: Mapping[str, pt.TensorVariable]
    ) -> pt.TensorVariable:
        scale = pt.softplus(parameters["rho"])
        standard = (z[:, None, :] - parameters["mu"]) / scale
        return normal_log_density(standard) - pt.sum(pt.log(scale), axis=1)

    def _component_log_sds(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        log_sds: np.ndarray = np.log(np.logaddexp(0.0, values["rho"]))
        return log_sds


class FullRankMixtureGroup(_Mixture):
    r"""Mixture of Gaussians with full covariances, :math:`\sum_k w_k N(\mu_k, L_k L_k^T)`.

    Parameters
    ----------
    {options}

    Raises
    ------
    ParametrizationError
        If `K` is no whole number from 1.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext.approximations
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=3)
    ...     group = pm.Group([x], vfam="full_rank_mixture", K=4)
    >>> group.params_dict["L_tril"].get_value().shape
    (4, 6)
    """

    __param_spec__ = {  # noqa: RUF012, PyMC's own
        "logits": ("K",),
        "mu": ("K", "d"),
        "L_tril": ("K", "int(d * (d + 1) / 2)"),
    }
    short_name = "full_rank_mixture"

    def _start_scales(self, K: int) -> dict[str, np.ndarray]:
        return {"L_tril": np.tile(packed_identity(self.ddim), (K, 1))}

    def _scales_of(self, covs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        return {"L_tril": np.array([packed_factor(cov) for cov in covs])}

    def coordinates(self) -> list[Coordinates]:
        """Return the components' means and factors in units of their factors."""
        return [FullRankCoordinates(self)]

    @node_property
    def L(self) -> pt.TensorVariable:
        """Factors of the covariances, (K, d, d)."""
        return unpacked(self.params_dict["L_tril"], self.ddim)

    @node_property
    def covariances(self) -> pt.TensorVariable:
        """Covariances of the components, (K, d, d)."""
        return pt.matmul(self.L, pt.swapaxes(self.L, -1, -2))

    @node_property
    def symbolic_random(self) -> pt.TensorVariable:
        """Draws, (draws, d)."""
        own = self.L[self.component]
        placed = pt.sum(own * self.symbolic_initial[:, None, 1:], axis=-1)
        return self.params_dict["mu"][self.component] + placed

    def _component_log_densities(
        self, z: pt.TensorVariable, parameters: Mapping[str, pt.TensorVariable]
    ) -> pt.TensorVariable:
        factors = unpacked(parameters["L_tril"], self.ddim)
        each = []
        for k in range(self.K):
            away = (z - parameters["mu"][k]).T
            standard = solve_triangular(factors[k], away, lower=True).T
            log_det = pt.sum(pt.log(pt.diagonal(factors[k])))
            each.append(normal_log_density(standard) - log_det)
        return pt.stack(each, axis=1)

    def _component_log_sds(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        return log_sd_of_factor(values["L_tril"], self.ddim)
