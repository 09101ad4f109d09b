"""Many fits of one program that take turns in Python, and take their steps side by side.

A fit asks for steps from deep inside of what judges it. Each therefore has a thread, of which one
runs at a time: until it asks for steps. When all wait for theirs, one call of the engine takes
them. What runs is the code of any other fit, and so is what it finds.
"""

from __future__ import annotations

import threading
import time

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.engine.jax_lanes import Asked, JaxLanes, LaneLoop
from pymc_vi_ext.interrupts import take
from pymc_vi_ext.upstream import set_storage, storage
from pymc_vi_ext.watching import unseen


class SideBySide:
    """Fits that share an approximation, each of which finds it as it has left it.

    Parameters
    ----------
    lanes : JaxLanes
    variables : sequence of SharedVariable
        Whose values are a fit's own.
    attributes : sequence of (object, str)
        Attributes that are a fit's own.
    """

    def __init__(
        self,
        lanes: JaxLanes,
        variables: Sequence[SharedVariable],
        attributes: Sequence[tuple[Any, str]],
    ):
        self._lanes, self._variables, self._attributes = lanes, variables, attributes
        self._begun = self._leave()
        self._asked: dict[int, Asked] = {}
        self._loops: dict[int, LaneLoop] = {}
        # Whoever's turn it is waits for none of these.
        self._mine = threading.Semaphore(0)
        self._turns = [threading.Semaphore(0) for _ in range(lanes.width)]
        self._jobs: Iterator[int] = iter(())
        self._fit_one: Callable[[int, LaneLoop], None]
        self._error: BaseException | None = None
        self._stopping = False

    def run(
        self, jobs: int, fit: Callable[[int, LaneLoop], None], tick: Callable[[], None]
    ) -> None:
        """Fit all; after Ctrl-C those that have begun end, interrupted.

        Parameters
        ----------
        jobs : int
        fit : callable
            Does the job of a number, with the steps of a loop.
        tick : callable
            Called now and then.
        """
        self._jobs, self._fit_one = iter(range(jobs)), fit
        threads = [
            threading.Thread(target=self._work, args=(lane,), daemon=True)
            for lane in range(min(self._lanes.width, jobs))
        ]
        try:
            for thread in threads:
                thread.start()
                self._mine.acquire()
            while self._asked and self._error is None:
                for lane in self._take_steps():
                    self._give_turn(lane)
                tick()
                self._stopping = self._stopping or take()
        finally:
            self._stopping = True
            while self._asked:
                self._give_turn(next(iter(self._asked)))
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            self._enter(self._begun)
        if self._error is not None:
            raise self._error

    def _take_steps(self) -> list[int]:
        """Take steps; return the lanes whose turn it is."""
        if self._stopping:
            return list(self._asked)
        started = time.perf_counter()
        done = self._lanes.advance(self._asked)
        share = (time.perf_counter() - started) / len(self._asked)
        for lane in self._asked:
            self._loops[lane].run_s += share
        return done

    def _give_turn(self, lane: int) -> None:
        del self._asked[lane]
        self._turns[lane].release()
        self._mine.acquire()

    def _work(self, lane: int) -> None:
        """Do jobs, one after the other, in a lane: what a thread runs."""
        try:
            with unseen():
                while not self._stopping and (job := next(self._jobs, None)) is not None:
                    self._enter(self._begun)
                    self._loops[lane] = LaneLoop(self._lanes, lane, partial(self._ask, lane))
                    self._fit_one(job, self._loops[lane])
        except BaseException as error:
            self._error = self._error or error
        finally:
            self._mine.release()

    def _ask(self, lane: int, asked: Asked) -> None:
        """Wait for steps, and for one's turn after that."""
        mine = self._leave()
        self._asked[lane] = asked
        self._mine.release()
        self._turns[lane].acquire()
        self._enter(mine)
        if self._stopping:
            raise KeyboardInterrupt

    def _leave(self) -> tuple[list[Any], list[Any]]:
        """Return what is this fit's own, as it is now."""
        values = [storage(variable) for variable in self._variables]
        return values, [getattr(owner, name, None) for owner, name in self._attributes]

    def _enter(self, mine: tuple[list[Any], list[Any]]) -> None:
        values, attributes = mine
        for variable, value in zip(self._variables, values, strict=True):
            set_storage(variable, value)
        for (owner, name), value in zip(self._attributes, attributes, strict=True):
            setattr(owner, name, value)
