"""What a fit may minimise in place of the ELBO: tighter bounds, other gradients, tempering."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pymc.variational.operators import KL
from pymc.variational.opvi import Approximation
from pytensor.gradient import disconnected_grad

from pymc_vi_ext.approximations import families_of
from pymc_vi_ext.objectives.elbo import PathELBO, ProbedKL
from pymc_vi_ext.upstream import ObjectiveFunction, ObjectiveUpdates, ParametrizationError


class Objective(ABC):
    """What a fit may minimise: it makes PyMC's operator for an approximation.

    A frozen dataclass of numbers, so that two that are equal mean the same steps.

    Examples
    --------
    >>> from pymc_vi_ext.objectives import OBJECTIVES, Objective
    >>> all(isinstance(objective, Objective) for objective in OBJECTIVES.values())
    True
    """

    @abstractmethod
    def operator(self, approx: Approximation) -> KL:
        """Return PyMC's operator.

        Raises
        ------
        ParametrizationError
            If a group of `approx` has not what it needs.
        """


@dataclass(frozen=True)
class ELBO(Objective):
    r"""The evidence lower bound, :math:`E_q[\log p(y, z) - \log q(z)]`.

    Parameters
    ----------
    gradient : {"path", "total", "entropy"}
        "path" drops the score, whose expectation is 0 (:class:`PathELBO`): no noise where the
        approximation is the posterior. "total" differentiates the draws' log q whole, as PyMC
        does. "entropy" takes the closed form of a Gaussian's entropy in its place: less noise in
        the loss, more in the gradient near the optimum.

    Raises
    ------
    ValueError
        If `gradient` is another word.

    Examples
    --------
    >>> from pymc_vi_ext.objectives import ELBO, OBJECTIVES
    >>> OBJECTIVES["elbo"] == ELBO()
    True
    >>> ELBO(gradient="score")
    Traceback (most recent call last):
    ValueError: An ELBO's gradient is one of path, total, entropy, not 'score'.
    """

    gradient: str = "path"

    def __post_init__(self) -> None:
        """Check the word."""
        if self.gradient not in _GRADIENTS:
            raise ValueError(
                f"An ELBO's gradient is one of {', '.join(_GRADIENTS)}, not {self.gradient!r}."
            )

    def operator(self, approx: Approximation) -> KL:
        """Return PyMC's operator."""
        return _GRADIENTS[self.gradient](approx)


@dataclass(frozen=True)
class Renyi(Objective):
    r"""The variational Rényi bound on `K` draws.

    .. math::

        \mathcal L_\alpha = \frac{1}{1 - \alpha}
            \log \frac1K \sum_k \left(\frac{p(y, z_k)}{q(z_k)}\right)^{1 - \alpha}

    For :math:`\alpha \to 1` it is the ELBO, for :math:`\alpha = 0` the importance-weighted bound,
    which tends to :math:`\log Z` with `K`. Below 1 the approximation covers more of the
    posterior's mass. The gradient is doubly reparameterised: through the draws only, with weights
    :math:`\alpha \tilde w_k + (1 - \alpha) \tilde w_k^2`.

    Parameters
    ----------
    alpha : float
        From 0; not 1, which is the ELBO.
    K : int
        Draws inside the logarithm; `obj_n_mc` counts such sets.

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    Li, Y. and Turner, R. (2016). Rényi divergence variational inference.
    https://arxiv.org/abs/1602.02311

    Tucker, G. et al. (2019). Doubly reparameterized gradient estimators for Monte Carlo
    objectives. https://arxiv.org/abs/1810.04152

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.StudentT("x", nu=3.0)
    ...     options = {"random_seed": 1, "progressbar": False}
    ...     elbo = vix.fit(**options)
    ...     bound = vix.fit(objective=vix.objectives.Renyi(alpha=0.0, K=16), **options)
    >>> bool(bound.std.eval()[0] > elbo.std.eval()[0])
    True
    """

    alpha: float = 0.5
    K: int = 8

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.alpha >= 0 or self.alpha == 1:
            raise ValueError(
                f"`alpha` must be 0 or more, and not 1, where the bound is the ELBO: use "
                f'objective="elbo". It is {self.alpha!r}.'
            )
        if not isinstance(self.K, int) or self.K < 2:
            raise ValueError(f"`K` counts draws inside the logarithm, at least 2, not {self.K!r}.")

    def operator(self, approx: Approximation) -> KL:
        """Return the operator.

        Raises
        ------
        ParametrizationError
            If a group is a mixture, whose choice of component has no gradient through draws.
        """
        if _is_stratified(approx):
            raise ParametrizationError(
                "A mixture's draws cannot be followed back to its weights inside a logarithm: use "
                'objective="elbo" for mixtures.'
            )
        return _RenyiOperator(approx, self.alpha, self.K)


@dataclass(frozen=True)
class ImportanceWeighted(Renyi):
    r"""The importance-weighted bound on `K` draws, :math:`E \log \frac1K \sum_k p / q`.

    The Rényi bound at :math:`\alpha = 0`, with the doubly reparameterised gradient.

    Parameters
    ----------
    alpha : float
        Stays 0: other values make a :class:`Renyi`.
    K : int
        Draws inside the logarithm.

    References
    ----------
    Burda, Y., Grosse, R. and Salakhutdinov, R. (2016). Importance weighted autoencoders.
    https://arxiv.org/abs/1509.00519

    Examples
    --------
    >>> from pymc_vi_ext.objectives import ImportanceWeighted
    >>> ImportanceWeighted(K=16).alpha
    0.0
    """

    alpha: float = 0.0


