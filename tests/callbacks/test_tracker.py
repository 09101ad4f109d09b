"""The Tracker: PyMC's interface, and what it has more."""

import json
import time

import numpy as np
import pymc as pm
import pytest
import xarray as xr

import pymc_vi_ext as vix

from pymc_vi_ext.callbacks import Tracker


@pytest.fixture(scope="module")
def fitted():
    with pm.Model(coords={"city": ["Rome", "Oslo"]}):
        pm.Normal("x", dims="city")
        pm.HalfNormal("s")
        pm.Dirichlet("p", np.ones(3))
        advi = vix.ADVI(random_seed=1)
    mu = advi.approx.params[0]
    tracker = Tracker(
        every=5,
        mean=mu.get_value,
        loss=lambda approx, losses, i: losses[-1],
        by_name=lambda: {"x": np.arange(2.0), "other": 1.0},
        matrix=lambda: np.ones((2, 3)),
    )
    approx = vix.fit(50, advi, convergence=None, callbacks=[tracker], progressbar=False)
    return tracker, approx


def record(tracker, steps):
    for i in steps:
        tracker(None, None, i)
    return tracker


def test_pymc_interface(fitted):
    tracker, approx = fitted
    assert tracker["loss"] == tracker.hist["loss"] == approx.hist[4::5].tolist()
    assert list(tracker.whatchdict) == ["mean", "loss", "by_name", "matrix"]
    np.testing.assert_array_equal(tracker["mean"][-1].shape, (5,))
    assert tracker.steps.tolist() == list(range(5, 51, 5))


def test_dataset(fitted):
    tracker, _ = fitted
    data = tracker.to_dataset()
    shapes = {str(name): dict(array.sizes) for name, array in data.data_vars.items()}
    assert shapes == {
        "mean_x": {"step": 10, "city": 2},
        "mean_s_log__": {"step": 10},
        "mean_p_simplex__": {"step": 10, "mean_p_simplex___dim_0": 2},
        "loss": {"step": 10},
        "by_name_x": {"step": 10, "city": 2},
        "by_name_other": {"step": 10},
        "matrix": {"step": 10, "matrix_dim_0": 2, "matrix_dim_1": 3},
    }
    assert data.city.values.tolist() == ["Rome", "Oslo"]
    assert data.step.values.tolist() == tracker.steps.tolist()
    np.testing.assert_array_equal(data.mean_x.values, np.array(tracker["mean"])[:, :2])
    with pm.Model(coords={"town": ["a", "b"]}) as other:
        pm.Normal("x", dims="town")
    assert tracker.to_dataset(other).mean_x.dims == ("step", "town")


def test_figure(fitted):
    panels = fitted[0].plot()
    assert [axes.get_ylabel() for axes in panels] == list(fitted[0].to_dataset().data_vars)
    assert [len(axes.lines) for axes in panels] == [2, 1, 2, 1, 2, 1, 6]
    with pytest.raises(ValueError, match="nothing to plot"):
        Tracker(x=lambda: 1).plot()


def test_a_restart(fitted):
    tracker, _ = fitted
    state = tracker.state_dict()
    plain = {key: v for key, v in state.items() if not isinstance(v, np.ndarray)}
    assert json.loads(json.dumps(plain)) == plain
    other = Tracker(every=5, **tracker.whatchdict)
    other.load_state_dict(state)
    other._approx = tracker._approx
    xr.testing.assert_identical(other.to_dataset(), tracker.to_dataset())
    with pytest.raises(ValueError, match="state of a Tracker consists of last, status, steps"):
        other.load_state_dict({})


def test_several_fits_follow_each_other():
    """As in PyMC's, whose losses of several fits follow each other too."""
    tracker = record(Tracker(every=2, x=lambda a, h, i: i), [*range(1, 7), *range(1, 4)])
    assert tracker["x"] == [2, 4, 6, 2]
    assert tracker.steps.tolist() == [2, 4, 6, 8]
    resumed = Tracker(every=2, x=lambda a, h, i: i)
    resumed.load_state_dict(tracker.state_dict())
    assert record(resumed, [4]).steps.tolist() == [2, 4, 6, 8, 10]
    tracker.clear()
    assert (tracker["x"], tracker.steps.tolist()) == ([], [])
    assert record(tracker, [2]).steps.tolist() == [2]


def test_bounded_memory():
    tracker = record(Tracker(every=3, max_length=4, x=lambda a, h, i: i), range(1, 61))
    assert tracker["x"] == tracker.steps.tolist() == [24, 48]
    assert record(tracker, range(61, 121))["x"] == [24, 48, 72, 96, 120][1::2]


def test_signatures_decide():
    class Statistic:
        def __call__(self, approx, losses, i):
            return i

    tracker = Tracker(
        none=lambda: "none",
        three=lambda approx, losses, i: "three",
        default=lambda factor=2: factor,
        bound=Statistic(),
        optional=lambda approx, losses=None, i=None: i,
        any=lambda *given: given[2],
    )
    record(tracker, [1, 2])
    values = ["none", "three", 2, 1, 1, 1]
    assert [tracker[name][0] for name in tracker.whatchdict] == values


def test_a_function_that_hides_its_signature():
    tracker = record(Tracker(time=time.time), [1, 2])
    assert tracker["time"] == sorted(tracker["time"])


def test_the_users_own_errors_show():
    def wrong():
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        Tracker(x=wrong)(None, None, 1)


def test_values_that_cannot_be_stacked():
    tracker = record(Tracker(x=lambda a, h, i: np.zeros(i)), [1, 2])
    with pytest.raises(ValueError, match="statistic x change their shape"):
        tracker.to_dataset()
    with pytest.raises(TypeError, match="statistic x are not arrays"):
        record(Tracker(x=lambda: object()), [1]).state_dict()
