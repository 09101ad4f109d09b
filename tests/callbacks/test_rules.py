"""What all rules promise, over a table of them; and what each refuses."""

import json

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytensor
import pytest

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pymc_vi_ext.callbacks import (
    CheckParametersConvergence,
    EarlyStopping,
    IterateRhat,
    LossPlateau,
    ReduceLROnPlateau,
    RelativeELBO,
    Tracker,
    TrackerLogger,
    WallTime,
)
from pymc_vi_ext.schedules import constant

CALLED = 10  # steps between two calls; every rule below is due at multiples of this


@dataclass
class Row:
    """A rule on losses: how to build it, and which promises it makes."""

    build: object
    shift: bool = True
    improving: bool = True


def reduce_lr():
    return ReduceLROnPlateau(every=20, patience=3, learning_rate=pytensor.shared(1.0))


RULES = {
    # Relative to the losses themselves: a shift changes it, and so do small improvements.
    "RelativeELBO": Row(lambda: RelativeELBO(every=20, window=4), shift=False, improving=False),
    "LossPlateau": Row(lambda: LossPlateau(window=200, every=20)),
    "EarlyStopping": Row(lambda: EarlyStopping(every=20, patience=5, restore_best=False)),
    "ReduceLROnPlateau": Row(reduce_lr),
}
each_rule = pytest.mark.parametrize("row", RULES.values(), ids=RULES)
quickly = settings(deadline=None, max_examples=15, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def acts(rule, losses, first=CALLED, calls=CALLED):
    """Return the step at which the rule stops the fit or lowers the rate, None if it never does."""
    rate = getattr(rule, "learning_rate", None)
    for i in range(first, len(losses) + 1, calls):
        before = None if rate is None else rate.get_value()
        try:
            rule(None, losses[:i], i)
        except StopIteration:
            return i
        if rate is not None and rate.get_value() < before:
            return i
    return None


def noisy(seed, n=3000, flat_from=400):
    """A descent, and long enough after it for a rule to act in nearly all cases."""
    steps = np.arange(n)
    noise = np.random.default_rng(seed).normal(size=n)
    return 30 * np.maximum(1 - steps / flat_from, 0) + 50 + noise


@each_rule
@given(seed=seeds, scale=st.floats(1e-3, 1e3), shift=st.floats(-1e3, 1e3))
@quickly
def test_units_do_not_matter(row, seed, scale, shift):
    losses = noisy(seed)
    other = scale * losses + (shift if row.shift else 0.0)
    expected = acts(row.build(), losses)
    assume(expected is not None)
    assert acts(row.build(), other) == expected


IMPROVING = {
    "linear": lambda t, a: -a * t,
    "power law": lambda t, a: 100 * (1 + t) ** -a,
    "exponential": lambda t, a: 100 * np.exp(-a * t / 400),
}


@each_rule
@pytest.mark.parametrize("shape", IMPROVING.values(), ids=IMPROVING)
@given(speed=st.floats(0.1, 3.0), holes=seeds)
@quickly
def test_steady_improvement_goes_on(row, shape, speed, holes):
    losses = shape(np.arange(3000.0), speed)
    rng = np.random.default_rng(holes)
    places = rng.random(3000) < 0.1
    broken = np.where(places, rng.choice([np.nan, np.inf, -np.inf], 3000), losses)
    for trace in (losses, broken):
        rule = row.build()
        stopped = acts(rule, trace)
        assert not row.improving or stopped is None
        assert "nan" not in rule.status


@each_rule
@pytest.mark.parametrize("seed", range(4))
def test_a_flat_trace_is_noticed(row, seed):
    losses = noisy(seed, n=4000)
    assert 400 < acts(row.build(), losses) <= 3000
    losses[::7] = np.inf
    losses[5::50] = np.nan
    assert 400 < acts(row.build(), losses) <= 3000
    assert 0 < acts(row.build(), np.full(4000, 2.5)) <= 1000


@each_rule
def test_losses_that_are_all_broken_change_nothing(row):
    rule = row.build()
    losses = np.full(1000, np.nan)
    assert acts(rule, losses) is None
    assert "nan" not in rule.status


@each_rule
@given(seed=seeds, part=st.floats(0.1, 0.95))
@quickly
def test_a_restart_changes_nothing(row, seed, part):
    losses = noisy(seed)
    whole = row.build()
    before = row.build()
    expected = acts(whole, losses)
    assume(expected is not None)
    # Anywhere before it acts: some rules begin to look late.
    cut = CALLED * int(part * expected / CALLED)
    assert acts(before, losses[:cut]) is None
    state = before.state_dict()
    plain = {key: v for key, v in state.items() if not isinstance(v, np.ndarray)}
    assert json.loads(json.dumps(plain)) == plain
    after = row.build()
    after.load_state_dict(state)
    assert after.status == before.status
    assert acts(after, losses, first=cut + CALLED) == expected
    assert after.status == whole.status


@each_rule
def test_calls_at_every_step_are_the_same(row):
    losses = noisy(1)
    rule, sparse = row.build(), row.build()
    expected = acts(sparse, losses)
    assert expected > CALLED
    assert acts(rule, losses, first=1, calls=1) == expected
    assert rule.status == sparse.status


@each_rule
def test_a_second_fit_starts_anew(row):
    losses = noisy(3)
    rule = row.build()
    assert rule.status == ""
    first = acts(rule, losses)
    assert first is not None
    assert rule.status
    assert acts(rule, losses) == first


@each_rule
def test_losses_are_counted_from_their_end(row):
    """PyMC's refine hands over the losses since it was called."""
    losses = noisy(0)
    whole, refined = row.build(), row.build()
    for rule, begin in ((whole, 0), (refined, 300)):
        assert acts(rule, losses[:300]) is None
        before = rule.state_dict()
        rule(None, losses[begin:340], 340)
        assert rule.state_dict() != before
    assert refined.state_dict() == whole.state_dict()


@each_rule
def test_a_fit_without_losses(row):
    rule = row.build()
    with pytest.raises(TypeError, match="reads losses, and this fit records none"):
        rule(None, None, 100)


def test_wall_time(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    rule = WallTime(60, every=10)
    rule(None, None, 1)
    now = 130.0
    rule(None, None, 15)
    assert rule.status == "0 s of 60 s"
    rule(None, None, 20)
    state = rule.state_dict()
    later = WallTime(60, every=10)
    later.load_state_dict(state)
    now = 1000.0  # the time between the two does not count
    later(None, None, 30)
    assert later.status == "30 s of 60 s"
    now = 1030.0
    with pytest.raises(StopIteration, match=r"60\.0 s have passed at step 40"):
        later(None, None, 40)
    later(None, None, 10)
    assert later.status == "0 s of 60 s"


def approx_with(**params):
    return SimpleNamespace(params=[pytensor.shared(value, name) for name, value in params.items()])


def test_early_stopping_restores_the_best():
    approx = approx_with(mu=np.zeros(2), rho=np.zeros(1))
    rule = EarlyStopping(lambda approx: (approx.params[0].get_value()[0] - 3) ** 2, 2, every=1)

    def step(i):
        approx.params[0].set_value(np.array([i, -i], dtype=float))
        approx.params[1].set_value(np.array([10.0 * i]))
        rule(approx, None, i)

    for i in range(1, 5):
        step(i)
    with pytest.raises(StopIteration, match=r"than 0 of step 3 in 2 looks up to step 5, whose"):
        step(5)
    assert [p.get_value().tolist() for p in approx.params] == [[3, -3], [30]]


def test_early_stopping_on_the_greatest_and_by_a_margin():
    values = [1.0, 2.0, np.nan, 1.9, 2.9]
    rule = EarlyStopping(
        lambda approx, losses, i: values[i - 1],
        patience=2,
        every=1,
        mode="max",
        min_delta=1.0,
        restore_best=False,
    )
    rule(None, None, 1)
    rule(None, None, 2)
    rule(None, None, 3)  # not a number, not a look
    with pytest.raises(StopIteration, match="better than 1 of step 1 in 2 looks up to step 4"):
        rule(None, None, 4)


@pytest.mark.parametrize("by_name", [True, False])
def test_early_stopping_reads_a_tracker(by_name):
    tracker = Tracker(score=lambda approx, losses, i: -i)
    if by_name:
        rule = EarlyStopping("score", 2, every=2, mode="max", tracker=tracker, restore_best=False)
    else:
        rule = EarlyStopping((tracker, "score"), 2, every=2, mode="max", restore_best=False)
    for i in range(1, 6):
        tracker(None, None, i)
        rule(None, None, i)
    tracker(None, None, 6)
    with pytest.raises(StopIteration, match="than -2 of step 2 in 2 looks up to step 6"):
        rule(None, None, 6)
    with pytest.raises(ValueError, match="has recorded nothing yet"):
        EarlyStopping((Tracker(score=lambda: 0), "score"))(None, None, 100)


def test_reduce_lr_changes_the_rate_it_is_given():
    flat = np.zeros(200)
    schedule = constant(0.1)
    schedule.scale.set_value(np.asarray(0.8, schedule.scale.dtype))
    rule = ReduceLROnPlateau(0.5, 2, every=20, min_scale=0.2, learning_rate=schedule)
    for i in range(20, 201, 20):
        rule(None, flat[:i], i)
    assert schedule.scale.get_value() == pytest.approx(0.2)  # .1 would be below .2 of .8
    fit_state = SimpleNamespace(rate_scale=pytensor.shared(np.float32(1.0)))
    rule = ReduceLROnPlateau(0.5, 2, every=20)
    for i in range(20, 61, 20):
        rule(SimpleNamespace(fit_state=fit_state), flat[:i], i)
    assert fit_state.rate_scale.get_value() == 0.5
    assert fit_state.rate_scale.get_value().dtype == np.float32
    with pytest.raises(TypeError, match="no rate to multiply: build the optimizer with a schedule"):
        rule(None, flat[:80], 80)
    state = rule.state_dict()
    schedule.restart()
    ReduceLROnPlateau(every=20, learning_rate=schedule).load_state_dict(state)
    assert schedule.scale.get_value() == 0.5
    fit_state.rate_scale.set_value(np.float32(1.0))
    later = ReduceLROnPlateau(every=20)
    later.load_state_dict(state)
    later(SimpleNamespace(fit_state=fit_state), flat[:100], 100)
    assert fit_state.rate_scale.get_value() == 0.5


class Store:
    def __init__(self):
        self.series = {}

    def log_series(self, run_id, key, steps, values):
        assert run_id == "run"
        self.series.setdefault(key, []).extend(zip(steps.tolist(), values.tolist(), strict=True))


def test_tracker_logger():
    store = Store()
    tracker = Tracker(every=2, i=lambda a, h, i: i, v=lambda a, h, i: np.array([i, -i]))
    logger = TrackerLogger(store, "run", tracker, every=4)
    losses = np.arange(1.0, 9)
    losses[5] = np.inf
    for i in range(1, 9):
        tracker(None, losses[:i], i)
        logger(None, losses[:i], i)
    assert store.series == {
        "loss": [(4, 2.5), (8, 20 / 3)],
        "i": [(2, 2), (4, 4), (6, 6), (8, 8)],
        "v/0": [(2, 2), (4, 4), (6, 6), (8, 8)],
        "v/1": [(2, -2), (4, -4), (6, -6), (8, -8)],
    }
    TrackerLogger(store, "run", every=1)(None, None, 1)
    assert len(store.series["loss"]) == 2


def loss(approx, losses):
    return 0.0


TRACKER = Tracker(score=lambda: 0.0)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: RelativeELBO(every=0), ValueError, "`every` must be a whole number from 1, not 0"),
        (lambda: RelativeELBO(every=2.5), ValueError, "`every` must be a whole number"),
        (lambda: RelativeELBO(tol_rel_obj=0), ValueError, "`tol_rel_obj` must be a positive"),
        (lambda: RelativeELBO(window=0), ValueError, "`window` must be a whole number from 1"),
        (lambda: LossPlateau(window=199), ValueError, "`window` must be a whole number from 200"),
        (lambda: LossPlateau(patience=0), ValueError, "`patience` must be a whole number"),
        (lambda: WallTime(-1), ValueError, "`seconds` must be a positive number, not -1"),
        (lambda: WallTime("1 h"), ValueError, "`seconds` must be a positive number, not '1 h'"),
        (
            lambda: CheckParametersConvergence(diff="squared"),
            KeyError,
            "Unknown diff 'squared': the known ones are absolute, relative, scaled",
        ),
        (lambda: CheckParametersConvergence(tolerance=np.nan), ValueError, "`tolerance` must be"),
        (lambda: IterateRhat(window=99), ValueError, "`window` must be a whole number from 100"),
        (lambda: IterateRhat(rhat=1.0), ValueError, "`rhat` must be above 1"),
        (lambda: IterateRhat(mcse=0), ValueError, "`mcse` must be a positive number"),
        (lambda: EarlyStopping(patience=0), ValueError, "`patience` must be"),
        (lambda: EarlyStopping(min_delta=-1), ValueError, "`min_delta` must be a number from 0"),
        (lambda: EarlyStopping(mode="least"), ValueError, "Unknown mode 'least': the known"),
        (lambda: EarlyStopping(mode="max"), ValueError, 'contradicts `monitor="loss"`'),
        (lambda: EarlyStopping("score"), ValueError, "Unknown monitor 'score': the known ones"),
        (
            lambda: EarlyStopping("scor", tracker=TRACKER),
            ValueError,
            "Unknown monitor 'scor': the known ones are loss, score",
        ),
        (lambda: EarlyStopping((TRACKER, "x")), ValueError, "Unknown monitor 'x': the known ones"),
        (lambda: EarlyStopping(("x", "y")), TypeError, "looked up in a Tracker, not in 'x'"),
        (lambda: EarlyStopping(tracker=TRACKER), ValueError, "leave it out with `monitor='loss'`"),
        (
            lambda: EarlyStopping(loss),
            TypeError,
            r"function of \(approx\) or \(approx, losses, i\)",
        ),
        (lambda: EarlyStopping(3), TypeError, "`monitor` must be a function"),
        (
            lambda: EarlyStopping(lambda approx: np.zeros(2))(None, None, 100),
            TypeError,
            "A monitored value must be a single number",
        ),
        (lambda: ReduceLROnPlateau(factor=1.0), ValueError, "`factor` must be between 0 and 1"),
        (lambda: ReduceLROnPlateau(min_scale=2), ValueError, "`min_scale` must be between"),
        (lambda: ReduceLROnPlateau(every=10), ValueError, "`every` must be a whole number from 20"),
        (lambda: ReduceLROnPlateau(learning_rate=0.1), TypeError, "a number cannot be changed"),
        (lambda: Tracker(max_length=1), ValueError, "`max_length` must be a whole number from 2"),
        (lambda: Tracker(x=3), TypeError, r"The statistic 'x' must be a function of \(\) or"),
        (lambda: Tracker(x=loss), TypeError, r"not of \(approx, losses\)"),
        (lambda: EarlyStopping(map), TypeError, "does not tell which arguments it takes: wrap it"),
        (lambda: TrackerLogger(Store(), "run", every=0), ValueError, "`every` must be"),
        (
            lambda: WallTime(1).load_state_dict({"last": 1}),
            ValueError,
            "state of a WallTime consists of last, status, elapsed, not of last",
        ),
    ],
)
def test_bad_arguments(build, error, message):
    with pytest.raises(error, match=message):
        build()