@dataclass(frozen=True)
class Tempered(Objective):
    r"""The ELBO of a tempered posterior, :math:`p^{\beta_t}`, that ends at the posterior.

    :math:`\beta_t` rises geometrically from `first` to 1 over `steps` steps: modes are found
    while the density between them is still passable. The loss recorded is the negative ELBO of the
    posterior itself at every step.

    Parameters
    ----------
    first : float
        In (0, 1).
    steps : int

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    Mandt, S. et al. (2016). Variational tempering. https://arxiv.org/abs/1411.1810

    Examples
    --------
    >>> from pymc_vi_ext.objectives import Tempered
    >>> Tempered(first=0.05, steps=2_000)
    Tempered(first=0.05, steps=2000)
    >>> Tempered(first=2.0)
    Traceback (most recent call last):
    ValueError: `first` must lie between 0 and 1, not be 2.0.
    """

    first: float = 0.1
    steps: int = 1_000

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.first < 1:
            raise ValueError(f"`first` must lie between 0 and 1, not be {self.first!r}.")
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"`steps` must be a whole number from 1, not {self.steps!r}.")

    def operator(self, approx: Approximation) -> KL:
        """Return PyMC's operator, with a counter of its own.

        Raises
        ------
        ParametrizationError
            If a group is a mixture: its components are sought at the modes already.
        """
        if _is_stratified(approx):
            raise ParametrizationError(
                'A mixture starts at the modes and needs no tempering: use objective="elbo".'
            )
        return _TemperedOperator(approx, self.first, self.steps)


class _EntropyELBO(ProbedKL):
    """The negative ELBO with closed entropies."""

    def __init__(self, approx: Approximation):
        super().__init__(approx)
        if odd := [family for family in families_of(approx) if family.entropy() is None]:
            raise ParametrizationError(
                f"The entropy of {type(odd[0].pymc_group).__name__} has no closed form here: use "
                'ELBO(gradient="path").'
            )

    def apply(self, f: Any) -> pt.TensorVariable:
        approx = self.approx
        entropies: list[Any] = [family.entropy() for family in families_of(approx)]
        entropy = sum(entropies)
        return -self.logp_norm - entropy / approx.symbolic_normalizing_constant


def _is_stratified(approx: Approximation) -> bool:
    return any(family.stratified for family in families_of(approx))


_GRADIENTS = {"path": PathELBO, "total": KL, "entropy": _EntropyELBO}


class _SetsOfDraws(ObjectiveFunction):
    """An objective whose number of draws counts sets of `K`."""

    def __call__(self, nmc: int | None, **kwargs: Any) -> pt.TensorVariable:
        return super().__call__(self.op.K * (nmc or 1), **kwargs)


class _RenyiOperator(ProbedKL):
    objective_class = _SetsOfDraws

    def __init__(self, approx: Approximation, alpha: float, K: int):
        super().__init__(approx)
        self.alpha, self.K = alpha, K

    def apply(self, f: Any) -> pt.TensorVariable:
        approx, alpha = self.approx, floatX(self.alpha)
        # Groups whose draws cannot be followed without their score get the plain gradient.
        families = families_of(approx)
        followed_all = all(family.has_path for family in families)
        logq = (
            sum(family.path_logq() for family in families) if followed_all else approx.symbolic_logq
        )
        gate = self.probe.gate
        log_ratios = (approx.sized_symbolic_logp - gate * logq).reshape((-1, self.K))
        powers = (1 - alpha) * log_ratios
        bound = (pt.logsumexp(powers, axis=1) - floatX(np.log(self.K))) / (1 - alpha)
        shares = pt.special.softmax(powers, axis=1)
        weights = alpha * shares + (1 - alpha) * shares**2 if followed_all else shares
        weights = pt.switch(gate > 0, weights, floatX(1 / self.K))
        followed = pt.sum(disconnected_grad(weights) * log_ratios, axis=1)
        value = disconnected_grad(gate * (bound - followed)) + followed
        return -pt.mean(value) / approx.symbolic_normalizing_constant


class _CountedSteps(ObjectiveFunction):
    """An objective that depends on the number of the step."""

    def updates(self, *args: Any, **kwargs: Any) -> ObjectiveUpdates:
        updates = super().updates(*args, **kwargs)
        updates[self.op.step] = self.op.step + floatX(1.0)
        return updates


def tempered_power(step: pt.TensorVariable, first: float, steps: int) -> pt.TensorVariable:
    """Return the posterior's power at `step`: from `first` geometrically to 1 over `steps`."""
    left = pt.maximum(1 - step / floatX(steps), floatX(0.0))
    return floatX(first) ** left


class _TemperedOperator(PathELBO):
    objective_class = _CountedSteps

    def __init__(self, approx: Approximation, first: float, steps: int):
        super().__init__(approx)
        self.first, self.steps = first, steps
        self.step = pytensor.shared(floatX(0.0), "tempering_step")

    def apply(self, f: Any) -> pt.TensorVariable:
        beta = tempered_power(self.step, self.first, self.steps)
        whole = super().apply(f)
        # The path gradient of beta logp - logq, from those of the whole and of log p alone.
        extra = (1 - beta) * self.logp_norm
        return whole + extra - disconnected_grad(self.probe.gate * extra)


OBJECTIVES = {
    "elbo": ELBO(),
    "iwelbo": ImportanceWeighted(),
    "renyi": Renyi(),
    "tempered": Tempered(),
}
"""Name for :func:`pymc_vi_ext.fit` -> objective with its defaults."""
