"""What XLA compiles, and what Python does beside it."""

from __future__ import annotations

import logging
import time

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

logger = logging.getLogger(__name__)


def compiled_beside(
    lowered: jax.stages.Lowered, meanwhile: Callable[[], None]
) -> tuple[jax.stages.Compiled, float]:
    """Return a compiled program and the seconds that took; do something else in this thread.

    XLA lets Python run while it compiles. What is done beside it is needed later, if at all: where
    it fails, it fails there, and says so.

    Parameters
    ----------
    lowered : jax.stages.Lowered
    meanwhile : callable
        Uses no JAX.

    Returns
    -------
    tuple of (jax.stages.Compiled, float)
    """

    def compiled() -> tuple[Any, float]:
        started = time.perf_counter()
        with jax.enable_x64(True):  # a setting of each thread
            return lowered.compile(), time.perf_counter() - started

    with ThreadPoolExecutor(1) as executor:
        program = executor.submit(compiled)
        try:
            meanwhile()
        except Exception as error:
            logger.info("What was to be ready beforehand is not: %s", error)
        return program.result()
