"""Something to do once another package is imported, whoever imports it and when."""

from __future__ import annotations

import sys

from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def when_imported(package: str, act: Callable[[], Any]) -> None:
    """Call `act` now if `package` is imported, else right after its import.

    Parameters
    ----------
    package : str
        Of the top level.
    act : callable
        What it raises then does not break the import, which is not ours.
    """
    if package in sys.modules:
        act()
    else:
        sys.meta_path.insert(0, _Finder(package, act))


class _Finder(MetaPathFinder):
    """Finds the package as it would be found without this, and steps aside."""

    def __init__(self, package: str, act: Callable[[], Any]):
        self._package, self._act = package, act

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._package:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._act)
        return spec


class _Loader(Loader):
    """Loads as the loader it stands for, and then acts."""

    def __init__(self, loader: Loader, act: Callable[[], Any]):
        self._loader, self._act = loader, act

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Files of the package are read through its own loader.
        spec = module.__spec__
        assert spec is not None
        module.__loader__ = spec.loader = self._loader
        self._loader.exec_module(module)
        try:
            self._act()
        except Exception:
            # The first use of this package raises the same, where it can be understood.
            return
