"""Gaussian with a covariance of low rank plus diagonal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt

from pytensor.tensor.linalg import cholesky, solve_triangular

from pymc_vi_ext.approximations._algebra import LOG_2PI, length, softplus_inverse
from pymc_vi_ext.approximations.coordinates import Coordinates, LowRankCoordinates
from pymc_vi_ext.approximations.family import with_gradient
from pymc_vi_ext.approximations.family_group import FamilyGroup
from pymc_vi_ext.approximations.gaussians import LowRank
from pymc_vi_ext.options import Options, option
from pymc_vi_ext.upstream import ParametrizationError, node_property, starting_means

# Factors start at this part of the standard deviations: at 0 their gradient would be 0.
_START = 0.1


@dataclass(frozen=True)
class LowRankOptions(Options):
    """Options of :class:`LowRankGroup`."""

    rank: int | None = option(
        None, "Columns of `W`; None is 5, or less where fewer give any covariance.", ge=1
    )


class LowRankGroup(FamilyGroup[LowRankOptions]):
    r"""Gaussian :math:`N(\mu, \operatorname{diag}(\sigma^2) + W W^T)`, `W` of `rank` columns.

    A draw is :math:`\mu + \sigma \epsilon + W \eta`, with :math:`d + r` standard normal numbers.
    By Woodbury's identity the density costs :math:`O(d r^2)`: with :math:`V = W / \sigma` and the
    Cholesky factor :math:`C C^T = I + V^T V`,

    .. math::

        \Sigma^{-1} x = \tfrac{1}{\sigma}\left(y - V C^{-T} C^{-1} V^T y\right), \quad
        y = x / \sigma, \qquad
        \log|\Sigma| = 2 \sum_i \log \sigma_i + 2 \sum_j \log C_{jj}

    Parameters
    ----------
    {options}

    Raises
    ------
    ParametrizationError
        If `rank` is no whole number from 1 to the dimension.

    References
    ----------
    Ong, V., Nott, D. and Smith, M. (2018). Gaussian variational approximation with a factor
    covariance structure. J. Comput. Graph. Stat. 27(3). https://arxiv.org/abs/1701.03208

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext.approximations
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=20)
    ...     group = pm.Group([x], vfam="low_rank", rank=3)
    >>> group.params_dict["W"].get_value().shape
    (20, 3)
    """

    __param_spec__ = {"mu": ("d",), "rho": ("d",), "W": ("d", "r")}  # noqa: RUF012, PyMC's own
    short_name = "low_rank"
    Options = LowRankOptions
    alias_names = frozenset(["lr"])

    def start_values(self, start: Any, options: LowRankOptions) -> dict[str, np.ndarray]:
        """Return PyMC's mean field start, and small random factors."""
        d = self.ddim
        # Any covariance is its least eigenvalue on the diagonal and d - 1 factors; with d of them
        # the diagonal has nothing to say, and goes to 0, where densities are rounding errors.
        rank = min(5, max(d - 1, 1)) if options.rank is None else options.rank
        if rank > d:
            raise ParametrizationError(
                f"`rank` is {rank}, and the model has {d} dimension{'s' * (d > 1)}: a covariance "
                'has at most as many. Use a smaller rank, or the family "full_rank".'
            )
        sigma = np.log(2.0)
        factors = _START * sigma * self.rng.normal(size=(d, rank)) / np.sqrt(rank)
        return {"mu": starting_means(self, start), "rho": np.zeros(d), "W": factors}

    def _sizes(self) -> dict[str, int]:
        return {"r": -1}

    @property
    def rank(self) -> int:
        """Columns of `W`."""
        return length(self.params_dict["W"], 1)

    @property
    def noise_dim(self) -> int:
        """Numbers for the diagonal part, then for the factors."""
        return int(self.ddim) + self.rank

    @node_property
    def mean(self) -> pt.TensorVariable:
        """Means, (d,)."""
        return self.params_dict["mu"]

    @node_property
    def cov(self) -> pt.TensorVariable:
        """Covariance, (d, d)."""
        factors = self.params_dict["W"]
        return pt.diag(pt.softplus(self.params_dict["rho"]) ** 2) + factors.dot(factors.T)

    @node_property
    def std(self) -> pt.TensorVariable:
        """Standard deviations, (d,)."""
        sigma, factors = pt.softplus(self.params_dict["rho"]), self.params_dict["W"]
        return pt.sqrt(sigma**2 + pt.sum(factors**2, axis=1))

    @node_property
    def symbolic_random(self) -> pt.TensorVariable:
        """Draws, (draws, d)."""
        noise, d = self.symbolic_initial, self.ddim
        sigma, factors = pt.softplus(self.params_dict["rho"]), self.params_dict["W"]
        return self.mean + sigma * noise[:, :d] + noise[:, d:].dot(factors.T)

    def log_density(
        self, z: pt.TensorVariable, parameters: Mapping[str, pt.TensorVariable]
    ) -> pt.TensorVariable:
        """Return log q(z) by Woodbury's identity."""
        sigma, scaled, projected, chol = _woodbury(z, parameters)
        quadratic = pt.sum(scaled**2, axis=1) - pt.sum(projected**2, axis=0)
        half_log_det = pt.sum(pt.log(sigma)) + pt.sum(pt.log(pt.diagonal(chol)))
        return -0.5 * (quadratic + self.ddim * LOG_2PI) - half_log_det

    def density_gradient(self) -> pt.TensorVariable:
        """Return d log q / d z at the draws, (draws, d), without a derivative of the factor."""
        z, parameters = self.symbolic_random, self.params_dict
        sigma, scaled, projected, chol = _woodbury(z, parameters)
        back = solve_triangular(chol, projected, lower=True, trans=1)
        relative = parameters["W"] / sigma[:, None]
        return -(scaled - back.T.dot(relative.T)) / sigma

    def path_logq(self) -> pt.TensorVariable:
        """Return log q of the draws, (draws,), with the gradient through the draws alone."""
        return with_gradient(self.symbolic_logq, self.symbolic_random, self.density_gradient())

    def gaussian_values(self, mean: np.ndarray, cov: np.ndarray) -> dict[str, np.ndarray]:
        """Return factors along the leading directions of the correlations, the rest on `rho`."""
        sd = np.sqrt(np.diag(cov))
        values, vectors = np.linalg.eigh(cov / np.outer(sd, sd))
        leading = np.argsort(values)[::-1][: self.rank]
        # The mean of the other eigenvalues stays on the diagonal, as in probabilistic PCA.
        rest = np.delete(values, leading)
        noise = min(rest.mean(), 0.9) if len(rest) else 0.5 * values.min()
        factors = vectors[:, leading] * np.sqrt(np.maximum(values[leading] - noise, 1e-4))
        own = np.maximum(1 - np.sum(factors**2, axis=1), 1e-2 * noise)
        return {"mu": mean, "rho": softplus_inverse(sd * np.sqrt(own)), "W": sd[:, None] * factors}

    def gaussian_kind(self) -> type[LowRank]:
        """Return that of diagonal plus low rank."""
        return LowRank

    def coordinates(self) -> list[Coordinates]:
        """Return means along both parts of the covariance, log scales and relative factors."""
        return [LowRankCoordinates(self)]

    def moments(self, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return means and log standard deviations, (..., d)."""
        variances = np.logaddexp(0.0, values["rho"]) ** 2 + np.sum(values["W"] ** 2, axis=-1)
        return values["mu"], 0.5 * np.log(variances)


def _woodbury(
    z: pt.TensorVariable, parameters: Mapping[str, pt.TensorVariable]
) -> tuple[pt.TensorVariable, ...]:
    r"""Return :math:`\sigma`, :math:`y` (draws, d), :math:`C^{-1} V^T y^T` (r, draws), `C`."""
    sigma, factors = pt.softplus(parameters["rho"]), parameters["W"]
    scaled = (z - parameters["mu"]) / sigma
    relative = factors / sigma[:, None]
    chol = cholesky(pt.eye(relative.shape[1]) + relative.T.dot(relative))
    projected = solve_triangular(chol, relative.T.dot(scaled.T), lower=True)
    return sigma, scaled, projected, chol
