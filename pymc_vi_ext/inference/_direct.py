"""What methods share that find their approximation at once."""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar

import numpy as np

from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.engine.program import new_rate_scale
from pymc_vi_ext.inference.base import LoopMethod
from pymc_vi_ext.method import EvaluationOptions, Prepared, Request
from pymc_vi_ext.options import Options as AnyOptions


class DirectMethod(LoopMethod):
    """A method without steps: all its work is to conclude."""

    FitOptions: ClassVar[type[AnyOptions]] = EvaluationOptions
    refusal = "takes no steps"
    takes_steps = False
    takes_start = False
    finds_start = True

    @property
    def loss_name(self) -> str:
        """Nothing: there are no losses."""
        return ""

    @property
    def scored(self) -> bool:
        """No step has a loss."""
        return False

    def prepare(self, request: Request) -> Prepared:
        """Return no steps."""
        return Prepared(_Nothing(), _NoSteps(request.backend))


class _Nothing:
    """The program of no step."""

    def __init__(self) -> None:
        self.state: list[SharedVariable] = []
        self.data: list[SharedVariable] = []
        self.rngs: list[SharedVariable] = []
        self.rate_scale = new_rate_scale()

    def restart(self, seed: int) -> None:
        """Do nothing."""

    def restart_optimizer(self) -> None:
        """Do nothing."""


class _NoSteps:
    """The loop of no step."""

    def __init__(self, backend: str | None):
        self.backend = backend or "auto"
        self.compile_s = self.run_s = 0.0

    def run(self, n: int) -> np.ndarray | None:
        """Return no losses."""
        return None

    def intervals(self, every: int, times: int) -> Generator[np.ndarray | None, None, None]:
        """Yield nothing."""
        yield from ()

    def write_back(self, *, internals: bool = True) -> None:
        """Do nothing."""
