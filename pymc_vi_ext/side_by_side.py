"""Many fits of one program that take turns in Python, and take their steps side by side.

A fit asks for steps from deep inside of what judges it. Each therefore has a thread, of which one
runs at a time: until it asks for steps. When all wait for theirs, one call of the engine takes
them. What runs is the code of any other fit, and so is what it finds.
"""

from __future__ import annotations

import itertools
import threading
import time

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any

from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.engine.jax_lanes import Asked, JaxLanes, LaneLoop
from pymc_vi_ext.interrupts import take
from pymc_vi_ext.upstream import set_storage, storage
from pymc_vi_ext.watching import unseen

# Number of the part, and of the lane in it.
_Seat = tuple[int, int]


class SideBySide:
    """Fits that share an approximation, each of which finds it as it has left it.

    Parameters
    ----------
    parts : sequence of JaxLanes
        While one takes steps, it is the turn of the fits of another.
    variables : sequence of SharedVariable
        Whose values are a fit's own.
    attributes : sequence of (object, str)
        Attributes that are a fit's own.
    """

    def __init__(
        self,
        parts: Sequence[JaxLanes],
        variables: Sequence[SharedVariable],
        attributes: Sequence[tuple[Any, str]],
    ):
        self._parts, self._variables, self._attributes = parts, variables, attributes
        self._begun = self._leave()
        self._asked: list[dict[int, Asked]] = [{} for _ in parts]
        self._loops: dict[_Seat, LaneLoop] = {}
        # Whoever's turn it is waits for none of these.
        self._mine = threading.Semaphore(0)
        self._seats = [(i, lane) for lane in range(parts[0].width) for i in range(len(parts))]
        self._turns = {seat: threading.Semaphore(0) for seat in self._seats}
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
            threading.Thread(target=self._work, args=(seat,), daemon=True)
            for seat in self._seats[:jobs]
        ]
        begun = 0
        try:
            for thread in threads:
                thread.start()
                begun += 1
                self._mine.acquire()
            with ThreadPoolExecutor(1) as engine:
                self._go_on(engine, tick)
        finally:
            self._stopping = True
            for i, asked in enumerate(self._asked):
                while asked:
                    self._give_turn((i, next(iter(asked))))
            for thread in threads[:begun]:
                thread.join()
            self._enter(self._begun)
        if self._error is not None:
            raise self._error

    def _go_on(self, engine: Executor, tick: Callable[[], None]) -> None:
        """Let the parts take steps by turns, until all fits have ended, or are to end."""
        ready: list[_Seat] = []
        for i in itertools.cycle(range(len(self._parts))):
            steps = engine.submit(self._take_steps, i) if self._asked[i] else None
            # With one part there is nothing to do meanwhile.
            for seat in ready:
                self._give_turn(seat)
            ready = [] if steps is None else [(i, lane) for lane in steps.result()]
            if len(self._parts) == 1:
                for seat in ready:
                    self._give_turn(seat)
                ready = []
            tick()
            self._stopping = self._stopping or take()
            if self._stopping or self._error or not (ready or any(self._asked)):
                return

    def _take_steps(self, i: int) -> list[int]:
        """Take steps in one part; return the lanes whose turn it is then."""
        asked = self._asked[i]
        started = time.perf_counter()
        done = self._parts[i].advance(asked)
        share = (time.perf_counter() - started) / len(asked)
        for lane in asked:
            self._loops[i, lane].run_s += share
        return done

    def _give_turn(self, seat: _Seat) -> None:
        i, lane = seat
        del self._asked[i][lane]
        self._turns[seat].release()
        self._mine.acquire()

    def _work(self, seat: _Seat) -> None:
        """Do jobs, one after the other, in a lane: what a thread runs."""
        i, lane = seat
        try:
            with unseen():
                while not self._stopping and (job := next(self._jobs, None)) is not None:
                    self._enter(self._begun)
                    loop = LaneLoop(self._parts[i], lane, partial(self._ask, seat))
                    self._loops[seat] = loop
                    self._fit_one(job, loop)
        except BaseException as error:
            self._error = self._error or error
        finally:
            self._mine.release()

    def _ask(self, seat: _Seat, asked: Asked) -> None:
        """Wait for steps, and for one's turn after that."""
        i, lane = seat
        mine = self._leave()
        self._asked[i][lane] = asked
        self._mine.release()
        self._turns[seat].acquire()
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
