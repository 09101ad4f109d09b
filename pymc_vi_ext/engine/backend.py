"""The choice between the engines."""

from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

import numpy as np

from pytensor.compile.mode import JAX, Mode, get_mode
from pytensor.link.c.basic import CLinker, OpWiseCLinker
from pytensor.link.jax.linker import JAXLinker
from pytensor.link.numba.linker import NumbaLinker
from pytensor.link.vm import VMLinker

from pymc_vi_ext.engine.program import StepProgram
from pymc_vi_ext.errors import UnknownNameError, warn

BACKENDS = ("auto", "jax", "numba", "c")


class Loop(Protocol):
    """What an engine offers to the one loop of the package."""

    @property
    def backend(self) -> str:
        """Name of the backend that runs the steps."""

    @property
    def compile_s(self) -> float:
        """Seconds spent on compilation so far."""

    @property
    def run_s(self) -> float:
        """Seconds spent on steps so far; of several fits side by side, its share."""

    def run(self, n: int) -> np.ndarray | None:
        """Take up to `n` steps, fewer after a NaN; losses in nats, or None without a loss."""

    def intervals(self, every: int, times: int) -> Generator[np.ndarray | None, None, None]:
        """Take up to `times` runs of `every` steps; yield the losses of each.

        Closing the iterator leaves the state at the end of the run it yielded last.
        """

    def write_back(self, *, internals: bool = True) -> None:
        """Bring the shared variables up to date; optimizer and generators only where asked."""


def backend_of(mode: Mode) -> str:
    """Return the backend that PyTensor compiles with in `mode`: one of `BACKENDS`, or "python"."""
    linker = mode.linker
    if isinstance(linker, NumbaLinker):
        return "numba"
    if isinstance(linker, JAXLinker):
        return "jax"
    compiled = isinstance(linker, CLinker | OpWiseCLinker)
    if isinstance(linker, VMLinker):
        compiled = linker.c_thunks is not False
    return "c" if compiled else "python"


def make_loop(
    program: StepProgram,
    backend: str | None = "auto",
    compile_kwargs: Mapping[str, Any] | None = None,
    devices: Any = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Loop:
    """Compile `program` for `backend`.

    Parameters
    ----------
    program : StepProgram
    backend : {"auto", "jax", "numba", "c"}, optional
        "auto" (also None) takes JAX, and numba for a model with an Op that JAX lacks.
    compile_kwargs : mapping, optional
        For :func:`pytensor.function`; asks for a PyTensor backend, or for the one of its ``mode``.
    devices : int, "all" or sequence of jax.Device, optional
        What shares the work of a step, with JAX; by default the one device that JAX takes.
    meanwhile : callable, optional
        Done in this thread while another compiles, where a backend leaves Python to others then,
        as JAX does.

    Returns
    -------
    Loop

    Raises
    ------
    UnknownNameError
        If there is no such backend.
    ValueError
        If ``mode`` is of another backend than `backend`, there are other `compile_kwargs` for JAX,
        or `devices` for another backend, of which there are fewer, or which could share nothing.
    UnsupportedOpError
        With ``backend="jax"`` or `devices`, if the model has an Op that JAX cannot run.

    Warns
    -----
    UserWarning
        With "auto", once, if numba stands in for JAX.

    Examples
    --------
    >>> import pytensor
    >>> from pymc_vi_ext.engine import StepProgram, make_loop
    >>> x = pytensor.shared(8.0, "x")
    >>> loop = make_loop(StepProgram({x: x / 2}, loss=x), "jax")
    >>> loop.backend, loop.run(2).tolist()
    ('jax', [8.0, 4.0])
    """
    backend = (backend or "auto").lower()
    if backend not in BACKENDS:
        raise UnknownNameError("backend", backend, BACKENDS)
    compile_kwargs = dict(compile_kwargs or {})
    if "mode" in compile_kwargs:
        mode = get_mode(compile_kwargs["mode"])
        named = backend_of(mode)
        if backend not in ("auto", named):
            raise ValueError(
                f'backend="{backend}" and compile_kwargs["mode"], which is {named}\'s, ask for '
                "different backends: leave one of them out."
            )
        backend = named
        if mode is JAX:
            # What the loop compiles with anyway.
            del compile_kwargs["mode"]
    on_jax = backend == "jax" or (backend == "auto" and not compile_kwargs)
    if devices is not None and not on_jax:
        raise ValueError(
            f'devices={devices!r} is for JAX alone: leave it out, or take backend="jax" without '
            "compile_kwargs."
        )
    if on_jax:
        # Imported on use: JAX takes half a second and sets its own global state.
        from pymc_vi_ext.engine.jax_loop import JaxLoop
        from pymc_vi_ext.engine.jax_step import UnsupportedOpError

        if compile_kwargs:
            raise ValueError(
                "compile_kwargs, and modes for JAX of one's own, are for PyTensor's functions, "
                'which this backend does not make: pass backend="numba" or "c".'
            )
        try:
            return JaxLoop(program, devices, meanwhile)
        except UnsupportedOpError as error:
            if backend == "jax" or devices is not None:
                error.add_note('backend="numba" and backend="c" run every Op.')
                raise
            warn(
                f'{error} Fitting with numba instead: backend="numba" asks for that, and is quiet.'
            )
            backend = "numba"

    from pymc_vi_ext.engine.pytensor_loop import PyTensorLoop

    return PyTensorLoop(program, "numba" if backend == "auto" else backend, compile_kwargs)
