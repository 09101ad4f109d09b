"""Amortized Stein variational gradient descent, over a sampler's parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pymc as pm

from pymc.variational import inference
from pymc.variational.approximations import FullRank

from pymc_vi_ext.inference._kernels import as_kernel
from pymc_vi_ext.inference._stein import SteinOperator
from pymc_vi_ext.inference.base import continuous_model
from pymc_vi_ext.inference.svgd import SteinMethod
from pymc_vi_ext.options import Options as AnyOptions
from pymc_vi_ext.options import option
from pymc_vi_ext.python_only import python_only


@dataclass(frozen=True)
class ASVGDOptions(AnyOptions):
    """Options of amortized Stein variational gradient descent."""

    kernel: Literal["rbf", "imq", "linear", "linear_rbf"] | Callable[..., Any] = option(
        "rbf", "As of SVGD."
    )
    temperature: float = option(
        1.0, "Divides the density's part of the direction; 1 underestimates variances.", gt=0
    )


class ASVGD(SteinMethod, inference.ASVGD):
    r"""Amortized Stein variational gradient descent.

    Moves the parameters of an approximation so that its draws follow the Stein direction. The loss
    in ``hist`` is that of :class:`SVGD`, of the draws of each step.

    Parameters
    ----------
    approx : pymc.Approximation, optional
        What draws the particles, and learns to; by default a full-rank Gaussian.
    {parameters}

    References
    ----------
    Wang, D. and Liu, Q. (2016). Learning to draw samples. https://arxiv.org/abs/1611.01722

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.Normal("x", 3.0, 2.0)
    ...     approx = vix.ASVGD(random_seed=1).fit(500, obj_n_mc=100, progressbar=False)
    >>> approx.mean.eval().shape
    (1,)
    """

    Options: ClassVar[type[AnyOptions]] = ASVGDOptions
    options: ASVGDOptions
    takes_start = False
    default_draws = 500

    def __init__(
        self,
        approx: Any = None,
        *,
        model: pm.Model | None = None,
        random_seed: int | None = None,
        **options: Any,
    ):
        self.options = ASVGDOptions.bind(self.name, (), options)
        if approx is None:
            model = continuous_model(model, self.name, dense=True)
            with python_only():
                approx = FullRank(model=model, random_seed=random_seed)
        # Past inference.ASVGD, whose constructor only warns and makes the same default.
        super(inference.ASVGD, self).__init__(
            approx=approx,
            kernel=as_kernel(self.options.kernel),
            estimator=SteinOperator,
            temperature=self.options.temperature,
        )
        self.seed = random_seed
