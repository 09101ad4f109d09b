"""The table of runnable methods, and their options.

A method is one row: its options (a dataclass, from which the configuration takes its keys) and the
function that runs it.
"""

from __future__ import annotations

import dataclasses
import time

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pymc as pm

from pymc_vi_ext.errors import UnknownNameError


def _option(default: Any, description: str, **bounds: float) -> Any:
    """Return a field whose description and bounds (``ge``, ``gt``, ``lt``) reach the schema."""
    return dataclasses.field(default=default, metadata={"description": description, **bounds})


@dataclass(frozen=True, kw_only=True)
class NutsOptions:
    """Options of NUTS."""

    sampler: Literal["pymc", "nutpie", "numpyro", "blackjax"] = _option(
        "pymc", "Implementation of NUTS."
    )
    tune: int = _option(1000, "Tuning transitions of a chain, discarded.", ge=1)
    chains: int = _option(4, "Number of chains.", ge=1)
    target_accept: float = _option(0.8, "Acceptance rate the step size is tuned to.", gt=0, lt=1)


_CONVERGENCE = "What stops the fit before that; null: nothing, all steps are taken."


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of a variational method."""

    n: int = _option(100_000, "Number of optimisation steps, at most.", ge=1)
    convergence: Literal["default"] | None = _option("default", _CONVERGENCE)
    learning_rate: float | None = _option(None, "First rate of the default optimizer.", gt=0)
    obj_n_mc: int | None = _option(None, "Draws a step for the gradient.", ge=1)
    backend: Literal["auto", "jax", "numba", "c"] = _option("auto", "What runs the steps.")


@dataclass(frozen=True, kw_only=True)
class SvgdOptions(FitOptions):
    """Options of Stein variational gradient descent."""

    n: int = _option(300, "Number of optimisation steps.", ge=1)
    convergence: Literal["default"] | None = _option(None, _CONVERGENCE)
    n_particles: int = _option(1000, "Number of particles.", ge=2)
    kernel: Literal["rbf", "imq", "linear", "linear_rbf"] = _option("rbf", "Kernel.")
    preconditioner: Literal["fisher", "hessian"] | None = _option(
        None, "Metric of the particles, none by default."
    )


@dataclass(frozen=True, kw_only=True)
class BamOptions(FitOptions):
    """Options of batch and match."""

    n: int = _option(1_000, "Number of steps, at most.", ge=1)
    rank: int | None = _option(
        None, "Of the covariance beside its diagonal; full by default.", ge=1
    )
    learning_rate: None = _option(None, "Batch and match has none.")
    obj_n_mc: int | None = _option(None, "Draws a step, 32 if null.", ge=2)


@dataclass(frozen=True, kw_only=True)
class DadviOptions(FitOptions):
    """Options of deterministic ADVI."""

    n: int = _option(1_000, "Number of Newton steps, at most.", ge=1)
    learning_rate: None = _option(None, "Deterministic ADVI has none.")
    obj_n_mc: None = _option(None, "Deterministic ADVI has `n_draws` instead.")
    n_draws: int = _option(64, "Fixed draws, an even number.", ge=4)


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Options of a method that has none."""


@dataclass(frozen=True, kw_only=True)
class LowRankOptions(FitOptions):
    """Options of ADVI with a covariance of low rank plus diagonal."""

    rank: int | None = _option(None, "Rank: 5, or the dimension where that is less.", ge=1)


@dataclass(frozen=True, kw_only=True)
class StudentTOptions(FitOptions):
    """Options of ADVI with a Student-t."""

    df: float = _option(10.0, "Degrees of freedom at the start.", gt=2)
    full_rank: bool = _option(True, "Multivariate, or independent variables.")


@dataclass(frozen=True, kw_only=True)
class MixtureOptions(FitOptions):
    """Options of ADVI with a mixture of Gaussians."""

    K: int = _option(2, "Number of components.", ge=1)
    full_rank: bool = _option(False, "Components of full covariance, or of diagonal.")
    spread: float = _option(1.0, "Scatter of the components at the start.", gt=0)


@dataclass(frozen=True, kw_only=True)
class FlowOptions(FitOptions):
    """Options of ADVI with a normalizing flow."""

    kind: Literal["spline", "affine", "planar"] = _option("spline", "Kind of the layers.")
    couplings: int = _option(4, "Number of layers.", ge=1)
    width: int = _option(32, "Width of the hidden layers.", ge=1)


class Run(Protocol):
    """Function that runs a method and returns the fields of a MethodResult that it knows."""

    def __call__(
        self, model: pm.Model, name: str, options: Any, draws: int, seed: int, progressbar: bool
    ) -> dict[str, Any]:
        """Run `name` on `model`."""


@dataclass(frozen=True)
class Method:
    """A row of the table of methods."""

    options: type
    run: Run


@dataclass(frozen=True)
class MethodSpec:
    """Which method to run, how, and what to call it.

    Attributes
    ----------
    name : str
        Name in :data:`METHODS`.
    options : mapping of str
        Options that differ from the defaults.
    label : str
        Name of its row in tables and figures; the method's name if empty.
    """

    name: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        """Check the names and fill in the label."""
        if self.name not in METHODS:
            raise UnknownNameError("method", self.name, METHODS)
        known = [option.name for option in dataclasses.fields(METHODS[self.name].options)]
        for option in self.options:
            if option not in known:
                raise ValueError(
                    f"Method {self.name!r} has no option {option!r}: it takes {_list(known)}."
                )
        object.__setattr__(self, "label", self.label or self.name)

    @property
    def all_options(self) -> dict[str, Any]:
        """All options by name, defaults included."""
        return dataclasses.asdict(METHODS[self.name].options(**self.options))


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


