"""Errors of the package that more than one room raises, and what they carry."""

from __future__ import annotations

import os
import sys
import warnings

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymc.variational.opvi import Approximation

INTERRUPT = "keyboard interrupt"
"""What reports and results say of Ctrl-C."""


class UnknownNameError(ValueError, KeyError):
    """A name that is none of those known; PyMC raises KeyError there, most others ValueError.

    Parameters
    ----------
    kind : str
        What it should have named, "method" for instance.
    name : object
        What was given.
    known : iterable
        The names there are; the message lists them in alphabetical order.

    Examples
    --------
    >>> from pymc_vi_ext import zoo
    >>> zoo.build("no such model")
    Traceback (most recent call last):
    pymc_vi_ext.errors.UnknownNameError: Unknown model 'no such model': the known ones are ...
    """

    def __init__(self, kind: str, name: object, known: object):
        names = ", ".join(sorted(map(str, known)))  # type: ignore[call-overload]
        super().__init__(f"Unknown {kind} {name!r}: the known ones are {names}.")

    # KeyError shows the repr of its message.
    __str__ = ValueError.__str__


class NoGradientError(NotImplementedError):
    """A log density has no gradient, for which there are samplers and no variational inference.

    Examples
    --------
    >>> import pymc as pm, pymc_vi_ext as vix
    >>> from pytensor.graph.op import Op
    >>> from pytensor.tensor import dscalar
    >>> class Square(Op):
    ...     itypes, otypes = [dscalar], [dscalar]
    ...
    ...     def perform(self, node, inputs, outputs):
    ...         outputs[0][0] = inputs[0] ** 2
    >>> with pm.Model() as model:
    ...     x = pm.Normal("x")
    ...     y = pm.Potential("y", -Square()(x))
    >>> vix.fit(model=model)
    Traceback (most recent call last):
    pymc_vi_ext.errors.NoGradientError: ...
    """


class NoDensityError(ValueError):
    """No draw of an approximation is where the model has a density: nothing can begin there.

    Examples
    --------
    >>> from pymc_vi_ext.errors import NoDensityError
    >>> issubclass(NoDensityError, ValueError)
    True
    """


class LostGradientError(ArithmeticError):
    """A compiled step follows another gradient than that of the model's log density.

    Examples
    --------
    >>> from pymc_vi_ext.errors import LostGradientError
    >>> issubclass(LostGradientError, ArithmeticError)
    True
    """


class FitWarning(UserWarning):
    """Something is wrong with the result of a fit; nothing of it is lost.

    Parameters
    ----------
    message : str
    approx : Approximation
        The result, with ``hist`` and ``report``; an attribute.

    Attributes
    ----------
    approx : Approximation
        The result, with ``hist`` and ``report``.

    Examples
    --------
    >>> import warnings
    >>> from pymc_vi_ext.errors import FitWarning
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always", FitWarning)  # of whichever kind
    >>> [warning.message.approx for warning in caught]
    []
    """

    def __init__(self, message: str, approx: Approximation):
        super().__init__(message)
        self.approx = approx


class ApproximationWarning(FitWarning):
    """A fit has converged, to what is far from the posterior: k-hat is above .7.

    Parameters
    ----------
    message : str
    approx : Approximation
        The result, with ``hist`` and ``report``; an attribute.

    Examples
    --------
    >>> import warnings
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model(), warnings.catch_warnings():
    ...     x = pm.MvNormal("x", [0.0, 0.0], [[1.0, 0.95], [0.95, 1.0]])
    ...     warnings.simplefilter("ignore", vix.ApproximationWarning)
    ...     mean_field = vix.fit(random_seed=1, progressbar=False)
    >>> tree = vix.correct(mean_field, random_seed=1, progressbar=False)
    >>> tree.attrs["verdict"]
    'PASS'
    """


class ConvergenceWarning(FitWarning):
    """A fit ended before it converged, or its result has another flaw; nothing of it is lost.

    Where warnings are errors, this is what a fit raises, and the fit is its `approx`.

    Parameters
    ----------
    message : str
    approx : Approximation
        The result, with ``hist`` and ``report``; an attribute.

    Attributes
    ----------
    approx : Approximation
        The result, with ``hist`` and ``report``.

    Examples
    --------
    >>> import warnings
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model(), warnings.catch_warnings():
    ...     x = pm.Normal("x")
    ...     warnings.simplefilter("error", vix.ConvergenceWarning)
    ...     try:
    ...         approx = vix.fit(50, random_seed=1, progressbar=False)
    ...     except vix.ConvergenceWarning as warning:
    ...         approx = warning.approx
    >>> approx.report.steps
    50
    """


def warn(message: str | Warning, category: type[Warning] = UserWarning) -> None:
    """Warn of something at the line of the user's that called the package, or PyMC's ``fit``."""
    packages = [__file__]
    if (pymc := sys.modules.get("pymc")) is not None and pymc.__file__:
        packages.append(pymc.__file__)
    folders = tuple(f"{Path(file).parent}{os.sep}" for file in packages)
    warnings.warn(message, category, skip_file_prefixes=folders)


def fit_of(error: Exception) -> Approximation | None:
    """Return what the fit that `error` ended had got by then, None if no fit raised it."""
    approx: Approximation | None = vars(error).get("approx")
    return approx
