"""The log density of a model, at many points in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pytensor import config
from pytensor.graph.basic import Variable
from pytensor.graph.replace import clone_replace

from pymc_vi_ext.engine.backend import Loop, make_loop
from pymc_vi_ext.engine.differentiable import REFUSALS, gradient_of
from pymc_vi_ext.engine.labels import in_plain_operations, labelled_as
from pymc_vi_ext.engine.program import StepProgram
from pymc_vi_ext.engine.vectorize import over_rows
from pymc_vi_ext.errors import LostGradientError, warn
from pymc_vi_ext.probe import is_lost
from pymc_vi_ext.python_only import building, python_only
from pymc_vi_ext.streams import streams_in
from pymc_vi_ext.upstream import collect_default_updates

# Points that a check of the gradient looks at.
_FEW_POINTS = 8


class LogDensity:
    """Log density on the unconstrained space, with gradients and Hessian-vector products.

    Parameters
    ----------
    model : pymc.Model
    backend : {"auto", "jax", "numba", "c"}, optional
        "auto" takes JAX, and numba for a model with an Op that JAX lacks.
    checked : bool
        Whether the first call holds the gradient against differences of the values.
    curved : bool
        Whether Hessian-vector products will be asked for. One program gives them with values and
        gradients then, which compiles sooner than two.

    Attributes
    ----------
    model : pymc.Model
    start : array of shape (d,)
        The model's initial point, all free variables one after the other.
    places : dict of str to slice
        Where each is, by name of its value variable.
    random : bool
        Whether the model reads batches, so that it is no density of all data.
    backend : str
        What runs it; known after the first call.
    check_bounds : bool
        Whether the density is 0 outside of its bounds; as the model's.

    Examples
    --------
    >>> import numpy as np, pymc as pm
    >>> from pymc_vi_ext.engine.density import LogDensity
    >>> with pm.Model() as model:
    ...     pm.Normal("x", shape=2)
    x
    >>> logp, gradient = LogDensity(model)(np.ones((3, 2)))
    >>> logp.shape, gradient[0].tolist()
    ((3,), [-1.0, -1.0])
    """

    def __init__(
        self,
        model: pm.Model,
        backend: str | None = "auto",
        *,
        checked: bool = True,
        curved: bool = False,
    ):
        self._asked, self.check_bounds = backend, model.check_bounds
        self.model, self._checked, self._curved = model, not checked, curved
        self.backend = (backend or "auto").lower()
        self._loops: list[Loop] = []
        self.start, self.places, self._flat, parts = in_one_vector(model)
        with python_only():
            logp = clone_replace([model.logp()], parts, rebuild_strict=False)
            [self._logp] = in_plain_operations(logp)
            drawn = collect_default_updates(inputs=[self._flat], outputs=[self._logp])
            self.random = bool(drawn) or bool(streams_in([self._logp]))
            with gradient_of(model):
                self._gradient = pt.grad(self._logp, self._flat, disconnected_inputs="ignore")

    @property
    def compile_s(self) -> float:
        """Seconds spent on compilation so far."""
        return sum(loop.compile_s for loop in self._loops)

    def graph_at(self, point: Variable) -> Variable:
        """Return the log density at a point (d,) as a graph."""
        [logp] = clone_replace([self._logp], {self._flat: point}, rebuild_strict=False)
        return logp

    def __call__(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return log densities, (n,), and gradients, (n, d), at points (n, d)."""
        logp, gradient = self._value_and_gradient(points)
        if not self._checked:
            self._checked = True
            refuse_lost(self.model, self.backend, self.lost(points))
        return logp, gradient

    def lost(self, points: np.ndarray | None = None) -> list[str]:
        """Name the variables whose gradient is not that of the log density around some points.

        Parameters
        ----------
        points : array of shape (n, d), optional
            By default one near the start.
        """
        rng = np.random.default_rng(0)
        if points is None:
            points = self.start + rng.normal(0, 0.1, (1, len(self.start)))
        # Of many points one lies beside every kink, where no difference is a slope.
        chosen = np.zeros(len(points), dtype=bool)
        chosen[rng.permutation(len(points))[:_FEW_POINTS]] = True
        signs = rng.choice([-1.0, 1.0], len(self.start))
        precision = float(np.finfo(config.floatX).eps)
        largest = float(np.max(np.abs(points), initial=0.0))
        found = []
        for name, where in self.places.items():
            direction = np.zeros(len(self.start))
            direction[where] = signs[where]

            def evaluate(h: float, v: np.ndarray = direction) -> tuple[float, float, float]:
                above, slopes_above = self._value_and_gradient(points + h * v)
                below, slopes_below = self._value_and_gradient(points - h * v)
                with np.errstate(invalid="ignore"):
                    slopes = (slopes_above + slopes_below) @ v / 2
                known = np.isfinite(above) & np.isfinite(below) & np.isfinite(slopes) & chosen
                sums = [np.sum(part[known]) for part in (above, below, slopes)]
                return tuple(sums) if known.any() else (np.nan,) * 3

            if is_lost(evaluate, precision, largest):
                found.append(name)
        return found

    def hessian_products(self, points: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Return the Hessian at each of the points times a vector each, (n, d).

        Where a gradient has no derivative (an Op's, say), or none that is finite (that of a branch
        not taken may not be), it is the difference of two gradients.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            if self._products is not None:
                products: np.ndarray = self._products(points, vectors)[0]
                if np.isfinite(products).all():
                    return products
            # The length at which the errors of rounding and of the difference are alike.
            sizes = np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1.0)
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            h = np.cbrt(np.finfo(config.floatX).eps) * sizes / np.where(lengths > 0, lengths, 1.0)
            _, above = self._value_and_gradient(points + h * vectors)
            _, below = self._value_and_gradient(points - h * vectors)
            differences: np.ndarray = (above - below) / (2 * h)
        if self._products is None:
            return differences
        return np.where(np.isfinite(products), products, differences)

    def hessian(self, point: np.ndarray) -> np.ndarray:
        """Return the Hessian at a point, (d, d)."""
        d = len(point)
        hessian = self.hessian_products(np.tile(point, (d, 1)), np.eye(d))
        symmetric: np.ndarray = (hessian + hessian.T) / 2
        return symmetric

    def _value_and_gradient(self, points: np.ndarray) -> list[np.ndarray]:
        if self._curved and self._products is not None:
            return self._products(points, np.zeros_like(points))[1:]
        return self._slopes(points)

    @cached_property
    def _slopes(self) -> Callable[..., list[np.ndarray]]:
        return self._batched([self._logp, self._gradient], [self._flat])

    @cached_property
    def _products(self) -> Callable[..., list[np.ndarray]] | None:
        vector = self._flat.type("vector")
        try:
            with python_only():
                along = pt.sum(self._gradient * vector)
                product = pt.grad(along, self._flat, disconnected_inputs="ignore")
        except REFUSALS:
            return None
        more = [self._logp, self._gradient] if self._curved else []
        return self._batched([product, *more], [self._flat, vector])

    def _batched(self, outputs: list[Any], inputs: list[Any]) -> Callable[..., list[np.ndarray]]:
        """Return a function of batches: a program whose step only evaluates."""
        empty = floatX(self.start)[None]
        batches = [pytensor.shared(empty) for _ in inputs]
        with python_only():
            graphs = over_rows(outputs, dict(zip(inputs, batches, strict=True)))
        # Of the graph's own type: an update of a more exact one is refused.
        results = [
            pytensor.shared(empty[:, 0] if g.ndim == 1 else empty, shape=(None, *g.type.shape[1:]))
            for g in graphs
        ]
        program = StepProgram(
            dict(zip(results, graphs, strict=True)), check_bounds=self.check_bounds, watched=False
        )
        loop: Loop | None = None
        chosen = (self._asked or "auto").lower() == "auto"

        def evaluate(*arrays: np.ndarray) -> list[np.ndarray]:
            nonlocal loop
            for batch, array in zip(batches, arrays, strict=True):
                batch.set_value(floatX(np.asarray(array)))
            for result in results:
                shape = (len(arrays[0]), *result.get_value(borrow=True).shape[1:])
                result.set_value(np.zeros(shape, result.type.dtype))
            if loop is None:
                loop = self._compiled(program, self._asked)
            try:
                loop.run(1)
            except NotImplementedError:
                # Another number of points is compiled anew, and may not lower as the first did.
                if not chosen or loop.backend != "jax":
                    raise
                loop = self._compiled(program, "numba")
                loop.run(1)
            loop.write_back()
            return [result.get_value() for result in results]

        return evaluate

    def _compiled(self, program: StepProgram, backend: str | None) -> Loop:
        with building():
            loop = make_loop(program, backend)
        self._loops.append(loop)
        self.backend = loop.backend
        return loop