def _run_nuts(
    model: pm.Model, name: str, options: NutsOptions, draws: int, seed: int, progressbar: bool
) -> dict[str, Any]:
    _require(options.sampler)
    start = time.perf_counter()
    if options.sampler == "blackjax":
        from pymc_vi_ext.comparison._blackjax import sample_blackjax

        datatree = sample_blackjax(
            model, draws, options.tune, options.chains, seed, options.target_accept
        )
    else:
        datatree = pm.sample(
            draws,
            tune=options.tune,
            chains=options.chains,
            # Chains in forked processes deadlock once JAX has run in this one, and spawned ones
            # need a guarded main module and seconds each to start. nutpie uses threads.
            cores=options.chains if options.sampler == "nutpie" else 1,
            random_seed=seed,
            nuts_sampler=options.sampler,
            nuts=_sampler_kwargs(options),
            model=model,
            progressbar=progressbar,
            quiet=not progressbar,
            compute_convergence_checks=False,  # the comparison reports R-hat and ESS itself
        )
    elapsed = time.perf_counter() - start
    sampling = float(datatree["posterior"].attrs["sampling_time"])
    return {
        "datatree": datatree,
        "compile_s": max(elapsed - sampling, 0.0),
        "sample_s": sampling,
        "backend": options.sampler,
        "versions": _versions("pymc", options.sampler),
    }


def _run_fit(
    model: pm.Model, name: str, options: FitOptions, draws: int, seed: int, progressbar: bool
) -> dict[str, Any]:
    from pymc_vi_ext.fitting import fit
    from pymc_vi_ext.results import to_datatree

    approx = fit(
        options.n,
        name,
        model,
        random_seed=seed,
        inf_kwargs={
            option.name: getattr(options, option.name)
            for option in dataclasses.fields(options)
            if option.name not in _FIT_OPTIONS
        },
        backend=options.backend,
        obj_n_mc=options.obj_n_mc,
        convergence=options.convergence,
        learning_rate=options.learning_rate,
        progressbar=progressbar,
    )
    report = approx.report
    start = time.perf_counter()
    datatree = to_datatree(approx, draws=draws, random_seed=seed)
    return {
        "datatree": datatree,
        "losses": negative_elbos(approx),
        "compile_s": report.timings.graph_s + report.timings.compile_s,
        "fit_s": report.timings.run_s,
        "sample_s": time.perf_counter() - start,
        "steps": report.steps,
        "backend": report.backend,
        "stop_reason": report.stop_reason.value,
        "versions": dict(report.versions),
    }


def negative_elbos(approx: Any) -> np.ndarray:
    """Return the losses of a fit where they are negative ELBOs; those of particles are not."""
    from pymc_vi_ext.results import NEGATIVE_ELBO

    report = getattr(approx, "report", None)
    return approx.hist if report and report.loss == NEGATIVE_ELBO else np.empty(0)


# The others are for the constructor of the method.
_FIT_OPTIONS = {option.name for option in dataclasses.fields(FitOptions)}


def _run_direct(
    model: pm.Model, name: str, options: NoOptions, draws: int, seed: int, progressbar: bool
) -> dict[str, Any]:
    return _run_fit(model, name, FitOptions(n=0, convergence=None), draws, seed, progressbar)


METHODS: dict[str, Method] = {
    "nuts": Method(NutsOptions, _run_nuts),
    "advi": Method(FitOptions, _run_fit),
    "fullrank_advi": Method(FitOptions, _run_fit),
    "svgd": Method(SvgdOptions, _run_fit),
    "asvgd": Method(FitOptions, _run_fit),
    "bam": Method(BamOptions, _run_fit),
    "dadvi": Method(DadviOptions, _run_fit),
    "laplace": Method(NoOptions, _run_direct),
    "lowrank_advi": Method(LowRankOptions, _run_fit),
    "studentt_advi": Method(StudentTOptions, _run_fit),
    "pathfinder": Method(NoOptions, _run_direct),
    "mixture_advi": Method(MixtureOptions, _run_fit),
    "flow_advi": Method(FlowOptions, _run_fit),
}


def _sampler_kwargs(options: NutsOptions) -> dict[str, Any]:
    kwargs: dict[str, Any] = {"target_accept": options.target_accept}
    if options.sampler == "numpyro":
        # On two cores: iris 9 s of sampling against 32 in sequence, mixture 11 s against 5.
        # "parallel", PyMC's default, warns where devices are fewer than chains.
        kwargs["chain_method"] = "vectorized"
    return kwargs


def _require(sampler: str) -> None:
    from importlib.util import find_spec

    if find_spec(sampler) is None:
        raise ImportError(
            f"The NUTS sampler {sampler!r} is not installed: pip install 'pymc-vi-ext[samplers]'."
        )


def _versions(*packages: str) -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in packages}


def _list(names: Any) -> str:
    return ", ".join(names)
