"""What a compiled program depends on, as a digest that is the same in another process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import io
import os
import platform
import re
import sys

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import jax
import numpy as np
import pytensor

from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.fg import AbstractFunctionGraph
from pytensor.graph.traversal import toposort
from pytensor.scan.op import Scan

from pymc_vi_ext import upstream
from pymc_vi_ext.engine.jax_step import gives_shape
from pymc_vi_ext.engine.program import StepProgram

# Of these packages files are looked at; what is defined elsewhere may change without a trace.
_TRUSTED = ("pymc", "pymc_extras", "pymc_vi_ext", "pytensor", "pytensor_distributions")
_DISPATCH = "pytensor.link.jax.dispatch"
_LIBRARIES = ("jax", "jaxlib", "numpy")
# Options of JAX that say nothing of a program: where it writes what, and what the loop sets itself.
_OTHER = ("cache", "log", "dump", "trace", "traceback", "profile", "explain", "x64", "platforms")
# Constants of more bytes take longer to read than most programs take to compile.
_LARGEST_CONSTANTS = 2**26
_ADDRESS = re.compile(r"id=\d+|0x[0-9a-f]+")


class UnknownContentError(TypeError):
    """Something in a graph has contents that no digest can be made of."""


def fingerprint(program: StepProgram, *also: Any) -> str | None:
    """Return a digest of all that the compiled form of a program depends on.

    The graph before it is rewritten, with the constants in it, the shapes of the shared variables
    and the values of those that give shapes; the rewrites that would be applied; the files of the
    packages that write, rewrite and lower it; versions; the machine.

    Parameters
    ----------
    program : StepProgram
    *also
        More that it depends on: numbers, names, tuples of these.

    Returns
    -------
    str or None
        None if the graph has an Op of another package or of a notebook, or one whose contents
        cannot be told, or constants of more than 64 MB; or if another package or a notebook says
        what some Op is in JAX.
    """
    digest = hashlib.sha256()
    tell = _Teller(digest.update, program)
    try:
        tell(also)
        tell(_around())
        tell(_translators())
        tell(_rewrites(program))
        tell([(v.type, _shape(v)) for v in (*program.state, *program.data)])
        tell.graph([*program.state, *program.data], program.outputs)
    except (UnknownContentError, RecursionError):
        return None
    return digest.hexdigest()


class _Teller:
    """Feeds a digest with the contents of graphs, Ops, types and plain values."""

    def __init__(self, update: Callable[[bytes], None], program: StepProgram):
        self._update = update
        self._values = {v for v in program.data if gives_shape(v)}
        self._constants = 0

    def __call__(self, value: Any) -> None:
        match value:
            case None | bool() | int() | float() | complex() | str() | bytes() | slice():
                self._say(type(value).__name__, repr(value))
            case np.ndarray():
                self._array(value)
            case np.generic() | np.dtype():
                self._say("numpy", repr(value), str(getattr(value, "dtype", "")))
            case tuple() | list():
                self._many(type(value).__name__, value)
            case set() | frozenset() if all(isinstance(one, str | int) for one in value):
                self._many("set", sorted(value, key=repr))
            case Mapping() if all(isinstance(one, str | int) for one in value):
                # By key: the text of a graph may have no end.
                self._many("mapping", sorted(value.items(), key=lambda item: repr(item[0])))
            case type():
                self._named(value, "builtins", "numpy")
            case AbstractFunctionGraph():
                self.graph(value.inputs, value.outputs)
            case FunctionType():
                self._named(value)
            case Variable() | Apply():
                raise UnknownContentError(type(value).__qualname__)
            case Scan():
                self._named(type(value))
                self([value.info, value.truncate_gradient, value.allow_gc])
                self(value.fgraph)
            case _:
                self._object(value)

    def graph(self, inputs: Iterable[Variable], outputs: Sequence[Variable]) -> None:
        """Tell a graph: every node by its Op and by the places of its inputs."""
        places: dict[Variable, int] = {}

        def placed(variable: Variable) -> int:
            if variable not in places:
                places[variable] = len(places)
                if isinstance(variable, Constant):
                    self("constant")
                    self(variable.type)
                    self(variable.data)
                elif variable.owner is None and not known:
                    raise UnknownContentError(type(variable).__qualname__)
            return places[variable]

        known = True
        for variable in inputs:
            placed(variable)
            self(variable.type)
            if variable in self._values:
                self(variable.get_value())
        known = False
        for node in toposort(outputs):
            self(node.op)
            self([placed(variable) for variable in node.inputs])
            for variable in node.outputs:
                self(variable.type)
                known = True
                placed(variable)
                known = False
        self([placed(variable) for variable in outputs])

    def _say(self, *words: str) -> None:
        # Lengths, so that no two lists of words read the same.
        for word in words:
            content = word.encode()
            self._update(b"%d:" % len(content) + content)

    def _many(self, kind: str, values: Sequence[Any]) -> None:
        self._say(kind, str(len(values)))
        for value in values:
            self(value)

    def _array(self, value: np.ndarray) -> None:
        self._constants += value.nbytes
        if value.dtype == object or self._constants > _LARGEST_CONSTANTS:
            raise UnknownContentError("array")
        self._say("array", str(value.dtype), str(value.shape))
        self._update(np.ascontiguousarray(value).tobytes())

    def _named(self, value: type | FunctionType, *also: str) -> None:
        """Tell what a package defines, by its name there."""
        place, name = value.__module__, value.__qualname__
        known = place.partition(".")[0] in (*_TRUSTED, *also)
        if not known or "<" in name:  # of a notebook; a lambda, or what a function has made
            raise UnknownContentError(f"{place}.{name}")
        self._say(place, name)

    def _object(self, value: Any) -> None:
        """Tell an Op, a type or a part of one: its class, and what sets it apart from others."""
        self._named(type(value))
        props = getattr(type(value), "__props__", None)
        if props is not None:
            self([getattr(value, name) for name in props])
        elif dataclasses.is_dataclass(value):
            self([getattr(value, field.name) for field in dataclasses.fields(value)])
        else:
            if not hasattr(value, "__dict__"):
                raise UnknownContentError(type(value).__qualname__)
            self(vars(value))
        inner = getattr(value, "fgraph", None)
        if props is not None and inner is not None and "fgraph" not in props:
            self(inner)


def _shape(variable: SharedVariable) -> tuple[int, ...]:
    return np.shape(variable.get_value(borrow=True))


def _rewrites(program: StepProgram) -> list[str]:
    """Return the rewrites that PyTensor would apply, those that others registered included."""
    # It registers some, and PyTensor's JAX functions import it, which need not be there yet.
    importlib.import_module("pytensor.sparse")
    summary = io.StringIO()
    program.mode("JAX").optimizer.print_summary(summary)
    return sorted(_ADDRESS.sub("", summary.getvalue()).splitlines())


def _translators() -> list[str]:
    """Return the modules, other than PyTensor's, that say what Ops are in JAX."""
    if _DISPATCH not in sys.modules:
        # Nobody can have said it then.
        return []
    registry = getattr(upstream.jax_funcify, "registry", None)
    if registry is None:
        # Something else stands in its place.
        raise UnknownContentError("jax_funcify")
    modules = sorted({function.__module__ for function in registry.values()})
    for module in modules:
        if module.partition(".")[0] not in _TRUSTED:
            raise UnknownContentError(module)
    return [module for module in modules if not module.startswith("pytensor.")]


