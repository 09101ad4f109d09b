"""The rivals of mean-field ADVI: one draw a step, Adam with learning rate 0.01, float64.

A rival is built with a model and runs steps. ``cold(n)`` goes from the model to `n` steps, all
compilation included; ``prepare(n)`` then makes ``run()``, which takes `n` further steps on a
compiled program. Everything returns when the result is there, not when it is under way.
"""

from __future__ import annotations

import inspect

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import pymc as pm

LEARNING_RATE = 0.01
EVERY = 100


# PyTensor imports these when it first compiles, and one of them compiles itself.
_LINKERS = ("pytensor.link.c.exceptions", "pytensor.link.c.cutils", "pytensor.link.c.lazylinker_c")
PYTENSOR_IMPORTS = {
    "jax": (*_LINKERS, "jax", "jax.numpy", "pytensor.link.jax.dispatch"),
    "numba": (*_LINKERS, "numba", "pytensor.link.numba.dispatch"),
    "c": _LINKERS,
}


class UnavailableError(Exception):
    """The rival does not run in this environment; the message says why."""


class Rival(ABC):
    """A way to take optimisation steps.

    Parameters
    ----------
    model : pymc.Model

    Attributes
    ----------
    imports : tuple of str
        Modules to import before the clock starts.
    """

    imports: tuple[str, ...] = ()

    def __init__(self, model: pm.Model):
        self.model = model

    @abstractmethod
    def cold(self, n: int) -> None:
        """Go from the model to `n` steps."""

    @abstractmethod
    def prepare(self, n: int) -> None:
        """Make :meth:`run` ready to take `n` steps."""

    @abstractmethod
    def run(self) -> None:
        """Take the steps prepared for."""

    def loss(self) -> float:
        """Mean of the last losses, in nats and on PyMC's scale, NaN where there is no loss."""
        return float("nan")


def last_losses(losses: Any) -> float:
    """Mean of the last 200 losses."""
    losses = np.asarray(losses)
    return float(losses[-200:].mean()) if losses.size else float("nan")


class JaxRival(Rival):
    """A rival that starts from the log density as a JAX function, which costs it nothing."""

    imports = ("jax", "jax.numpy", "pymc_vi_ext.comparison._jax_density")

    def __init__(self, model: pm.Model):
        super().__init__(model)
        from pymc_vi_ext.comparison._jax_density import jax_density

        self.density = jax_density(model)
        self.losses: Any = ()
        self._n = 0
        self._key = 0

    @abstractmethod
    def program(self, n: int) -> Callable[[Any], Any]:
        """Return a jitted ``f(key) -> losses`` of `n` steps."""

    def cold(self, n: int) -> None:
        import jax

        self._f, self._n = self.program(n), n
        self.losses = jax.block_until_ready(self._f(jax.random.key(1)))

    def prepare(self, n: int) -> None:
        if n != self._n:
            self.cold(n)

    def run(self) -> None:
        import jax

        self._key += 1
        jax.block_until_ready(self._f(jax.random.key(self._key)))

    def loss(self) -> float:
        return last_losses(self.losses)


class Limit(JaxRival):
    """``lax.scan`` of ``value_and_grad`` of the negative ELBO, and Adam.

    The mathematics of PyMC's mean-field ADVI: ``sigma = softplus(rho)``, the entropy from the
    same draw. With `apart` the draw stands behind an optimization barrier, without which XLA's CPU
    compiler computes it again at each of its uses.
    """

    def __init__(self, model: pm.Model, apart: bool = False):
        super().__init__(model)
        self._apart = apart

    def program(self, n: int) -> Callable[[Any], Any]:
        import jax
        import jax.numpy as jnp

        density, apart = self.density, self._apart
        size = density.start.size

        def negative_elbo(parameters: Any, z: Any, keys: Any, data: Any) -> Any:
            mu, rho = parameters
            sigma = jax.nn.softplus(rho)
            logq = jnp.sum(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - jnp.log(sigma))
            return (logq - density.logp(mu + sigma * z, keys, data)) / density.normalizer

        def step(data: Any, carry: Any, _: Any) -> Any:
            parameters, m, v, t, key = carry
            key, sample_key, *keys = jax.random.split(key, 2 + density.sources)
            z = jax.random.normal(sample_key, (size,))
            if apart:
                z = jax.lax.optimization_barrier(z)
            loss, g = jax.value_and_grad(negative_elbo)(parameters, z, keys, data)
            t = t + 1
            rate = LEARNING_RATE * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, v, g)
            parameters = jax.tree.map(
                lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), parameters, m, v
            )
            return (parameters, m, v, t, key), loss

        @jax.jit
        def run(key: Any, data: Any) -> Any:
            parameters = (jnp.asarray(density.start), jnp.zeros(size))
            zeros = jax.tree.map(jnp.zeros_like, parameters)
            carry = (parameters, zeros, zeros, jnp.zeros(()), key)
            return jax.lax.scan(partial(step, data), carry, length=n)

        return lambda key: run(key, density.data)[1]


