r"""Newton steps on the ELBO of a mean field Gaussian at fixed draws, in a trust region."""

from __future__ import annotations

import time

from collections.abc import Callable, Generator

import numpy as np
import pytensor

from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.engine.density import LogDensity
from pymc_vi_ext.engine.program import new_rate_scale

Vector = np.ndarray
Product = Callable[[Vector], Vector]

# In units of the mean field's own standard deviations and of logarithms of them.
_FIRST_RADIUS, _LARGEST_RADIUS = 1.0, 1000.0
# A step is taken where it gains this part of what the quadratic model promised.
_LEAST_RATIO = 0.15


class NewtonProgram:
    r"""The state of the optimisation: means :math:`\mu`, log scales :math:`\omega`, and the region.

    All are shared variables, so that a checkpoint holds them.

    Parameters
    ----------
    mu, omega : array of shape (d,)
        Where it starts.
    draws : array of shape (n, d)
        The fixed standard normal draws :math:`z`.

    Attributes
    ----------
    gain : SharedVariable
        What the quadratic model promised of the last step, in nats; infinite where the region cut
        that step short, and before the first.
    """

    def __init__(self, mu: Vector, omega: Vector, draws: np.ndarray):
        self._mu = pytensor.shared(mu, "mu")
        self._omega = pytensor.shared(omega, "omega")
        self._draws = pytensor.shared(draws, "draws")
        self.radius = pytensor.shared(_FIRST_RADIUS, "radius")
        self.gain = pytensor.shared(np.inf, "gain")
        self.state = [self._mu, self._omega, self._draws, self.radius, self.gain]
        self.data: list[SharedVariable] = []
        self.rngs: list[SharedVariable] = []
        self.rate_scale = new_rate_scale()

    @property
    def mu(self) -> Vector:
        """Means, (d,)."""
        value: Vector = self._mu.get_value(borrow=True)
        return value

    @property
    def omega(self) -> Vector:
        """Logarithms of the standard deviations, (d,)."""
        value: Vector = self._omega.get_value(borrow=True)
        return value

    @property
    def draws(self) -> np.ndarray:
        """The fixed draws, (n, d)."""
        value: np.ndarray = self._draws.get_value(borrow=True)
        return value

    @draws.setter
    def draws(self, draws: np.ndarray) -> None:
        self._draws.set_value(draws)

    def restart(self, seed: int) -> None:
        """Begin with a new region; there is nothing random."""
        self.restart_optimizer()

    def restart_optimizer(self) -> None:
        """Begin with a new region."""
        self.radius.set_value(_FIRST_RADIUS)
        self.gain.set_value(np.inf)

    def move(self, mu: Vector, omega: Vector) -> None:
        """Go to a point."""
        self._mu.set_value(mu)
        self._omega.set_value(omega)

    def points(self) -> np.ndarray:
        r"""Return the draws of the mean field, :math:`\mu + e^\omega z`, (n, d)."""
        points: np.ndarray = self.mu + np.exp(self.omega) * self.draws
        return points

    def loss(self, density: LogDensity) -> tuple[float, Vector]:
        """Return the negative ELBO and its gradient, (2 d,)."""
        d = len(self.mu)
        with np.errstate(over="ignore", invalid="ignore"):
            logp, slopes = density(self.points())
        if not (np.isfinite(logp).all() and np.isfinite(slopes).all()):
            return np.inf, np.zeros(2 * d)
        spread = np.exp(self.omega) * self.draws
        entropy = float(np.sum(self.omega)) + 0.5 * d * (1 + np.log(2 * np.pi))
        gradient = -np.concatenate([slopes.mean(axis=0), np.mean(slopes * spread, axis=0) + 1.0])
        return -float(logp.mean()) - entropy, gradient

    def hessian_product(self, density: LogDensity) -> Product:
        """Return the product of the Hessian of the negative ELBO with vectors, (2 d,)."""
        points, spread, d = self.points(), np.exp(self.omega) * self.draws, len(self.mu)
        _, slopes = density(points)

        def product(vector: Vector) -> Vector:
            moved = vector[:d] + spread * vector[d:]
            changed = density.hessian_products(points, moved)
            of_omega = np.mean(changed * spread + slopes * spread * vector[d:], axis=0)
            return -np.concatenate([changed.mean(axis=0), of_omega])

        return product


