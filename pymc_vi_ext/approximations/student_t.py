"""Student-t families: tails whose weight is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor.tensor as pt

from pytensor.tensor.linalg import solve_triangular

from pymc_vi_ext.approximations._algebra import (
    log_sd_of_factor,
    mean_field_scales,
    packed_factor,
    packed_identity,
    softplus_inverse,
    unpacked,
)
from pymc_vi_ext.approximations.coordinates import (
    Coordinates,
    FullRankCoordinates,
    MeanFieldCoordinates,
)
from pymc_vi_ext.approximations.family_group import FamilyGroup
from pymc_vi_ext.options import Options, option
from pymc_vi_ext.upstream import node_property, starting_means

# Degrees of freedom are 2 + exp(raw): variances exist, and a Gaussian is a few steps away.
_LEAST_DF = 2.0


@dataclass(frozen=True)
class StudentTOptions(Options):
    """Options of the Student-t families."""

    df: float = option(
        10.0,
        "Degrees of freedom at the start; they are learned, above 2, where variances exist.",
        gt=_LEAST_DF,
        le=1e9,
    )


def _df(parameters: Mapping[str, Any]) -> pt.TensorVariable:
    return _LEAST_DF + pt.exp(parameters["log_df"])


def student_draws(noise: pt.TensorVariable, df: Any) -> pt.TensorVariable:
    r"""Return Student-t draws as a smooth function of standard normals and of `df`.

    Bailey's polar method: with :math:`a, b` standard normal and :math:`r^2 = a^2 + b^2`,

    .. math:: t = a \sqrt{\frac{e^{r^2/\nu} - 1}{r^2/\nu}}

    has exactly :math:`\nu` degrees of freedom. It tends to :math:`a` as :math:`\nu \to \infty`.

    Parameters
    ----------
    noise : tensor of shape (draws, 2 d)
    df : tensor of shape (d,) or ()

    Returns
    -------
    tensor of shape (draws, d)

    References
    ----------
    Bailey, R. (1994). Polar generation of random variates with the t-distribution. Math. Comp. 62.
    """
    d = noise.shape[1] // 2
    first, second = noise[:, :d], noise[:, d:]
    radius = (first**2 + second**2) / df
    small = radius < 1e-6
    # The quotient's series where it would be 0 / 0.
    safe = pt.switch(small, 1.0, radius)
    return first * pt.sqrt(pt.switch(small, 1.0 + radius / 2, pt.expm1(safe) / safe))


class StudentTGroup(FamilyGroup[StudentTOptions]):
    r"""Independent Student-t variables, each with its own degrees of freedom.

    Parameters
    ----------
    {options}

    Raises
    ------
    ParametrizationError
        If `df` is not above 2.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext.approximations
    >>> with pm.Model():
    ...     x = pm.StudentT("x", 4.0)
    ...     group = pm.Group([x], vfam="student_t", df=5.0)
    >>> float(group.df.eval()[0])
    5.0
    """

    __param_spec__ = {"mu": ("d",), "rho": ("d",), "log_df": ("d",)}  # noqa: RUF012, PyMC's own
    short_name = "student_t"
    Options = StudentTOptions
    alias_names = frozenset(["mean_field_student_t"])

    def start_values(self, start: Any, options: StudentTOptions) -> dict[str, np.ndarray]:
        """Return PyMC's mean field start, at `df` degrees of freedom."""
        d = self.ddim
        return {
            "mu": starting_means(self, start),
            "rho": np.zeros(d),
            "log_df": np.full(d, np.log(options.df - _LEAST_DF)),
        }

    @property
    def noise_dim(self) -> int:
        """Two numbers for each variable."""
        return 2 * int(self.ddim)

    @node_property
    def df(self) -> pt.TensorVariable:
        """Degrees of freedom, (d,)."""
        return _df(self.params_dict)

    @node_property
    def mean(self) -> pt.TensorVariable:
        """Means, (d,)."""
        return self.params_dict["mu"]

    @node_property
    def std(self) -> pt.TensorVariable:
        """Standard deviations, (d,)."""
        return pt.softplus(self.params_dict["rho"]) * pt.sqrt(self.df / (self.df - 2.0))

    @node_property
    def cov(self) -> pt.TensorVariable:
        """Covariance, (d, d)."""
        return pt.diag(self.std**2)

    @node_property
    def symbolic_random(self) -> pt.TensorVariable:
        """Draws, (draws, d)."""
        scale = pt.softplus(self.params_dict["rho"])
        return self.mean + scale * student_draws(self.symbolic_initial, self.df)

    def log_density(
        self, z: pt.TensorVariable, parameters: Mapping[str, pt.TensorVariable]
    ) -> pt.TensorVariable:
        """Return log q(z), a sum over the variables."""
        scale, df = pt.softplus(parameters["rho"]), _df(parameters)
        t = (z - parameters["mu"]) / scale
        each = _log_normalizer(df, 1) - (df + 1) / 2 * pt.log1p(t**2 / df) - pt.log(scale)
        return pt.sum(each, axis=1)

    def gaussian_values(self, mean: np.ndarray, cov: np.ndarray) -> dict[str, np.ndarray]:
        """Return the mean field's, with scales that give its variances at the present `df`."""
        df = self.df.eval()
        cov = cov * np.sqrt(np.outer((df - 2) / df, (df - 2) / df))
        return {"mu": mean, "rho": softplus_inverse(mean_field_scales(cov))}

    def coordinates(self) -> list[Coordinates]:
        """Return means in scales, and logarithms of these."""
        return [MeanFieldCoordinates(self)]

    def moments(self, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return means and log standard deviations, (..., d)."""
        scales = np.log(np.logaddexp(0.0, values["rho"]))
        return values["mu"], scales + 0.5 * np.log1p(_LEAST_DF * np.exp(-values["log_df"]))


class FullRankStudentTGroup(FamilyGroup[StudentTOptions]):
    r"""Multivariate Student-t :math:`t_\nu(\mu, L L^T)` with learned degrees of freedom.

    A draw is :math:`\mu + L x`, where the standard multivariate :math:`x` is made coordinate by
    coordinate. Given the earlier ones, :math:`x_i` is a Student-t with :math:`\nu + i` degrees of
    freedom (`i` from 0), times a scale,

    .. math::

        x_i = t_i \sqrt{\frac{\nu}{\nu + i} \prod_{j<i} \left(1 + \frac{t_j^2}{\nu + j}\right)},
        \qquad t_i \sim t_{\nu + i}

    so that draws are a smooth function of :math:`\nu`, without gamma variates.

    Parameters
    ----------
    {options}

    Raises
    ------
    ParametrizationError
        If `df` is not above 2.

    References
    ----------
    Ding, P. (2016). On the conditional distribution of the multivariate t distribution. The
    American Statistician 70(3). https://arxiv.org/abs/1604.00561

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext.approximations
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=3)
    ...     group = pm.Group([x], vfam="full_rank_student_t")
    >>> group.params_dict["L_tril"].get_value().shape
    (6,)
    """

    __param_spec__ = {  # noqa: RUF012, PyMC's own
        "mu": ("d",),
        "L_tril": ("int(d * (d + 1) / 2)",),
        "log_df": ("1",),
    }
    short_name = "full_rank_student_t"
    Options = StudentTOptions

    def start_values(self, start: Any, options: StudentTOptions) -> dict[str, np.ndarray]:
        """Return PyMC's full-rank start, at `df` degrees of freedom."""
        return {
            "mu": starting_means(self, start),
            "L_tril": packed_identity(self.ddim),
            "log_df": np.full(1, np.log(options.df - _LEAST_DF)),
        }

    @property
    def noise_dim(self) -> int:
        """Two numbers for each variable."""
        return 2 * int(self.ddim)

    @node_property
    def df(self) -> pt.TensorVariable:
        """Degrees of freedom, ()."""
        return _df(self.params_dict)[0]

    @node_property
    def L(self) -> pt.TensorVariable:
        """Factor of the scale matrix, (d, d)."""
        return unpacked(self.params_dict["L_tril"], self.ddim)

    @node_property
    def mean(self) -> pt.TensorVariable:
        """Means, (d,)."""
        return self.params_dict["mu"]

    @node_property
    def cov(self) -> pt.TensorVariable:
        """Covariance, (d, d)."""
        return self.L.dot(self.L.T) * self.df / (self.df - 2.0)

    @node_property
    def std(self) -> pt.TensorVariable:
        """Standard deviations, (d,)."""
        return pt.sqrt(pt.diag(self.cov))

    @node_property
    def symbolic_random(self) -> pt.TensorVariable:
        """Draws, (draws, d)."""
        df = self.df + np.arange(self.ddim)
        t = student_draws(self.symbolic_initial, df)
        growth = pt.log1p(t**2 / df)
        before = pt.cumsum(growth, axis=1) - growth
        x = t * pt.exp(0.5 * before) * pt.sqrt(self.df / df)
        return self.mean + x.dot(self.L.T)

    def log_density(
        self, z: pt.TensorVariable, parameters: Mapping[str, pt.TensorVariable]
    ) -> pt.TensorVariable:
        """Return log q(z)."""
        d, df = self.ddim, _df(parameters)[0]
        factor = unpacked(parameters["L_tril"], d)
        x = solve_triangular(factor, (z - parameters["mu"]).T, lower=True)
        tails = (df + d) / 2 * pt.log1p(pt.sum(x**2, axis=0) / df)
        return _log_normalizer(df, d) - tails - pt.sum(pt.log(pt.diagonal(factor)))

    def gaussian_values(self, mean: np.ndarray, cov: np.ndarray) -> dict[str, np.ndarray]:
        """Return the same mean and covariance, at the present `df`."""
        df = float(self.df.eval())
        return {"mu": mean, "L_tril": packed_factor(cov * (df - 2) / df)}

    def coordinates(self) -> list[Coordinates]:
        """Return means and factors in units of the factor."""
        return [FullRankCoordinates(self)]

    def moments(self, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return means and log standard deviations, (..., d)."""
        d = self.ddim
        log_sd = log_sd_of_factor(values["L_tril"], d)
        return values["mu"], log_sd + 0.5 * np.log1p(_LEAST_DF * np.exp(-values["log_df"]))


def _log_normalizer(df: Any, d: int) -> pt.TensorVariable:
    """Return the log density of a standard `d`-variate Student-t at 0."""
    return pt.gammaln((df + d) / 2) - pt.gammaln(df / 2) - d / 2 * pt.log(np.pi * df)