class NumPyro(JaxRival):
    """``SVI.run`` without its progress bar, as a whole under ``jax.jit``.

    Under ``jit`` a second run compiles nothing; left alone, every run compiles again.
    """

    imports = (*JaxRival.imports, "numpyro", "numpyro.distributions", "numpyro.infer")

    def program(self, n: int) -> Callable[[Any], Any]:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        from numpyro.infer import SVI, Trace_ELBO

        from pymc_vi_ext.comparison._jax_density import numpyro_model

        density = self.density
        start, size = jnp.asarray(density.start), density.start.size

        def guide(data: Any) -> None:
            mu = numpyro.param("mu", start)
            rho = numpyro.param("rho", jnp.zeros(size))
            numpyro.sample("x", dist.Normal(mu, jax.nn.softplus(rho)).to_event(1))

        svi = SVI(numpyro_model(density), guide, numpyro.optim.Adam(LEARNING_RATE), Trace_ELBO())
        run = jax.jit(lambda key, data: svi.run(key, n, data, progress_bar=False).losses)
        return lambda key: run(key, density.data)

    def loss(self) -> float:
        return super().loss() / self.density.normalizer


class Every:
    """A callback of ours that looks at the loss every so many steps."""

    every = EVERY

    def __init__(self) -> None:
        self.calls = 0
        self.best = np.inf

    def __call__(self, approx: Any, losses: Any, i: int) -> None:
        self.calls += 1
        self.best = min(self.best, losses[-1])


class Ours(Rival):
    """``vix.fit`` and then ``refine``, which compiles nothing."""

    def __init__(self, model: pm.Model, backend: str, bar: bool = False):
        super().__init__(model)
        self._backend = backend
        self._bar = bar
        self._callback = Every()

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of the backend, so that the clock sees no import."""
        engine = ("pymc_vi_ext.fitting", "pymc_vi_ext.engine.jax_loop")
        return (*PYTENSOR_IMPORTS[self._backend], *engine)

    def inference(self) -> Any:
        """Return a new inference object."""
        import pymc_vi_ext as vix

        return vix.ADVI(model=self.model, random_seed=1)

    def cold(self, n: int) -> None:
        import pymc_vi_ext as vix

        _check_compiler(self._backend)
        options: dict[str, Any] = {}
        if "convergence" in inspect.signature(vix.fit).parameters:
            options["convergence"] = None
        if self._bar:
            options["callbacks"] = [self._callback]
        self._inference = self.inference()
        self.approx = vix.fit(
            n,
            method=self._inference,
            backend=self._backend,
            obj_optimizer=pm.adam(learning_rate=LEARNING_RATE),
            progressbar=self._bar,
            **options,
        )
        self._check_calls(n)

    def prepare(self, n: int) -> None:
        self._n = n
        self.run()

    def run(self) -> None:
        self._callback.calls = 0
        self._inference.refine(self._n, progressbar=self._bar)
        self._check_calls(self._n)

    def loss(self) -> float:
        return last_losses(self.approx.hist)

    def _check_calls(self, n: int) -> None:
        if self._bar and self._callback.calls < n // EVERY:
            raise AssertionError(f"{self._callback.calls} calls of the callback in {n} steps")


class PyMC(Rival):
    """``pm.fit`` without its progress bar, which makes it faster, and then ``refine``."""

    def __init__(self, model: pm.Model, backend: str):
        super().__init__(model)
        self._backend = backend
        if backend == "jax" and _release("pymc") < (6, 4):
            raise UnavailableError(f"PyMC {version('pymc')} cannot fit on JAX, 6.4 can")

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of the backend, so that the clock sees no import."""
        return PYTENSOR_IMPORTS[self._backend]

    def inference(self) -> Any:
        """Return a new inference object."""
        return pm.ADVI(model=self.model, random_seed=1)

    def cold(self, n: int) -> None:
        _check_compiler(self._backend)
        self._inference = self.inference()
        self.approx = self._inference.fit(
            n,
            backend=self._backend,
            obj_optimizer=pm.adam(learning_rate=LEARNING_RATE),
            progressbar=False,
        )

    def prepare(self, n: int) -> None:
        self._n = n

    def run(self) -> None:
        self._inference.refine(self._n, progressbar=False)

    def loss(self) -> float:
        return last_losses(self.approx.hist)