def in_one_vector(
    model: pm.Model,
) -> tuple[np.ndarray, dict[str, slice], Variable, dict[Variable, Variable]]:
    """Lay the free variables of `model`, on the unconstrained space, one after the other.

    Returns
    -------
    start : array of shape (d,)
        The initial point.
    places : dict of str to slice
        Where each is, by name of its value variable.
    flat : Variable
        A vector.
    parts : dict of Variable to Variable
        The value variables, and what of the vector each is.
    """
    with building():
        point = model.initial_point()
    values = [model.rvs_to_values[rv] for rv in model.free_RVs]
    arrays = [np.asarray(point[value.name]) for value in values]
    start = np.concatenate([array.ravel() for array in arrays]).astype(float)
    flat = pt.tensor("flat", shape=start.shape, dtype=config.floatX)
    places: dict[str, slice] = {}
    parts, used = {}, 0
    for value, array in zip(values, arrays, strict=True):
        places[value.name] = where = slice(used, used + array.size)
        part = flat[where].reshape(array.shape).astype(value.dtype)
        parts[value] = labelled_as(value, part)
        used += array.size
    return start, places, flat, parts


def refuse_lost(model: pm.Model, backend: str, lost: Sequence[str]) -> None:
    """Say what it means that compiled gradients with respect to `lost` are not those of values.

    Raises
    ------
    LostGradientError
        If the model's own gradient, in Python alone, is right.

    Warns
    -----
    UserWarning
        If it is not either.
    """
    if not lost:
        return
    with python_only():
        density = LogDensity(model, "c", checked=False)
        wrong = density.lost()
    own = [name for name in lost if name and name not in wrong]
    if not (own or any(lost)):
        # Parameters that belong to no variable alone: a factor, the weights of a flow.
        own = [] if wrong else [""]
    if own:
        raise LostGradientError(
            f"The step compiled for {backend} follows another gradient than that of the model's "
            f"log density, with respect to {', '.join(map(_called, own))}: a fit would converge to "
            "a wrong posterior. The fault lies in this package or in PyTensor: please report it "
            'with the model. Another backend (backend="numba", "c" or "jax") may be right.'
        )
    warn(
        "The model's own gradient is not that of its log density, with respect to "
        f"{', '.join(map(_called, lost))}: an Op has another gradient, or one is cut on purpose. "
        "The fit follows it, and ends where it is zero, which need not be the posterior. Mend the "
        "Op's `pullback`, or leave out what cuts the gradient (`disconnected_grad`, "
        "`zero_grad`); a sampler that takes no gradients needs neither.",
    )


def _called(name: str) -> str:
    return f"`{name}`" if name else "all variables"
