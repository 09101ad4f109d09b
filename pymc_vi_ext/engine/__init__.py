"""From a PyMC inference to steps taken: the program of one step and the engines that run it."""

from pymc_vi_ext.engine.backend import BACKENDS, Loop, make_loop
from pymc_vi_ext.engine.feed import Feed
from pymc_vi_ext.engine.growing import GrowingLoop, GrowingProgram
from pymc_vi_ext.engine.program import Program, StepProgram, numbers_computed
from pymc_vi_ext.engine.quasi_noise import QuasiNoise

__all__ = [
    "BACKENDS",
    "Feed",
    "GrowingLoop",
    "GrowingProgram",
    "Loop",
    "Program",
    "QuasiNoise",
    "StepProgram",
    "make_loop",
    "numbers_computed",
]
