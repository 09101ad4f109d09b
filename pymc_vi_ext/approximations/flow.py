"""Normalizing flows: invertible maps of a Gaussian, made of simple layers."""

from __future__ import annotations

import logging

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pytensor.tensor.linalg import solve_triangular

from pymc_vi_ext.approximations._algebra import (
    normal_log_density,
    packed_factor,
    packed_identity,
    unpacked,
)
from pymc_vi_ext.approximations._flow_ops import Along
from pymc_vi_ext.approximations._layers import Layers, Mapped, Planar
from pymc_vi_ext.approximations.coordinates import (
    Coordinates,
    FullRankCoordinates,
    NetworkCoordinates,
)
from pymc_vi_ext.approximations.family import with_gradient
from pymc_vi_ext.approximations.family_group import FamilyGroup
from pymc_vi_ext.options import Options, option
from pymc_vi_ext.upstream import ParametrizationError, node_property, starting_means

logger = logging.getLogger(__name__)

# Draws behind `mean`, `cov` and `std`, which have no closed form.
_MOMENT_DRAWS = 2_000


@dataclass(frozen=True)
class FlowOptions(Options):
    """Options of :class:`FlowGroup`."""

    kind: Literal["spline", "affine", "planar"] = option(
        "spline",
        "Rational-quadratic splines (the most flexible), RealNVP's affine couplings, or planar "
        "layers (the smallest).",
    )
    couplings: int = option(4, "Number of layers.", ge=1, le=100)
    width: int = option(
        32, "Of the two hidden layers of a coupling; planar ones have none.", ge=1, le=1_000
    )