class Extras(Rival):
    """The trainer behind ``pymc_extras.fit_advi``, without the posterior draws of the latter.

    With PyMC's gradient estimator. Its progress bar cannot be switched off; it is drawn to no
    terminal here.
    """

    def __init__(self, model: pm.Model, backend: str):
        super().__init__(model)
        self._backend = backend
        try:
            from pymc_extras.inference import advi
        except ImportError:
            raise UnavailableError(
                f"pymc-extras (with fit_advi) is not installed beside PyMC {version('pymc')}"
            ) from None
        self._advi = advi

    @property
    def imports(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of the backend, so that the clock sees no import."""
        return PYTENSOR_IMPORTS[self._backend]

    def cold(self, n: int) -> None:
        _check_compiler(self._backend)
        self._trainer = self._advi.Trainer(
            optimizer=self._advi.adam(LEARNING_RATE),
            path_derivative_gradient=False,
            backend=self._backend,
            random_seed=1,
        )
        self._losses = self._trainer.fit(n, model=self.model, random_seed=1).loss_history

    def prepare(self, n: int) -> None:
        self._n = n

    def run(self) -> None:
        self._trainer.fit(self._n, model=self.model)

    def loss(self) -> float:
        normalizer = pm.MeanField(model=self.model).symbolic_normalizing_constant.eval()
        return last_losses(self._losses) / float(normalizer)


def _check_compiler(backend: str) -> None:
    import pytensor

    if backend == "c" and not pytensor.config.cxx:
        raise UnavailableError("no C++ compiler")


def _release(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version(package).split(".")[:2])


@dataclass(frozen=True)
class Entry:
    """A row of the table of rivals.

    Attributes
    ----------
    label : str
        As shown.
    make : callable
        ``make(model) -> Rival``.
    world : {"limit", "ours", "pymc", "other"}
        Who it is; the targets refer to it.
    latest : bool
        Whether it wants a newer PyMC than pymc-extras admits, and so another interpreter.
    """

    label: str
    make: Callable[[pm.Model], Rival]
    world: str
    latest: bool = False


ADVI: dict[str, Entry] = {
    "limit": Entry("limit: `lax.scan` of `value_and_grad`, Adam", Limit, "limit"),
    "limit-apart": Entry(
        "limit, the draw kept apart by a barrier", partial(Limit, apart=True), "limit"
    ),
    "vix-jax": Entry("**ours**, JAX", partial(Ours, backend="jax"), "ours"),
    "vix-jax-bar": Entry(
        f"**ours**, JAX, progress bar and a callback every {EVERY} steps",
        partial(Ours, backend="jax", bar=True),
        "ours",
    ),
    "vix-numba": Entry("**ours**, numba", partial(Ours, backend="numba"), "ours"),
    "vix-c": Entry("**ours**, C", partial(Ours, backend="c"), "ours"),
    "pymc-numba": Entry("`pm.fit`, numba", partial(PyMC, backend="numba"), "pymc"),
    "pymc-c": Entry("`pm.fit`, C", partial(PyMC, backend="c"), "pymc"),
    "pymc-jax": Entry("`pm.fit`, JAX", partial(PyMC, backend="jax"), "pymc", latest=True),
    "extras-numba": Entry(
        "pymc-extras `fit_advi`, numba", partial(Extras, backend="numba"), "pymc"
    ),
    "extras-c": Entry("pymc-extras `fit_advi`, C", partial(Extras, backend="c"), "pymc"),
    "extras-jax": Entry("pymc-extras `fit_advi`, JAX", partial(Extras, backend="jax"), "pymc"),
    "numpyro": Entry("NumPyro `SVI.run`", NumPyro, "other"),
}
