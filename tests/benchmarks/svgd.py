"""The rivals of SVGD: a Gaussian kernel with the median heuristic, Adam 0.01, float64.

Particles start at the model's initial point with a standard deviation of 1. A rival may be too
slow for all the steps: it then stops after a given time, and says how far it came.
"""

from __future__ import annotations

import time

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pymc as pm

from rivals import LEARNING_RATE, Entry, JaxRival, Ours, PyMC


class Cut:
    """Ends a fit of PyMC's when its time is over.

    Attributes
    ----------
    steps : int
        Steps taken.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self.steps = 0
        self.started = 0.0

    def __call__(self, approx: Any, losses: Any, i: int) -> None:
        self.steps += 1
        if self.steps == 1:
            self.started = time.perf_counter()
        elif time.perf_counter() - self.started > self._seconds:
            raise StopIteration("time is over")


class OursSVGD(Ours):
    """``vix.SVGD``."""

    def __init__(self, model: pm.Model, backend: str, particles: int, cap: float):
        super().__init__(model, backend)
        self._particles = particles

    def inference(self) -> Any:
        import pymc_vi_ext as vix

        return vix.SVGD(n_particles=self._particles, model=self.model, random_seed=1)

    def particles(self) -> np.ndarray:
        """Positions, of shape (particles, d)."""
        return self.approx.groups[0].histogram.get_value()


class PyMCSVGD(PyMC):
    """``pm.SVGD``, stopped when the time is over."""

    def __init__(self, model: pm.Model, backend: str, particles: int, cap: float):
        super().__init__(model, backend)
        self._particles = particles
        self._cut = Cut(cap)

    def inference(self) -> Any:
        return pm.SVGD(n_particles=self._particles, model=self.model, random_seed=1)

    def cold(self, n: int) -> None:
        inference = self._inference = self.inference()
        self.approx = inference.fit(
            n,
            backend=self._backend,
            obj_optimizer=pm.adam(learning_rate=LEARNING_RATE),
            callbacks=[self._cut],
            progressbar=False,
        )

    def run(self) -> None:
        self._cut.steps = 0
        super().run()

    @property
    def taken(self) -> int:
        """Steps of the last run."""
        return self._cut.steps

    def particles(self) -> np.ndarray:
        """Positions, of shape (particles, d)."""
        return self.approx.groups[0].histogram.get_value()


class ParticleRival(JaxRival):
    """A jitted chunk of steps, called until the steps are done or the time is over."""

    chunk = 10

    def __init__(self, model: pm.Model, particles: int, cap: float):
        super().__init__(model)
        self._cap = cap
        rng = np.random.default_rng(1)
        self._start = self.density.start + rng.normal(size=(particles, self.density.start.size))
        self.taken = 0

    @abstractmethod
    def chunk_of_steps(self) -> tuple[Any, Callable[[Any], Any]]:
        """Return the first state and a jitted ``f(state) -> state`` of :attr:`chunk` steps."""

    @abstractmethod
    def particles(self) -> np.ndarray:
        """Positions, of shape (particles, d)."""

    def program(self, n: int) -> Callable[[Any], Any]:
        raise NotImplementedError

    def cold(self, n: int) -> None:
        self._n = n
        self._state, self._f = self.chunk_of_steps()
        self.run()

    def prepare(self, n: int) -> None:
        self._n = n

    def run(self) -> None:
        import jax

        self.taken, started = 0, 0.0
        while self.taken < self._n:
            self._state = jax.block_until_ready(self._f(self._state))
            self.taken += self.chunk
            # The clock starts after the first chunk: it may have compiled.
            started = started or time.perf_counter()
            if time.perf_counter() - started > self._cap:
                break


class BlackJAX(ParticleRival):
    """``blackjax.svgd``."""

    imports = (*JaxRival.imports, "blackjax", "optax")

    def chunk_of_steps(self) -> tuple[Any, Callable[[Any], Any]]:
        import blackjax
        import jax
        import jax.numpy as jnp
        import optax

        density = self.density
        gradient = jax.grad(lambda x: density.logp(x, (), density.data))
        method = blackjax.svgd(gradient, optax.adam(LEARNING_RATE))
        state = method.init(jnp.asarray(self._start), {"length_scale": jnp.ones(())})

        @jax.jit
        def steps(state: Any) -> Any:
            return jax.lax.fori_loop(0, self.chunk, lambda _, s: method.step(s), state)

        return state, steps

    def particles(self) -> np.ndarray:
        return np.asarray(self._state.particles)


class NumPyroStein(ParticleRival):
    """``numpyro.contrib.einstein.SteinVI`` with point masses, which makes it SVGD."""

    imports = (*JaxRival.imports, "numpyro", "numpyro.contrib.einstein")
    chunk = 1

    def chunk_of_steps(self) -> tuple[Any, Callable[[Any], Any]]:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist

        from numpyro.contrib.einstein import RBFKernel, SteinVI

        density = self.density
        start, size = jnp.asarray(density.start), density.start.size

        def model() -> None:
            # Masked, so that only the factor counts; SteinVI draws from the model once.
            x = numpyro.sample("x", dist.Normal().expand([size]).to_event(1).mask(False))
            numpyro.factor("logp", density.logp(x, (), density.data))

        def guide() -> None:
            where = numpyro.param("where", lambda key: start + jax.random.normal(key, (size,)))
            numpyro.sample("x", dist.Delta(where, event_dim=1))

        stein = SteinVI(
            model,
            guide,
            numpyro.optim.Adam(LEARNING_RATE),
            RBFKernel(),
            num_stein_particles=len(self._start),
            num_elbo_particles=1,
        )
        self._stein = stein
        state = stein.init(jax.random.key(1))
        return state, jax.jit(lambda state: stein.update(state)[0])

    def particles(self) -> np.ndarray:
        return np.asarray(self._stein.get_params(self._state)["where"])


def table(particles: int, cap: float) -> dict[str, Entry]:
    """Return the rivals by name.

    Parameters
    ----------
    particles : int
    cap : float
        Seconds after which a slow one stops.
    """
    options: dict[str, Any] = {"particles": particles, "cap": cap}

    def entry(label: str, cls: Any, world: str, latest: bool = False, **more: Any) -> Entry:
        return Entry(label, partial(cls, **options, **more), world, latest)

    return {
        "vix-jax": entry("**ours**, JAX", OursSVGD, "ours", backend="jax"),
        "vix-numba": entry("**ours**, numba", OursSVGD, "ours", backend="numba"),
        "vix-c": entry("**ours**, C", OursSVGD, "ours", backend="c"),
        "pymc-numba": entry("`pm.fit`, numba", PyMCSVGD, "pymc", backend="numba"),
        "pymc-c": entry("`pm.fit`, C", PyMCSVGD, "pymc", backend="c"),
        "pymc-jax": entry("`pm.fit`, JAX", PyMCSVGD, "pymc", latest=True, backend="jax"),
        "blackjax": entry("BlackJAX `svgd`", BlackJAX, "other"),
        "numpyro": entry("NumPyro `SteinVI`", NumPyroStein, "other"),
    }
