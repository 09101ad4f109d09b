"""The state of a fit in a file, from which it goes on bit for bit."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import time
import zipfile

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pymc as pm
import pytensor

from pymc.variational.opvi import Approximation
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.tensor.random.type import RandomType

from pymc_vi_ext.approximations.parameters import flat_parameters
from pymc_vi_ext.callbacks.callback import Callback, Losses
from pymc_vi_ext.errors import warn
from pymc_vi_ext.options import positive
from pymc_vi_ext.state import FitState, running
from pymc_vi_ext.streams import streams_in
from pymc_vi_ext.upstream import layout

_FORMAT = 1
# Writing takes at most one part in so many of the time of a fit.
_SHARE = 50
_FLOATS = ("float32", "float64")


class CheckpointError(ValueError):
    """A file that is no checkpoint, or that of another fit.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import pymc_vi_ext as vix
    >>> path = pathlib.Path(tempfile.mkdtemp(), "fit.npz")
    >>> _ = path.write_text("no checkpoint")
    >>> try:
    ...     vix.resume(path)
    ... except vix.callbacks.CheckpointError as error:
    ...     print(type(error).__name__)
    CheckpointError
    """


class Checkpoint(Callback):
    """Save the fit every so many steps; :func:`pymc_vi_ext.resume` goes on from the file.

    The file holds parameters, optimizer, random generators, losses, and the states of all
    callbacks that have one, as plain numbers (NumPy's ``.npz``). It is written beside the old one
    and takes its place in one step, so that a fit that is killed while it writes leaves a whole
    file. Where the file cannot be written (no space, no permission) the fit warns once and goes
    on.

    In plain :func:`pymc.fit` only parameters and losses can be reached, so only these are saved.

    Parameters
    ----------
    path : str or Path
        Of the file; its folder must exist.
    every : int
        Steps between two writings.
    seconds : float, optional
        Between two writings, in place of `every`: at whatever step the fit is then, and less often
        where writing takes longer than a fiftieth of that.

    Raises
    ------
    ValueError
        If `every` is not a whole number from 1, or `seconds` not positive.
    FileNotFoundError
        If the folder does not exist.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> path = Path(tempfile.mkdtemp()) / "fit.npz"
    >>> with pm.Model() as model:
    ...     x = pm.Normal("x", 3.0, 2.0)
    ...     save = vix.callbacks.Checkpoint(path, every=200)
    ...     approx = vix.fit(
    ...         300, callbacks=[save], convergence=None, random_seed=1, progressbar=False
    ...     )
    >>> again = vix.resume(path, model, progressbar=False)
    >>> bool((again.hist == approx.hist).all())
    True
    """

    # Its own state is not worth a place in the file, which holds that of all others.
    keeps_state = False
    comes_last = True

    def __init__(self, path: str | Path, every: int = 1_000, seconds: float | None = None):
        self.path = Path(path)
        self.seconds = None if seconds is None else positive("seconds", seconds)
        self.at_pauses = seconds is not None
        if not self.path.absolute().parent.is_dir():
            raise FileNotFoundError(
                f"The folder of the checkpoint {self.path} does not exist: create it first."
            )
        super().__init__(every)

    def _begin(self) -> None:
        self._warned = False
        self._model: Mapping[str, Any] | None = None
        self._next = time.monotonic() + (self.seconds or 0.0)

    def _due(self, i: int) -> bool:
        return super()._due(i) if self.seconds is None else time.monotonic() >= self._next

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        started = time.monotonic()
        self._model = self._model or describe_model(approx)
        content = _content(approx, losses, i, self._model)
        try:
            _write(self.path, content)
        except OSError as error:
            if not self._warned:
                warn(
                    f"The checkpoint {self.path} could not be written at step {i} ({error}); the "
                    "fit goes on without, and tries again. Make room there, or name a path "
                    "elsewhere."
                )
            self._warned = True
        now = time.monotonic()
        self._next = now + max(self.seconds or 0.0, _SHARE * (now - started))


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    Attributes
    ----------
    path : Path
    header : mapping
        ``step``, ``end``, ``seconds``, ``backend``, ``floatX``, ``options``, ``model`` and names of
        the rest.
    arrays : mapping of str to array
    """

    path: Path
    header: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    @property
    def losses(self) -> np.ndarray | None:
        """Losses of the steps so far, in nats, or None."""
        return self.arrays.get("losses")

    def refuse_another(self, approx: Approximation) -> None:
        """Raise CheckpointError where `approx` is of another model, naming what differs."""
        mine, theirs = describe_model(approx), self.header["model"]
        for kind, found in theirs.items():
            here = mine[kind]
            for name in [*found, *(n for n in here if n not in found)]:
                if found.get(name) != here.get(name):
                    raise CheckpointError(
                        f"The checkpoint {self.path} is of another model: its {kind} {name!r} is "
                        f"{found.get(name, 'missing')}, here it is {here.get(name, 'missing')}."
                    )

    def restore(self, fit_state: FitState) -> None:
        """Set all shared variables and callbacks of a fit to what was saved."""
        variables = _variables(fit_state)
        if [name for name, _ in variables] != self.header["state"]:
            raise CheckpointError(
                f"The checkpoint {self.path} is of another method or optimizer: it holds "
                f"{', '.join(self.header['state'])}, this fit needs "
                f"{', '.join(name for name, _ in variables)}."
            )
        for k, (name, variable) in enumerate(variables):
            if isinstance(variable.type, RandomType):
                variable.set_value(_generator(self.header["generators"][name]))
                continue
            value, now = self.arrays[f"state/{k}"], variable.get_value(borrow=True)
            if value.shape != np.shape(now):
                raise CheckpointError(
                    f"The checkpoint {self.path} is of another model: {name} has shape "
                    f"{value.shape} there and {np.shape(now)} here."
                )
            variable.set_value(value.astype(now.dtype))
        fit_state.quasi_noise.restore()
        savers = _with_state(fit_state.callbacks)
        kinds = [c.name for c in savers]
        if kinds != [kind for kind, _ in self.header["callbacks"]]:
            saved = ", ".join(kind for kind, _ in self.header["callbacks"]) or "none"
            raise CheckpointError(
                f"The checkpoint {self.path} was written with the callbacks {saved}; give "
                f"`resume` the same ones in the same order (it got {', '.join(kinds) or 'none'})."
            )
        for k, callback in enumerate(savers):
            state = dict(self.header["callbacks"][k][1])
            prefix = f"callback/{k}/"
            state |= {
                key.removeprefix(prefix): value
                for key, value in self.arrays.items()
                if key.startswith(prefix)
            }
            callback.load_state_dict(state)


def read(path: str | Path) -> Saved:
    """Read a checkpoint.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is damaged, or no checkpoint of this package.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop("header")))
        known = header["format"] == _FORMAT
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is damaged, or no checkpoint of pymc_vi_ext ({type(error).__name__})."
        ) from error
    if not known:
        raise CheckpointError(
            f"{path} has format {header['format']}, this version reads format {_FORMAT}."
        )
    return Saved(path, header, arrays)


def describe_model(approx: Approximation) -> dict[str, dict[str, str]]:
    """Say what makes the model of `approx` the same model: its variables, and its data."""
    variables = {
        name: f"{name} of shape {tuple(shape)}"
        for group in approx.groups
        for name, (_, shape) in layout(group).items()
    }
    model = approx.model
    observed = {}
    values = [model.rvs_to_values[rv] for rv in model.observed_RVs]
    for rv, value in zip(model.observed_RVs, values, strict=True):
        data = getattr(value, "data", None)
        if data is None and isinstance(value, SharedVariable):
            data = value.get_value(borrow=True)
        observed[rv.name] = str(value.type) if data is None else _fingerprint(data)
    streams = {", ".join(s.variables): str(s) for s in streams_in([*model.basic_RVs, *values])}
    return {"variable": variables, "stream": streams, "observed variable": observed}


def describe_option(value: Any) -> Any:
    """Return JSON from which :func:`option` makes `value` again, or says that it cannot.

    Plain values are themselves; PyMC's optimizers are a name and arguments.
    """
    of_pymc = isinstance(value, functools.partial) and value.func.__module__ == _UPDATES
    if of_pymc and not value.args and _plain(value.keywords):
        return {"optimizer": value.func.__name__, "arguments": value.keywords}
    if _plain(value):
        return value
    return {"unsaved": repr(value)[:200]}


def option(name: str, described: Any) -> Any:
    """Return the value of an option as :func:`describe_option` described it.

    Raises
    ------
    CheckpointError
        If a file cannot hold such a value, naming the option.
    """
    if isinstance(described, Mapping) and "optimizer" in described:
        function = getattr(pm.variational.updates, described["optimizer"])
        return functools.partial(function, **described["arguments"])
    if isinstance(described, Mapping) and "unsaved" in described:
        raise CheckpointError(
            f"The fit was started with {name}={described['unsaved']}, which a file cannot hold: "
            f"pass it to `resume` again, {name}=..."
        )
    return described


_UPDATES = pm.variational.updates.__name__


def _plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _plain(v) for k, v in value.items())
    return value is None or isinstance(value, bool | int | float | str)


def _fingerprint(data: Any) -> str:
    data = np.asarray(data)
    digest = hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()[:12]
    return f"{data.dtype} of shape {data.shape}, checksum {digest}"


def _variables(fit_state: FitState) -> list[tuple[str, SharedVariable]]:
    """Return all that a step changes and the numbers that steer it, with names of their own."""
    program = fit_state.program
    own = set(fit_state.approx.model.named_vars.values())
    # Scale and horizon of the learning rate; the model's data are the model's.
    scalars = [
        v for v in program.data if v.type.ndim == 0 and v.type.dtype in _FLOATS and v not in own
    ]
    return [(f"{v.name or 'state'}[{k}]", v) for k, v in enumerate([*program.state, *scalars])]


def _with_state(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the callbacks whose state a file holds."""
    return [c for c in callbacks if c.keeps_state]


def _content(approx: Approximation, losses: Losses, i: int, model: Mapping[str, Any]) -> bytes:
    arrays: dict[str, np.ndarray] = {} if losses is None else {"losses": losses}
    header: dict[str, Any] = {
        "format": _FORMAT,
        "step": i,
        "model": model,
        "floatX": pytensor.config.floatX,
    }
    state = running(approx)
    if state is None:
        arrays["parameters"] = flat_parameters(approx)
    else:
        state.sync()
        generators, saved = {}, []
        variables = _variables(state)
        for k, (name, variable) in enumerate(variables):
            if isinstance(variable.type, RandomType):
                generators[name] = variable.get_value(borrow=True).bit_generator.state
            else:
                arrays[f"state/{k}"] = np.asarray(variable.get_value(borrow=True))
        for k, callback in enumerate(_with_state(state.callbacks)):
            plain = {}
            for key, value in callback.state_dict().items():
                if isinstance(value, np.ndarray):
                    arrays[f"callback/{k}/{key}"] = value
                else:
                    plain[key] = value
            saved.append((callback.name, plain))
        header |= {
            "end": state.end,
            "seconds": asdict(state.timings()),
            "backend": state.loop.backend,
            "options": state.options,
            "state": [name for name, _ in variables],
            "generators": generators,
            "callbacks": saved,
        }
    buffer = io.BytesIO()
    arrays["header"] = np.array(json.dumps(header, default=_json))
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _json(value: Any) -> Any:
    """Return JSON for NumPy's numbers and arrays, which states of generators contain."""
    return value.tolist()


def _generator(state: Mapping[str, Any]) -> np.random.Generator:
    kind = getattr(np.random, state["bit_generator"])
    bits = kind()
    bits.state = state
    return np.random.Generator(bits)


def _write(path: Path, content: bytes) -> None:
    """Write `content` so that `path` is at each moment the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