def _around() -> list[Any]:
    """Return what is the same for all programs of this process."""
    devices = jax.devices()
    return [
        pytensor.config.get_config_hash(),
        [(d.platform, d.device_kind) for d in devices],
        devices[0].client.platform_version,
        os.environ.get("XLA_FLAGS", ""),
        jax.config.jax_default_matmul_precision,
        {k: v for k, v in jax.config.values.items() if not any(part in k for part in _OTHER)},
        *_of_the_machine(),
        *_of_the_packages(),
    ]


@functools.cache
def _of_the_machine() -> list[Any]:
    """Return what compiled code may depend on: instructions that a processor has."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.is_file() else []
    flags = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return [platform.platform(), platform.machine(), platform.processor(), os.cpu_count(), flags]


@functools.cache
def _of_the_packages() -> list[Any]:
    """Return versions, and size and time of every file of the packages that may be edited."""
    from importlib.metadata import version

    return [[version(name) for name in _LIBRARIES], *map(_files, _TRUSTED)]


def _files(package: str) -> list[tuple[str, int, int]]:
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else (spec.submodule_search_locations or [])
    return [found for folder in folders for found in sorted(_below(folder))]


def _below(folder: str) -> Iterator[tuple[str, int, int]]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _below(entry.path)
        elif entry.name.endswith(".py"):
            status = entry.stat()
            yield entry.path, status.st_size, status.st_mtime_ns
