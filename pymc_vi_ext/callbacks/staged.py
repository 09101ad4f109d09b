"""The rule behind ``convergence="default"``: stages of falling rate, until averages agree."""

from __future__ import annotations

import logging

from typing import Any, NoReturn

import numpy as np
import pytensor
import pytensor.tensor as pt

from pymc.pytensorf import floatX
from pymc.variational.opvi import Approximation
from pytensor.compile.sharedvalue import SharedVariable

from pymc_vi_ext.approximations.parameters import flat_parameters, moments, set_parameters
from pymc_vi_ext.callbacks._averaging import (
    LOOK,
    RATIO,
    biases,
    phase_lengths,
    settled_part,
    standard_errors,
)
from pymc_vi_ext.callbacks._root import MOST_PARAMETERS, root_near, steps_of_root
from pymc_vi_ext.callbacks._statistics import mean_and_error
from pymc_vi_ext.callbacks.callback import Losses, Rule, Unsettled
from pymc_vi_ext.options import positive, whole_number
from pymc_vi_ext.psis import pareto_smoothed
from pymc_vi_ext.state import FitState, running

logger = logging.getLogger(__name__)

# Steps between two looks, and over which the parameters are averaged inside the program.
_EVERY = 25
# Steps of a stage before its first check, and how much longer it is at each next one.
_FIRST_CHECK, _GROWTH = 150, 1.25
# The rate of a stage over that of the one before.
_RATE_RATIO = 1 / 3
# Blocks kept of a stage, neighbours are joined beyond that; and fewer of large ones, in bytes.
_MOST_BLOCKS, _FEWEST_BLOCKS, _BYTES_OF_BLOCKS = 512, 16, 2**26
# Draws of a comparison of ELBOs: this part of the stage's steps, at least so many.
_DRAWS_PART, _FEWEST_DRAWS = 1 / 4, 200
# On all data behind minibatches, where each draw reads them all: so many at first, and twice as
# many while the comparison is not clear.
_FEWEST_PASSES = 32
# With more parameters than these, comparisons begin with so many draws, which tell of most that
# there is more to gain; go on with so many, and twice as many while these are not clear; have so
# many at most; and take this part of all steps.
_LARGE, _FIRST_DRAWS, _NEXT_DRAWS, _MOST_DRAWS, _PART_OF_STEPS = 4_096, 4, 32, 500, 1 / 4
# Standard errors by which few draws tell that there is more to gain.
_SURELY = 4
# A stage that gains less than so many tolerances is the last.
_LEAST_GAIN = 2.5
# Stages that lose, or checks with draws of infinite loss, after which a fit will not converge.
_MOST_FAILURES = 3
# What is below this part of what it was is falling still.
_STILL = 0.9
# Rounding errors of a loss, in units of its last place.
_ROUNDING = 8
# About how many numbers may be computed after the stages, and for a last look at the result.
_MOST_WORK, _WORK_OF_LOOK = 6e8, 2e8
# The scale of moves that are only looked at, and draws on which what follows the stages is compared
# with their result.
_NO_MOVE, _DRAWS_COMPARED = 1e-6, 1_000
# Draws of the result, fewest and most, of which none may have an infinite loss; and the tail of
# their losses, its Pareto k and standard error in nats, from which on they say nothing.
_DRAWS_OF_RESULT = (256, 20_000)
_TAIL, _HEAVY, _LARGE_ERROR = 20, 0.7, 0.1
# So do heavy tails where the errors after the stages are so many times those asked for.
_IMPRECISE = 2.0
# What a step costs however few its numbers are, in numbers.
_FIXED_WORK = 2_000
# Passes over data that are fed, of the shortest phase; and how many times the errors asked for are
# allowed there.
_PASSES_OF_PHASE, _NEAR = 8, 5.0
# Standard deviations are to be known better than means.
_OF_SDS = 1.5
# Without a loss: stages, and the change of moments that ends one.
_MOMENT_STAGES, _MOMENT_TOLERANCE = 3, 0.02
# How often a fit may begin anew at a smaller rate.
_MOST_RESTARTS = 5