class FlowGroup(FamilyGroup[FlowOptions]):
    r"""Normalizing flow on top of a Gaussian of full rank.

    A draw is :math:`\mu + L\, g(\epsilon)` where `g` is a chain of couplings: each leaves half of
    the variables as they are and moves every other one by a monotone function, whose shape a
    small network of two hidden layers computes from the first half. At the start `g` is the
    identity and the family the full-rank Gaussian.

    Parameters
    ----------
    {options}

    Notes
    -----
    A planar layer is :math:`x + u \tanh(w^T x + b)`.

    In one dimension no half is left to compute the other from: the flow is one spline, and says
    so in the log.

    Raises
    ------
    ParametrizationError
        If `kind` is unknown, or a size no whole number from 1.

    References
    ----------
    Rezende, D. and Mohamed, S. (2015). Variational inference with normalizing flows.
    https://arxiv.org/abs/1505.05770

    Dinh, L., Sohl-Dickstein, J. and Bengio, S. (2017). Density estimation using Real NVP.
    https://arxiv.org/abs/1605.08803

    Durkan, C. et al. (2019). Neural spline flows. https://arxiv.org/abs/1906.04032

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext.approximations
    >>> with pm.Model():
    ...     x = pm.Normal("x", shape=3)
    ...     group = pm.Group([x], vfam="flow", kind="affine", couplings=4)
    >>> sorted(group.params_dict)
    ['L_tril', 'mu', 'weights']
    """

    __param_spec__ = {  # noqa: RUF012, PyMC's own
        "mu": ("d",),
        "L_tril": ("int(d * (d + 1) / 2)",),
        "weights": ("w",),
    }
    short_name = "flow"
    Options = FlowOptions

    def start_values(self, start: Any, options: FlowOptions) -> dict[str, np.ndarray]:
        """Return PyMC's full-rank start, and weights that make the couplings the identity."""
        d = self.ddim
        if d == 1 and (options.kind, options.couplings) != ("spline", 1):
            logger.warning("A flow in one dimension is one spline: there is nothing to couple.")
            options = replace(options, kind="spline", couplings=1)
        if options.kind == "planar":
            self._layers = Layers([Planar(d) for _ in range(options.couplings)])
            self._map: Callable[..., Any] = self._layers.mapped
        else:
            self._map = Along(options.kind, d, options.couplings, options.width)
            self._layers = Layers(self._map.layers)
        weights = self._layers.start(self.rng)
        self._first_weights = floatX(weights)
        return {
            "mu": starting_means(self, start),
            "L_tril": packed_identity(d),
            "weights": weights,
        }

    def _takes_params(self) -> bool:
        if self.user_params is not None:
            raise ParametrizationError(
                'A flow makes its own parameters: use vfam="flow" instead of `params`.'
            )
        return False

    @node_property
    def L(self) -> pt.TensorVariable:
        """Factor of the map on top, (d, d)."""
        return unpacked(self.params_dict["L_tril"], self.ddim)

    @node_property
    def _mapped(self) -> Mapped:
        """What the layers alone make of the noise."""
        return self._through_layers(self.symbolic_initial.T)

    def _through_layers(self, noise: pt.TensorVariable) -> Mapped:
        return Mapped(*self._map(noise, self.params_dict["weights"])[:3])

    def _on_top(self, x: pt.TensorVariable) -> pt.TensorVariable:
        return self.params_dict["mu"] + x.T.dot(self.L.T)

    def density_gradient(self) -> pt.TensorVariable:
        r"""Return d log q / d z at the draws, (draws, d), without the inverse of the map.

        Carried along with the draws: where a layer maps `x` to `y` with Jacobian `J`, the gradient
        at `y` is :math:`J^{-T} (\nabla_x \log q(x) - \nabla_x \log |\det J|)` (Vaitl et al., 2022,
        https://arxiv.org/abs/2206.09016).
        """
        return solve_triangular(self.L, self._mapped.gradient, lower=True, trans=1).T

    def path_logq(self) -> pt.TensorVariable:
        """Return log q of the draws, (draws,), with the gradient through the draws alone."""
        return with_gradient(self.symbolic_logq, self.symbolic_random, self.density_gradient())

    def gaussian_values(self, mean: np.ndarray, cov: np.ndarray) -> dict[str, np.ndarray]:
        """Return the map on top; the Gaussian itself while the couplings are the identity."""
        return {"mu": mean, "L_tril": packed_factor(cov)}

    def is_round(self) -> bool:
        """Tell whether couplings are those of the start, and scales equal in every direction."""
        weights, packed = (self.params_dict[name].get_value() for name in ("weights", "L_tril"))
        rows, columns = np.tril_indices(self.ddim)
        diagonal = packed[rows == columns]
        return bool(
            (weights == self._first_weights).all()
            and (packed[rows != columns] == 0).all()
            and np.allclose(diagonal, diagonal[0])
        )

    def coordinates(self) -> list[Coordinates]:
        """Return those of the map on top, and the weights in a unit of their own."""
        return [FullRankCoordinates(self), NetworkCoordinates(self)]

    @node_property
    def symbolic_random(self) -> pt.TensorVariable:
        """Draws, (draws, d)."""
        return self._on_top(self._mapped.draws)

    @node_property
    def symbolic_logq_not_scaled(self) -> pt.TensorVariable:
        """Log q of the draws, by the change of variables along them."""
        log_det = self._mapped.log_det + pt.sum(pt.log(pt.diagonal(self.L)))
        return normal_log_density(self.symbolic_initial) - log_det

    @node_property
    def _some_draws(self) -> pt.TensorVariable:
        half = np.random.default_rng(0).normal(size=(_MOMENT_DRAWS // 2, self.ddim))
        noise = pt.constant(floatX(np.concatenate([half, -half])).T)
        return self._on_top(self._through_layers(noise).draws)

    @node_property
    def mean(self) -> pt.TensorVariable:
        """Means over 2,000 draws, always of the same noise, (d,)."""
        return self._some_draws.mean(axis=0)

    @node_property
    def cov(self) -> pt.TensorVariable:
        """Covariance over the draws of `mean`, (d, d)."""
        away = self._some_draws - self.mean
        return away.T.dot(away) / _MOMENT_DRAWS

    @node_property
    def std(self) -> pt.TensorVariable:
        """Standard deviations over the draws of `mean`, (d,)."""
        return self._some_draws.std(axis=0)

    def moments(self, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Raise: the moments of a flow are no function of its parameters in closed form."""
        raise TypeError(
            "A flow's means and standard deviations have no closed form: use a rule that watches "
            "the loss."
        )
