"""What a comparison can run: every method of :func:`pymc_vi_ext.fit`, samplers, and peers.

A variational method is what ``fit`` makes of its name, with the same options and defaults, and
perhaps ``correct`` of that. A sampler is one row of :data:`SAMPLERS`: its options and the function
that runs it; a method of another library is one of :data:`~pymc_vi_ext.comparison.peers.PEERS`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
import warnings

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pymc as pm

from pymc_vi_ext.comparison.checkpoints import fit_or_go_on
from pymc_vi_ext.comparison.peers import PEERS, refuse_minibatches
from pymc_vi_ext.comparison.runnable import LONGEST, Runnable
from pymc_vi_ext.comparison.types import Status
from pymc_vi_ext.errors import ConvergenceWarning, UnknownNameError
from pymc_vi_ext.interrupts import allowed
from pymc_vi_ext.options import Options, option
from pymc_vi_ext.python_only import python_only

if TYPE_CHECKING:
    import xarray as xr

    from pymc.variational.opvi import Approximation

    from pymc_vi_ext.method import Method


@dataclass(frozen=True)
class NutsOptions(Options):
    """Options of NUTS."""

    sampler: Literal["pymc", "nutpie", "numpyro", "blackjax"] = option(
        "pymc", "Implementation of NUTS."
    )
    tune: int = option(1000, "Tuning transitions of a chain, discarded.", ge=1, le=1_000_000)
    chains: int = option(4, "Number of chains.", ge=1, le=1_000)
    target_accept: float = option(0.8, "Acceptance rate the step size is tuned to.", gt=0, lt=1)


@dataclass(frozen=True)
class CorrectionOptions(Options):
    """Whether a fit is where a method ends."""

    correct: bool = option(
        False, "Whether weights or short chains go on from the fit to the posterior."
    )


@dataclass(frozen=True)
class AutoOptions(Options):
    """Options of ``method="auto"``."""

    max_seconds: float = option(
        120.0, "Seconds after which it ends with its best draws.", gt=0, le=LONGEST
    )
    backend: Literal["auto", "jax", "numba", "c"] = option(
        "auto", "What runs fits and chains; auto is JAX, or numba where JAX lacks an Op."
    )


def runnable_names() -> tuple[str, ...]:
    """Return the names of all that a comparison can run.

    Returns
    -------
    tuple of str
        Samplers, ``"auto"``, the methods of :func:`pymc_vi_ext.fit`, those of other libraries.

    Examples
    --------
    >>> from pymc_vi_ext.comparison import runnable_names
    >>> {"nuts", "auto", "advi", "numpyro_svi"} <= set(runnable_names())
    True
    """
    return (*SAMPLERS, "auto", *_methods(), *PEERS)


def _methods() -> dict[str, type[Method]]:
    # On use: the import of a comparison stays light, that of methods loads the engines.
    from pymc_vi_ext.inference import METHODS

    return METHODS


def runnable(name: str) -> Runnable:
    """Return what runs under `name`.

    Raises
    ------
    UnknownNameError
        If there is no such method.
    """
    if table := next((table for table in (SAMPLERS, PEERS) if name in table), None):
        return table[name]
    if name == "auto":
        return Runnable((AutoOptions,), _run_fit)
    if name not in _methods():
        raise UnknownNameError("method", name, runnable_names())
    method = _methods()[name]

    def require(options: Mapping[str, Any]) -> None:
        rule = options.get("convergence")
        if rule in method.unfit_rules:
            raise ValueError(f'the rule {rule!r} cannot judge {name}: use convergence="default".')

    def suit(model: pm.Model, options: Mapping[str, Any]) -> None:
        from pymc_vi_ext.inference.base import continuous_model

        continuous_model(model, method.__name__)
        if method.needs_all_data:
            refuse_minibatches(name, model)
        rank = options.get("rank")
        if rank is not None and rank > (d := _dimension(model)):
            raise ValueError(f"rank is {rank}, and the model has {d} dimension{'s' * (d > 1)}.")

    own = (method.FitOptions, method.Options, CorrectionOptions)
    return Runnable(own, _run_fit, require, suit)


def _dimension(model: pm.Model) -> int:
    """Return the number of unconstrained parameters."""
    with python_only():
        return sum(np.size(value) for value in model.initial_point().values())


@dataclass(frozen=True)
class MethodSpec:
    """Which method to run, how, and what to call it.

    Attributes
    ----------
    name : str
        One of :func:`runnable_names`.
    options : mapping of str
        Options that differ from the defaults.
    label : str
        Name of its row in tables and figures; the method's name if empty.

    Raises
    ------
    ValueError
        If the method or an option is unknown; the message lists the known ones.

    Examples
    --------
    >>> from pymc_vi_ext.comparison import MethodSpec
    >>> spec = MethodSpec("svgd", {"n_particles": 200})
    >>> spec.label, spec.all_options["n_particles"], spec.all_options["kernel"]
    ('svgd', 200, 'rbf')
    """

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        """Check the names, and fill in the label."""
        method = runnable(self.name)
        for given in self.options:
            if given not in method.names:
                raise ValueError(
                    f"Method {self.name!r} has no option {given!r}: it takes "
                    f"{', '.join(method.names) or 'none'}."
                )
        object.__setattr__(self, "label", self.label or self.name)

    @property
    def all_options(self) -> dict[str, Any]:
        """All options by name, defaults included, as given."""
        return {**runnable(self.name).defaults, **self.options}


def make_spec(method: str | Mapping[str, Any] | MethodSpec) -> MethodSpec:
    """Turn what a user may write for a method into a :class:`MethodSpec`.

    Parameters
    ----------
    method : str, mapping or MethodSpec
        A name, or a mapping with ``name``, its options and perhaps a ``label``.

    Returns
    -------
    MethodSpec

    Raises
    ------
    ValueError
        If the method or an option is unknown; the message lists the known ones.

    Examples
    --------
    >>> from pymc_vi_ext.comparison import make_spec
    >>> make_spec({"name": "svgd", "n_particles": 200, "label": "svgd-200"}).label
    'svgd-200'
    """
    if isinstance(method, MethodSpec):
        return method
    if isinstance(method, str):
        return MethodSpec(method)
    if not isinstance(method, Mapping) or "name" not in method:
        raise ValueError(f"A method is a name or a mapping with a `name`, not {method!r}.")
    options = {key: value for key, value in method.items() if key not in {"name", "label"}}
    return MethodSpec(method["name"], options, method.get("label", ""))


def _require_sampler(options: Mapping[str, Any]) -> None:
    sampler = options["sampler"]
    if importlib.util.find_spec(sampler) is None:
        raise ImportError(
            f"The NUTS sampler {sampler!r} is not installed: pip install 'pymc-vi-ext[samplers]'."
        )


def _run_nuts(
    model: pm.Model,
    name: str,
    options: Mapping[str, Any],
    draws: int,
    seed: int,
    progressbar: bool,
    folder: Path | None,
) -> dict[str, Any]:
    sampler = options["sampler"]
    start = time.perf_counter()
    # PyMC and nutpie return the draws so far after Ctrl-C.
    with allowed(may_be_caught=True) as keyboard:
        try:
            datatree = _sample(model, options, draws, seed, progressbar, keyboard)
        except Exception as error:
            if keyboard.interrupted:
                # Too few draws for a result, for instance.
                raise KeyboardInterrupt from error
            raise
    elapsed = time.perf_counter() - start
    sampling = float(datatree["posterior"].attrs["sampling_time"])
    return {
        "status": Status.INTERRUPTED if keyboard.interrupted else Status.FINISHED,
        "datatree": datatree,
        "compile_s": max(elapsed - sampling, 0.0),
        "sample_s": sampling,
        "backend": sampler,
        "versions": {package: version(package) for package in ("pymc", sampler)},
    }


def _sample(
    model: pm.Model,
    options: Mapping[str, Any],
    draws: int,
    seed: int,
    progressbar: bool,
    keyboard: allowed,
) -> xr.DataTree:
    sampler, tune, chains = (options[key] for key in ("sampler", "tune", "chains"))
    if sampler == "blackjax":
        from pymc_vi_ext.comparison._blackjax import sample_blackjax

        return sample_blackjax(model, draws, tune, chains, seed, options["target_accept"])
    arguments = {"target_accept": options["target_accept"]}
    more: dict[str, Any] = {}
    if sampler == "numpyro":
        # On two cores: iris 9 s of sampling against 32 in sequence, mixture 11 s against 5.
        # "parallel", PyMC's default, warns where devices are fewer than chains.
        arguments["chain_method"] = "vectorized"
    if sampler == "pymc":

        def stop(**_: Any) -> None:
            # PyMC would go on with the next chain.
            if keyboard.interrupted:
                raise KeyboardInterrupt

        more["callback"] = stop
    datatree: xr.DataTree = pm.sample(
        draws,
        tune=tune,
        chains=chains,
        # Chains in forked processes deadlock once JAX has run in this one, and spawned ones
        # need a guarded main module and seconds each to start. nutpie uses threads.
        cores=chains if sampler == "nutpie" else 1,
        random_seed=seed,
        nuts_sampler=sampler,
        nuts=arguments,
        model=model,
        progressbar=progressbar,
        quiet=not progressbar,
        compute_convergence_checks=False,  # the comparison reports R-hat and ESS itself
        **more,
    )
    return datatree


SAMPLERS: dict[str, Runnable] = {"nuts": Runnable((NutsOptions,), _run_nuts, _require_sampler)}
"""Name -> sampler."""


def _run_fit(
    model: pm.Model,
    name: str,
    options: Mapping[str, Any],
    draws: int,
    seed: int,
    progressbar: bool,
    folder: Path | None,
) -> dict[str, Any]:
    from pymc_vi_ext.approximations.empirical import Empirical
    from pymc_vi_ext.correction import correct
    from pymc_vi_ext.results import StopReason, to_datatree

    options = dict(options)
    corrected = options.pop("correct", False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        approx = fit_or_go_on(model, name, options, seed, progressbar, folder)
    report = approx.report
    start = time.perf_counter()
    interrupted = report.stop_reason is StopReason.INTERRUPTED
    try:
        with allowed():
            # What "auto" returns is made of draws, whose chains are kept apart.
            if isinstance(approx, Empirical) and approx.draws is not None:
                datatree = approx.draws
            elif corrected:
                datatree = correct(approx, draws, random_seed=seed, progressbar=progressbar)
            else:
                datatree = to_datatree(approx, draws=draws, random_seed=seed)
    except KeyboardInterrupt:
        interrupted, datatree = True, None
    return {
        "status": Status.INTERRUPTED if interrupted else Status.FINISHED,
        "datatree": datatree,
        "losses": negative_elbos(approx),
        "compile_s": report.timings.before_s,
        "fit_s": report.timings.run_s,
        "sample_s": time.perf_counter() - start,
        "steps": report.steps,
        "backend": report.backend,
        "stop_reason": report.stop_reason.value,
        "versions": dict(report.versions),
        # The row of the table says them; in the terminal they would not say whose they are.
        "warnings": tuple(
            str(w.message) for w in caught if w.category in (UserWarning, ConvergenceWarning)
        ),
    }


def negative_elbos(approx: Approximation | None) -> np.ndarray:
    """Return the losses of a fit where they are negative ELBOs; those of particles are not."""
    from pymc_vi_ext.results import NEGATIVE_ELBO

    if approx is None or approx.report.loss != NEGATIVE_ELBO:
        return np.empty(0)
    losses: np.ndarray = approx.hist
    return losses