class NewtonLoop:
    """Take Newton steps; a :class:`~pymc_vi_ext.engine.Loop`.

    Each is the minimum of a quadratic model in a ball, in units of the mean field as it is: means
    in its standard deviations. Conjugate gradients find it, and stop at the edge of the ball or
    where the curvature is negative; the ball grows where the model is right and shrinks where it
    is not (Nocedal and Wright, 2006, algorithms 4.1 and 7.2).

    Parameters
    ----------
    program : NewtonProgram
    density : LogDensity
    show : callable
        Brings the present point into the approximation.

    References
    ----------
    Nocedal, J. and Wright, S. (2006). Numerical Optimization, second edition. Springer.
    """

    def __init__(self, program: NewtonProgram, density: LogDensity, show: Callable[[], None]):
        self._program, self._density, self._show = program, density, show
        points = program.points()
        density(points)
        density.hessian_products(points, program.draws)
        self.backend = density.backend
        self.run_s = 0.0
        # Loss and gradient of the point they belong to.
        self._at: tuple[Vector, float, Vector] | None = None

    @property
    def compile_s(self) -> float:
        """Seconds spent on compilation so far."""
        return self._density.compile_s

    def run(self, n: int) -> np.ndarray:
        """Take `n` steps; losses in nats, of the points reached.

        Raises
        ------
        FloatingPointError
            If the log density is not finite where the first step begins.
        """
        # Between two runs the model's data may have changed.
        self._at = None
        started = time.perf_counter()
        losses = np.array([self._step() for _ in range(n)])
        self.run_s += time.perf_counter() - started
        return losses

    def intervals(self, every: int, times: int) -> Generator[np.ndarray, None, None]:
        """Take `times` runs of `every` steps; yield the losses of each."""
        for _ in range(times):
            yield self.run(every)

    def write_back(self, *, internals: bool = True) -> None:
        """Bring the present mean field into the approximation."""
        self._show()

    def _loss(self) -> tuple[float, Vector]:
        program = self._program
        here = np.concatenate([program.mu, program.omega])
        if self._at is None or not np.array_equal(self._at[0], here):
            self._at = (here, *program.loss(self._density))
        return self._at[1:]

    def _step(self) -> float:
        program = self._program
        mu, omega, radius = program.mu, program.omega, float(program.radius.get_value())
        d, sd = len(mu), np.exp(omega)
        unit = np.concatenate([sd, np.ones(d)])
        loss, gradient = self._loss()
        if not np.isfinite(loss):
            raise FloatingPointError(
                "The log density is not finite around the start, at a tenth of a unit on the "
                "unconstrained space: give another `start`, by name of the variables."
            )
        product = program.hessian_product(self._density)
        step, promised, inside = _in_ball(
            unit * gradient, lambda v: unit * product(unit * v), radius
        )
        program.gain.set_value(promised if inside else np.inf)
        kept = self._at
        program.move(mu + sd * step[:d], omega + step[d:])
        reached, _ = self._loss()
        ratio = (loss - reached) / promised if promised > 0 else 0.0
        if ratio < 0.25:
            radius *= 0.25
        elif ratio > 0.75 and not inside:
            radius = min(2 * radius, _LARGEST_RADIUS)
        program.radius.set_value(radius)
        # At the optimum a promise below rounding is kept by none; there is nothing to lose by it.
        if ratio > _LEAST_RATIO:
            return reached
        program.move(mu, omega)
        self._at = kept
        return loss


def _in_ball(gradient: Vector, product: Product, radius: float) -> tuple[Vector, float, bool]:
    """Minimise the quadratic model in a ball by conjugate gradients.

    Returns
    -------
    tuple of array, float and bool
        The step, what it gains by the model (in nats, from 0), and whether it lies inside.
    """
    step, residual = np.zeros_like(gradient), gradient.copy()
    direction, curved = -residual, np.zeros_like(gradient)
    norm = float(np.linalg.norm(gradient))
    # Ever closer, so that the last step has no direction left out in which there is much to gain.
    enough = min(0.1, norm) * norm
    inside = True
    for _ in range(2 * len(gradient)):
        if np.linalg.norm(residual) <= enough:
            break
        along = product(direction)
        if not np.isfinite(along).all():
            # No second derivative in this direction: as far as there are some.
            break
        curvature = float(direction @ along)
        square = float(residual @ residual)
        length = square / curvature if curvature > 0 else np.inf
        if curvature <= 0 or np.linalg.norm(step + length * direction) >= radius:
            length, inside = _to_the_edge(step, direction, radius), False
        step = step + length * direction
        curved = curved + length * along
        if not inside:
            break
        residual = residual + length * along
        direction = -residual + float(residual @ residual) / square * direction
    promised = -float(gradient @ step) - 0.5 * float(step @ curved)
    return step, max(promised, 0.0), inside


def _to_the_edge(step: Vector, direction: Vector, radius: float) -> float:
    """Return how far along `direction` the ball ends."""
    a, b = float(direction @ direction), float(step @ direction)
    c = float(step @ step) - radius**2
    return float((-b + np.sqrt(b**2 - a * c)) / a)