class StagedStop(Rule):
    r"""Stop when averages of the iterates, at falling learning rates, have the same ELBO.

    At a constant rate :math:`\eta` the iterates of stochastic optimisation drift to the optimum
    and then scatter around it. Their average is off by the scatter's own average, which falls
    with the number of steps, and by a bias of order :math:`\eta`. Both are measured here in what
    matters, nats of ELBO, on the same random numbers (the difference of two ELBOs is then far
    less noisy than either).

    A stage compares the averages :math:`a`, :math:`b` over the third and the last quarter of its
    steps, and :math:`m = (a + b) / 2`. It ends when both

    - the drift :math:`\mathcal L(b) - \mathcal L(a)` is within twice the tolerance of 0, and
    - :math:`\mathcal L(m) - \tfrac12 (\mathcal L(a) + \mathcal L(b))` is below the tolerance. For
      a quadratic ELBO with Hessian :math:`-H` this is
      :math:`\tfrac18 (a - b)^T H (a - b)`, whose expectation, for independent errors of
      :math:`a` and :math:`b`, is what :math:`m` itself falls short of the optimum:
      :math:`\tfrac12 \operatorname{tr} H \operatorname{Cov} m`,

    two standard errors included. The next stage starts from :math:`m` at a third of the rate, with
    the optimizer's second moments kept as they are by then, so that steps are linear in gradients
    and their average has no bias from skew ones. The stages end at the first whose result is not
    better than the one before by more than 2.5 times the tolerance: a bias of order :math:`\eta`
    costs :math:`\eta^2` nats, so that a ninth of it is left.

    Nats say little about one parameter among others: .015 of them are .17 standard deviations of a
    mean. Where it costs next to nothing the fit therefore goes on to the point where the mean
    gradient vanishes, until `accuracy` is reached: its standard error is below that for every mean
    (in standard deviations) and, times 1.5, for every logarithm of a standard deviation.

    - Up to 300 parameters, Newton's method finds that point on quasi-random draws: scrambled Sobol
      points, whose means converge much faster than those of random draws. Several independent
      sequences give it and its standard error. There is no learning rate in it, and a ridge is no
      harder than a sphere.
    - With more, or where it finds none, the iterates are averaged over phases, on quasi-random
      draws too, at the last rate, a fourth and a sixteenth of it, until the standard error of the
      average and a third of its difference from the phase before, which is what a bias of order
      :math:`\eta` leaves, are both small. What changes over many more steps is not seen.

    "Next to nothing" is counted in numbers computed (some 10^8) and not in seconds, so that a seed
    gives the same result anywhere. The report's evidence has the errors reached. Optimizers of the
    user's, whose moves need not be linear in gradients, end with the stages.

    With more than 4,096 parameters a comparison begins with four draws. Where these tell, by four
    standard errors, that a stage has not settled, there are no more. The others go on with 32, and
    twice as many while its errors are above their part of the tolerance, up to 500.
    All comparisons take a quarter of the steps at most, and one that would exceed that waits. So
    large fits spend their time on steps, and none converges on fewer draws than it has to.

    On minibatches a stage ends where what it still gains is lost in the noise of the batches. The
    fit then goes over to steps on all data, which are judged as any others. Where that is too large
    (above 10^8 numbers), the averages are judged on batches, by the same tolerance.

    A first rate that is too large shows: the fit begins anew at a third of it when it meets a NaN,
    or when the losses are far above those of its first steps, up to five times.

    Data that are read from disk (:class:`pymc_vi_ext.data.Batches`) are never there all at once,
    and nothing that a batch says is taken for convergence. Stages on batches end where what is left
    to gain is lost in their noise. Then comes the root of the mean gradient, by Newton's method
    with the means over whole passes, in which the noise of batches cancels; with more than 300
    parameters, averages over phases of at least eight passes. These passes count as steps of `n`.
    A fit for which `n` leaves too few of them, or whose errors stay above five times `accuracy`,
    goes on to its last step and has not converged.

    Methods without a loss (particles) end a stage when their means and standard deviations
    change by less than 2 % of the standard deviation between those quarters, and stop after three
    stages.

    Parameters
    ----------
    tolerance : float
        In nats.
    accuracy : float, optional
        Standard error after the stages: of means in standard deviations, and of the logarithms of
        these. None ends the fit with its last stage.
    first_check : int
        Steps of a stage before it is judged: what changes over many more is not seen.

    Attributes
    ----------
    every : int
        Steps between two looks: 25, and 256 in the phases after the stages.

    References
    ----------
    Buchholz, A., Wenzel, F. and Mandt, S. (2018). Quasi-Monte Carlo variational inference. ICML.
    https://arxiv.org/abs/1807.01604

    Dhaka, A. K. et al. (2020). Robust, accurate stochastic optimization for variational
    inference. https://arxiv.org/abs/2009.00666

    Welandawe, M. et al. (2024). A framework for improving the reliability of black-box
    variational inference. JMLR 25(219).

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     x = pm.Normal("x", 3.0, 2.0)
    ...     approx = vix.fit(random_seed=1, progressbar=False)
    >>> approx.report.stop_reason.value, approx.report.stopped_by
    ('converged', 'StagedStop')
    """

    part_of_step = True
    changes_rate = True
    looks_outside = True
    _start: np.ndarray | None

    _saved = (
        *("stage", "next_check", "blocks", "pending", "joined", "best", "draws_seed", "gap"),
        *("restarts", "start", "first_losses", "failures", "every", "reached", "gain", "limit"),
        *("phases", "phase_began", "averages", "linear", "endless", "counted", "spent"),
    )

    _rows = ("blocks", "pending", "averages")

    def __init__(
        self,
        tolerance: float = 0.015,
        accuracy: float | None = 0.01,
        first_check: int = _FIRST_CHECK,
    ):
        self.tolerance = positive("tolerance", tolerance)
        self.accuracy = None if accuracy is None else positive("accuracy", accuracy)
        self.first_check = whole_number("first_check", first_check)
        self._sums: dict[SharedVariable, SharedVariable] = {}
        super().__init__(_EVERY)

    def updates(self, approx: Approximation) -> dict[SharedVariable, Any]:
        """Return what a step adds to average the parameters of `approx` inside the program."""
        self._count = pytensor.shared(floatX(0.0), "block_count")
        # A state that stays as it is, so that checkpoints keep it.
        self._length = pytensor.shared(floatX(_EVERY), "block_length")
        new_block = pt.ge(self._count, self._length)
        self._sums = {
            p: pytensor.shared(p.get_value() * 0, f"{p.name}_block_sum") for p in approx.params
        }
        sums = {
            total: pt.switch(new_block, floatX(0.0), total) + parameter
            for parameter, total in self._sums.items()
        }
        count = pt.switch(new_block, floatX(0.0), self._count) + floatX(1.0)
        return {self._count: count, self._length: self._length, **sums}

    def serves(self, approx: Approximation) -> bool:
        """Tell whether the sums inside the step are of these parameters."""
        return list(self._sums) == list(approx.params)

    def begin(self, approx: Approximation) -> None:
        """Begin at the present parameters."""
        if self._phases or self._endless:
            # Where `refine` goes on, the optimizer begins anew.
            self._leave_average(self._running(approx))
        self._start = flat_parameters(approx)
        self.restart_block()

    def recover(self, approx: Approximation, losses: Losses, i: int, problem: str) -> bool:
        """Begin anew at a smaller rate, unless that has happened too often."""
        # A NaN of the very first steps is no matter of the rate.
        if self._restarts == _MOST_RESTARTS or i < self.every:
            return False
        self._restart(self._running(approx), i)
        return True

    def restart_block(self) -> None:
        """Begin a new block with the next step."""
        self._length.set_value(floatX(self.every))
        self._count.set_value(floatX(0.0))
        for total in self._sums.values():
            total.set_value(total.get_value() * 0)

    def average(self) -> np.ndarray | None:
        """Return the average over the last half of this stage; at first, the result before.

        After the stages, the last average of a phase that was as good.
        """
        blocks = self._blocks
        if self._phases or len(blocks) < 4:
            return self._best
        return _mean(blocks[len(blocks) // 2 :])

    @property
    def shortfall(self) -> str:
        """How far the last check was from letting the fit stop."""
        return self._gap or f"fewer than {self.first_check} steps"

    @property
    def every(self) -> int:
        """Steps between two looks."""
        return self._every

    @every.setter
    def every(self, steps: int) -> None:
        self._every = steps

    def _begin(self) -> None:
        self._every = _EVERY
        self._stage = 0
        # The result of the stage before, and what this stage's gained over it.
        self._best: np.ndarray | None = None
        self._gain = (np.inf, 0.0)
        self._draws_seed = 0
        # Evaluations of comparisons of a large model so far.
        self._spent = 0
        self._gap = ""
        self._restarts = self._failures = 0
        self._start = None
        self._first_losses: np.ndarray | None = None
        # What ended the stages. Lengths of the phases of the last average that are left, once it is
        # that; the step after which the present one began, and the averages of those before.
        self._reached = ""
        self._phases: list[int] = []
        self._phase_began = 0
        self._linear = 1.0
        self._averages: list[np.ndarray] = []
        # Whether steps on batches go on, and nothing can say any more that they have converged.
        self._endless = False
        # The tolerance, or what losses are rounded to where that is more.
        self._limit = self.tolerance
        self._next_stage()

    def _next_stage(self) -> None:
        self._blocks: list[np.ndarray] = []
        # Blocks of the program that make one of `blocks`, and those still to be joined.
        self._joined = 1
        self._pending: list[np.ndarray] = []
        self._counted = 0
        self._next_check = self.first_check

    def _work(self, approx: Approximation, losses: Losses, i: int, steps: int) -> None:
        if i <= self.wait_until:
            return
        state = self._running(approx)
        if not state.minimises_elbo:
            losses = None
        if self._phases and not self._phase_began:
            # Its blocks begin where its looks do.
            self._phase_began = i
            self.restart_block()
            state.quasi_noise.begin(state.fresh_seed())
            return
        self._collect()
        if self._phases:
            state.quasi_noise.go_on(i - self._phase_began)
        if losses is not None and self._first_losses is None:
            self._first_losses = losses[-steps:].copy()
        taken = len(self._blocks) * self._joined * self.every
        if taken < self._next_check or len(self._blocks) < 4 or self._endless:
            return
        self._next_check = int(taken * _GROWTH)
        blocks = self._blocks
        if self._phases:
            self._end_phase(state, np.asarray(blocks))
            return
        half, last = len(blocks) // 2, (3 * len(blocks)) // 4
        early, late, both = (_mean(b) for b in (blocks[half:last], blocks[last:], blocks[half:]))
        if losses is not None and self._stage == 0 and self._diverged(losses[-taken // 4 :]):
            if self._restarts < _MOST_RESTARTS:
                self._restart(state, i)
            return
        if losses is None:
            settled = self._moments_settled(approx, early, late)
        else:
            settled = self._elbo_settled(state, losses, taken, early, late, both)
        if settled and state.in_batches:
            self._grow(state, both)
        elif settled and losses is not None and state.feed:
            self._end_batches(state, both, taken, i)
        elif settled:
            self._end_stage(state, losses is not None, both, taken, i)

    def _grow(self, state: FitState, both: np.ndarray) -> None:
        """Go on with steps on all data, from the average over those on minibatches."""
        if not state.approx.any_histograms:
            set_parameters(state.approx, both)
        state.grow()
        state.scale_rate(_RATE_RATIO)
        self._stage += 1
        self._best = None
        self.restart_block()
        self._next_stage()

    def _end_batches(self, state: FitState, both: np.ndarray, taken: int, i: int) -> None:
        """Go on with passes over data that are read from disk, from the average over batches."""
        set_parameters(state.approx, both)
        state.optimizer.settle()
        self._best = both
        self._reached = (
            f"what the average of {taken // 2:,} iterates on batches may still gain is lost in "
            "their noise"
        )
        self._begin_average(state, i)

    def _go_on_without_end(self, state: FitState, why: str) -> None:
        """Go on at a smaller rate to the last step; the average of the last half is the result."""
        if self._best is not None:
            set_parameters(state.approx, self._best)
        state.scale_rate(_RATE_RATIO)
        if self._linear > 1:
            state.optimizer.linearise(state.rate / self._linear)
        state.quasi_noise.rest()
        self._every, self._phases, self._averages = _EVERY, [], []
        self.restart_block()
        self._next_stage()
        self._endless = True
        self._status = self._gap = f"on batches alone: {why}"

    def _collect(self) -> None:
        count = max(float(self._count.get_value()), 1.0)
        block = np.concatenate([total.get_value().ravel() for total in self._sums.values()])
        if not np.isfinite(block).all():
            return
        self._pending.append(block.astype(float) / count)
        self._counted += 1
        if len(block) > _LARGE:
            # Sums, since many of them would not fit in memory.
            self._pending = [np.sum(self._pending, axis=0)]
        if self._counted < self._joined:
            return
        self._blocks.append(np.sum(self._pending, axis=0) / self._counted)
        self._pending, self._counted = [], 0
        if len(self._blocks) >= _most_blocks(block.size):
            pairs = zip(self._blocks[::2], self._blocks[1::2], strict=True)
            self._blocks = [(one + other) / 2 for one, other in pairs]
            self._joined *= 2

    def _diverged(self, recent: np.ndarray) -> bool:
        """Tell whether `recent` losses are far above those of the first steps."""
        assert self._first_losses is not None
        if not np.isfinite(np.median(recent)):
            return True
        first = self._first_losses[np.isfinite(self._first_losses)]
        if not len(first):
            return False
        low, high = np.quantile(first, [0.1, 0.9])
        return bool(np.median(recent) > high + (high - low))

    def _running(self, approx: Approximation) -> FitState:
        """Return the state of the fit that this rule is part of."""
        state = running(approx)
        if state is None or not self._sums:
            raise TypeError(
                "StagedStop is part of the compiled step, which PyMC's own loop does not give it: "
                "use vix.fit(convergence=StagedStop(...)), or pm.fit(method=vix.ADVI(), "
                "convergence=StagedStop(...))."
            )
        return state

    def _restart(self, state: FitState, i: int) -> None:
        assert self._start is not None
        self._restarts += 1
        self._leave_average(state)
        set_parameters(state.approx, self._start if self._best is None else self._best)
        state.program.restart_optimizer()
        state.optimizer.begin(state.end - i)
        state.scale_rate(_RATE_RATIO)
        self.restart_block()
        self._next_stage()
        logger.info("Too large a learning rate at step %d: from the start, at a third of it", i)

    def _elbo_settled(
        self,
        state: FitState,
        losses: np.ndarray,
        taken: int,
        early: np.ndarray,
        late: np.ndarray,
        both: np.ndarray,
    ) -> bool:
        """Compare the ELBO at the averages; see the class."""
        limit = self.tolerance
        before, after = losses[-taken // 2 : -taken // 4], losses[-taken // 4 :]
        drift, error = (state.unit * x for x in _difference(before, after))
        if not drift - 4 * error < 2 * limit:
            # The losses themselves fall still: no need to look closer.
            self._say(f"falling, {drift:.2g} nat a quarter", 2 * limit)
            return False
        at = self._losses_at(state, [early, late, both], taken)
        if at is None:
            self._say("waiting for more draws than a quarter of the steps", limit)
            return False
        if not np.isfinite(at).all():
            share = 1 - np.isfinite(at).mean()
            self._say(f"{share:.2%} of the draws of the averages have an infinite loss", 0)
            # Mass that stays where the density is 0 stays there, however long the fit goes on.
            early_share, late_share = (1 - np.isfinite(row).mean() for row in at[:2])
            if late_share > _STILL * early_share:
                self._fail_when_often(f"{share:.2g} of the mass has an infinite loss", outside=True)
            return False
        rounding = _rounding(at)
        # Nothing closer than rounding can be told apart: the stages go on to that, and it is said.
        self._limit = limit = max(self.tolerance, rounding)
        if rounding > self.tolerance and at[1].mean() < _STILL * at[0].mean():
            self._say("falling", limit)
            return False
        drift, drift_error = mean_and_error(at[0] - at[1])
        noise, noise_error = mean_and_error((at[0] + at[1]) / 2 - at[2])
        if self._best is not None:
            self._gain = mean_and_error(at[3] - at[2])
        on_batches = state.in_batches or bool(state.feed)
        if on_batches and drift - 2 * drift_error < 2 * max(limit, noise + 2 * noise_error):
            return True
        worst = max((abs(drift) + 2 * drift_error) / 2, noise + 2 * noise_error)
        self._say(f"stage {self._stage + 1}: {worst:.2g} nat", limit)
        return worst < limit

    def _losses_at(
        self, state: FitState, points: list[np.ndarray], taken: int
    ) -> np.ndarray | None:
        """Return losses at `points`, and at the result of the stage before where there is one.

        Few where these tell already that a stage of a large model has not settled; none where more
        would take too large a part of its steps.
        """
        points = points + ([] if self._best is None else [self._best])
        most = max(_FEWEST_DRAWS, int(taken * _DRAWS_PART))
        draws = _FEWEST_PASSES if state.reads_all_data else most
        if state.in_batches or state.feed:
            # Whether the rest is lost in the noise of batches, few draws tell.
            most = draws
        if len(points[0]) > _LARGE:
            draws, most = min(draws, _MOST_DRAWS), min(most, _MOST_DRAWS)
            few = self._affordable(state, points, min(_FIRST_DRAWS, draws))
            if few is None or (not state.in_batches and _surely_unsettled(few, self.tolerance)):
                return few
            first = self._affordable(state, points, min(draws, _NEXT_DRAWS))
            if first is None:
                return None
            while first.shape[1] < most and (
                _unclear(first, self.tolerance) or _gain_unclear(first, self.tolerance)
            ):
                more = self._affordable(state, points, min(first.shape[1], most - first.shape[1]))
                if more is None and _gain_unclear(first, self.tolerance):
                    return None
                if more is None:
                    # Errors are part of the verdict: fewer draws say yes less often.
                    break
                first = np.concatenate([first, more], axis=1)
            return first
        self._draws_seed += 1
        at = state.losses_at(points, min(draws, most), self._draws_seed)
        while at.shape[1] < most and _unclear(at, self.tolerance):
            self._draws_seed += 1
            more = state.losses_at(points, min(at.shape[1], most), self._draws_seed)
            at = np.concatenate([at, more], axis=1)
        return at

    def _affordable(
        self, state: FitState, points: list[np.ndarray], draws: int
    ) -> np.ndarray | None:
        """Return losses at `points`, None where that would be too large a part of the steps."""
        if self._spent + len(points) * draws > _PART_OF_STEPS * state.step:
            return None
        self._spent += len(points) * draws
        self._draws_seed += 1
        return state.losses_at(points, draws, self._draws_seed)

    def _fail_when_often(self, reason: str, outside: bool = False) -> None:
        self._failures += 1
        if self._failures == _MOST_FAILURES:
            raise Unsettled(reason, outside)

    def _moments_settled(self, approx: Approximation, early: np.ndarray, late: np.ndarray) -> bool:
        (mean_a, log_a), (mean_b, log_b) = moments(approx, early), moments(approx, late)
        change = max(np.max(abs(mean_b - mean_a) / np.exp(log_b)), np.max(abs(log_b - log_a)))
        self._say(f"stage {self._stage + 1}: moments change by {change:.2g}", _MOMENT_TOLERANCE)
        return bool(change < _MOMENT_TOLERANCE)

    def _end_stage(
        self, state: FitState, scored: bool, both: np.ndarray, taken: int, i: int
    ) -> None:
        approx, rate = state.approx, state.rate
        if not scored:
            if self._stage + 1 == _MOMENT_STAGES and state.feed:
                self._go_on_without_end(state, "no loss tells what their noise hides")
                return
            if self._stage + 1 == _MOMENT_STAGES:
                raise StopIteration(
                    f"means and standard deviations stay within {_MOMENT_TOLERANCE:.0%} at "
                    f"{rate:.2g} of the first learning rate"
                )
            if not approx.any_histograms:
                set_parameters(approx, both)
        else:
            if self._best is not None:
                gain, error = self._gain
                if gain < -(_LEAST_GAIN * self._limit + 2 * error):
                    # A smaller rate that does worse: something else than the rate is the matter.
                    set_parameters(approx, self._best)
                    self._say(f"a stage lost {-gain:.2g} nat", _LEAST_GAIN * self._limit)
                    self._fail_when_often(f"stages at lower learning rates lose, {-gain:.2g} nat")
                    both = self._best
                elif gain < _LEAST_GAIN * self._limit:
                    # Of two that are as good, that of the smaller rate.
                    if gain > -(self._limit + 2 * error):
                        self._best = both
                    set_parameters(approx, self._best)
                    self._reached = (
                        f"at {rate:.2g} of the first learning rate the average "
                        f"of {taken // 2:,} iterates gained {gain:.3f} +- {error:.3f} nat over "
                        f"the stage before, and its halves agree within {self._limit:.3g} nat"
                    )
                    self._begin_average(state, i)
                    return
            self._best = both
            set_parameters(approx, both)
            state.optimizer.settle()
        state.scale_rate(_RATE_RATIO)
        self._stage += 1
        self._next_stage()
        if state.reads_all_data:
            # The last stage of large data is all of its average.
            self._next_check *= 2

    def _begin_average(self, state: FitState, i: int) -> None:
        """Begin the last average, where it costs next to nothing."""
        assert self._best is not None
        if self.accuracy is None or not state.optimizer.linear or not _has_moments(state):
            if state.feed:
                self._go_on_without_end(state, "no means over passes can be asked for")
                return
            self._accept_stages(state)
        affordable = _MOST_WORK / (state.work + _FIXED_WORK)
        if state.feed:
            # A pass is worth its price, as far as the fit may go.
            affordable = state.end - i
        # In float32 so small moves would be lost.
        linear = state.optimizer.linearise(_NO_MOVE) if _precision() == "float64" else 1.0
        if linear > 1:
            self._look_for_root(state, affordable)
        least = _PASSES_OF_PHASE * state.feed.steps_a_pass
        phases = phase_lengths(int(min(affordable, state.end - i)), least)
        if not phases and not state.feed:
            self._accept_stages(state)
        state.scale_rate(linear)
        self._linear = linear
        if not phases:
            self._go_on_without_end(state, self._too_few_passes(state, i))
            return
        self._phases, self._every = phases, LOOK
        self._begin_phase(state, self._best)

    def _look_for_root(self, state: FitState, affordable: float) -> None:
        """End the fit where Newton's method finds the root of the mean gradient."""
        assert self.accuracy is not None
        assert self._best is not None
        accuracy = self.accuracy, self.accuracy / _OF_SDS
        root = root_near(state, self._best, accuracy, affordable)
        if root is not None and state.feed and not self._is_near(root.of_means, root.of_sds):
            root = None
        if root is not None and self._as_good(state, root.point):
            self._accept(
                state,
                root.point,
                f"{self._reached}; there Newton's method, on {root.draws:,} quasi-random draws"
                f"{_passes(state, root.draws)}, "
                f"ended with {_standard_errors_as_text(root.of_means, root.of_sds)}",
                self._error_allowed(root.of_means, root.of_sds),
            )

    def _as_good(self, state: FitState, point: np.ndarray) -> bool:
        """Tell whether `point` is no worse than the result of the stages."""
        assert self._best is not None
        self._draws_seed += 1
        at = state.losses_at([self._best, point], _DRAWS_COMPARED, self._draws_seed)
        gain, error = mean_and_error(at[0] - at[1])
        return gain > -(self._limit + 2 * error)

    def _is_precise(self, of_means: float, of_sds: float, times: float = 1.0) -> bool:
        assert self.accuracy is not None
        return max(of_means, _OF_SDS * of_sds) < times * self.accuracy

    def _is_near(self, of_means: float, of_sds: float) -> bool:
        """Tell whether errors are small enough where nothing else judges the posterior."""
        return self._is_precise(of_means, of_sds, _NEAR)

    def _too_few_passes(self, state: FitState, i: int) -> str:
        assert self._best is not None
        needed = i + steps_of_root(state, len(self._best))
        a_pass = f"a pass over the data takes {state.feed.steps_a_pass:,.0f} steps"
        if len(self._best) > MOST_PARAMETERS or state.end >= needed:
            return f"{a_pass}, and no root of the mean gradient was found"
        return f"{a_pass}, and to judge by passes takes n={needed:,} or more"

    def _error_allowed(self, of_means: float, of_sds: float) -> float:
        """Return how well losses of a heavy tail have to be known, in nats."""
        return _LARGE_ERROR if self._is_precise(of_means, of_sds, _IMPRECISE) else 0.0

    def _begin_phase(self, state: FitState, point: np.ndarray) -> None:
        set_parameters(state.approx, point)
        if self._linear > 1:
            state.optimizer.linearise(state.rate / self._linear)
        self._phase_began = 0
        self._next_stage()
        self._next_check = self._phases[0]

    def _leave_average(self, state: FitState) -> None:
        """Make moves as long as they were before the last average, where that has begun."""
        state.scale_rate(1 / self._linear)
        state.quasi_noise.rest()
        self._every, self._linear, self._phases, self._averages = _EVERY, 1.0, [], []
        self._endless = False

    def _end_phase(self, state: FitState, blocks: np.ndarray) -> None:
        """End the fit where the last average is good enough, or its last phase is over."""
        settled = settled_part(blocks)
        average = settled.mean(axis=0)
        of_means, of_sds = standard_errors(state.approx, settled)
        found = _standard_errors_as_text(of_means, of_sds)
        if self._averages:
            bias_means, bias_sds = biases(state.approx, self._averages[-1], average)
            found += f", and the rate a bias of about {bias_means:.2g} sd and {bias_sds:.1%}"
            of_means, of_sds = max(of_means, bias_means), max(of_sds, bias_sds)
        steps, *self._phases = self._phases
        self._status = self._gap = f"last average: means +-{of_means:.2g} sd, sds +-{of_sds:.2%}"
        precise = bool(self._averages) and self._is_precise(of_means, of_sds)
        # A mean of factors that were rotated into each other is no factor of the same.
        as_good = self._as_good(state, average)
        if as_good:
            self._best = average
        if state.feed and not precise and not self._phases:
            near = as_good and self._is_near(of_means, of_sds)
            if not near:
                self._go_on_without_end(state, f"the last average has {found}")
                return
        if precise or not self._phases:
            if not as_good and state.feed:
                self._go_on_without_end(state, "averages over passes lose")
                return
            if not as_good:
                self._accept_stages(state, error_allowed=0.0)
            self._accept(
                state,
                average,
                f"{self._reached}; the average of {steps:,} more{_passes(state, steps)} has "
                f"{found}",
                self._error_allowed(of_means, of_sds),
            )
        self._averages.append(average)
        state.scale_rate(1 / RATIO)
        self._begin_phase(state, average)

    def _accept_stages(self, state: FitState, error_allowed: float = _LARGE_ERROR) -> NoReturn:
        """End the fit with the result of the stages."""
        assert self._best is not None
        self._accept(state, self._best, self._reached, error_allowed)

    def _accept(
        self,
        state: FitState,
        point: np.ndarray,
        evidence: str,
        error_allowed: float,
    ) -> NoReturn:
        """End the fit with `point`, unless draws there show that no average can be trusted."""
        self._leave_average(state)
        set_parameters(state.approx, point)
        if self._limit > self.tolerance:
            raise Unsettled(
                f"losses are rounded to {self._limit:.2g} nat in {_precision()}, and the optimum "
                "is known to no better: use float64, or smaller numbers"
            )
        draws = int(np.clip(_WORK_OF_LOOK / (state.work + _FIXED_WORK), *_DRAWS_OF_RESULT))
        self._draws_seed += 1
        [at] = state.losses_at([point], draws, self._draws_seed)
        outside = int(np.sum(~np.isfinite(at)))
        if outside:
            raise Unsettled(
                f"{outside} of {draws:,} draws of the result have an infinite loss", outside=True
            )
        tail, error = _tail(at), float(at.std() / draws**0.5)
        if tail > _HEAVY and error > error_allowed:
            raise Unsettled(
                f"the losses have so heavy a tail (Pareto k {tail:.1f}, +-{error:.2g} nat of "
                f"{draws:,} draws) that no average of draws says where the optimum is"
            )
        raise StopIteration(evidence)

    def _say(self, measured: str, limit: float) -> None:
        self._status = f"{measured} > {limit:.2g}"
        self._gap = f"{measured}, to be below {limit:.2g}"


def _passes(state: FitState, steps: int) -> str:
    """Return how often steps have gone over data that are fed, in words."""
    return f" over {steps / state.feed.steps_a_pass:.0f} passes of the data" if state.feed else ""


def _mean(blocks: list[np.ndarray]) -> np.ndarray:
    mean: np.ndarray = np.mean(blocks, axis=0)
    return mean


def _most_blocks(size: int) -> int:
    """Return how many blocks of `size` numbers are kept, an even number."""
    affordable = max(_BYTES_OF_BLOCKS // (8 * size), 1).bit_length() - 1
    return int(np.clip(2**affordable, _FEWEST_BLOCKS, _MOST_BLOCKS))


def _surely_unsettled(at: np.ndarray, tolerance: float) -> bool:
    """Tell whether few draws suffice to say that a stage has not settled."""
    if not np.isfinite(at).all():
        return False
    drift, drift_error = mean_and_error(at[0] - at[1])
    noise, noise_error = mean_and_error((at[0] + at[1]) / 2 - at[2])
    least = max((abs(drift) - _SURELY * drift_error) / 2, noise - _SURELY * noise_error)
    return bool(least > max(tolerance, _rounding(at)))


def _rounding(losses: np.ndarray) -> float:
    """Return what losses are rounded to, in nats."""
    return float(_ROUNDING * np.finfo(_precision()).eps * np.abs(losses).mean())


def _precision() -> str:
    """Return the precision that losses are computed in."""
    dtype: str = pytensor.config.floatX
    return dtype


def _standard_errors_as_text(of_means: float, of_sds: float) -> str:
    return f"a standard error of {of_means:.2g} sd in means and of {of_sds:.1%} in sds"


def _tail(losses: np.ndarray) -> float:
    """Return Pareto k-hat of the upper tail of losses."""
    above = losses - np.median(losses)
    if np.unique(np.sort(above)[-_TAIL:]).size < _TAIL:
        return -np.inf
    return pareto_smoothed(np.log(np.maximum(above, 1e-300)))[1]


def _has_moments(state: FitState) -> bool:
    try:
        moments(state.approx, flat_parameters(state.approx))
    except TypeError:
        return False
    return not state.approx.any_histograms


def _unclear(at: np.ndarray, tolerance: float) -> bool:
    """Tell whether more draws could tell more: errors of the comparisons above their part."""
    if not np.isfinite(at).all():
        return False
    errors = [mean_and_error(at[0] - at[1])[1], mean_and_error((at[0] + at[1]) / 2 - at[2])[1]]
    return max(errors) > tolerance / 4


def _gain_unclear(at: np.ndarray, tolerance: float) -> bool:
    """Tell whether more draws could tell more of what a stage has gained over the one before."""
    if len(at) < 4 or not np.isfinite(at).all():
        return False
    return mean_and_error(at[3] - at[2])[1] > tolerance / 2


def _difference(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Return the fall of the mean loss and its standard error; of finite losses."""
    means, errors = zip(*(mean_and_error(x[np.isfinite(x)]) for x in (before, after)), strict=True)
    return means[0] - means[1], float(np.hypot(*errors))
