"""The work of a step on several devices."""

import json
import os
import socket
import subprocess
import sys

from pathlib import Path

import cloudpickle
import jax
import numpy as np
import pymc as pm
import pytest

import pymc_vi_ext as vix

HERE = Path(__file__).parent
QUIET = {"convergence": None, "random_seed": 1, "progressbar": False}
CASES = (
    *("draws", "particles", "rows that do not divide", "a rule"),
    *("rows of minibatches", "rows of batches"),
)


@pytest.fixture(scope="module")
def found():
    """What one process with four devices has to say."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "on_four_devices.py")],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("name", CASES)
def test_four_devices_take_the_steps_of_one(found, name):
    """But for the order of sums, 1e-15 a step."""
    assert max(found[name]["apart"]) < 1e-9
    assert found[name]["shared"] == [False, True]


def test_each_device_has_its_rows(found):
    assert found["data_lie_apart"] == [[150, 3]] * 4


def test_a_checkpoint_goes_on(found):
    assert found["goes_on"] is True


def test_devices_by_name_whose_programs_are_not_kept(found):
    assert found["chosen_devices"] == [[[2, 3], [3]], []]


def test_what_cannot_be_shared_is_said(found):
    assert "nothing in a step that 4 devices could share" in found["nothing_to_share"]


@pytest.fixture
def model():
    with pm.Model() as model:
        b = pm.Normal("b", shape=3)
        X = pm.Data("X", np.ones((1000, 3)))
        pm.Normal("y", X @ b, observed=np.arange(1000.0))
    return model


MISTAKES = {
    "more than there are": ({"devices": 1000}, "but JAX has .*host_platform_device_count=1000"),
    "none": ({"devices": 0}, "a number from 1"),
    "a word": ({"devices": "some"}, "a number from 1"),
    "no device": ({"devices": ["cpu"]}, "holds JAX's devices"),
    "an empty list": ({"devices": []}, "holds JAX's devices"),
    "numba": ({"devices": 2, "backend": "numba"}, "devices=2 is for JAX alone"),
    "no steps": ({"devices": 2, "method": "laplace"}, "takes no steps: leave out devices"),
    "auto": ({"devices": 2, "method": "auto", "convergence": "default"}, "leave out devices"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(model, mistake):
    options, sentence = MISTAKES[mistake]
    options = QUIET | {"n": 100_000} | options
    with pytest.raises(ValueError, match=sentence):
        vix.fit(model=model, **options)


def test_one_device_may_be_named(model):
    usual = vix.fit(20, model=model, **QUIET)
    for devices in (1, jax.devices()[:1]):
        same = vix.fit(20, model=model, devices=devices, **QUIET)
        np.testing.assert_array_equal(usual.hist, same.hist)
    loop = cloudpickle.loads(cloudpickle.dumps(same.fit_state.loop))
    assert len(loop.run(3)) == 3


def test_data_move_to_the_device_once(model, monkeypatch):
    """Steady steps move numbers of a few bytes: no data, and no state."""
    moved = []
    put, call = jax.device_put, jax.stages.Compiled.__call__

    def counting_put(value, *args, **kwargs):
        moved.append(np.asarray(value).nbytes)
        return put(value, *args, **kwargs)

    def counting_call(self, *args, **kwargs):
        # JAX moves what is NumPy's.
        leaves = jax.tree.leaves((args, kwargs))
        moved.extend(leaf.nbytes for leaf in leaves if not isinstance(leaf, jax.Array))
        return call(self, *args, **kwargs)

    monkeypatch.setattr(jax, "device_put", counting_put)
    monkeypatch.setattr(jax.stages.Compiled, "__call__", counting_call)
    method = vix.ADVI(model=model, random_seed=1)
    method.fit(10, progressbar=False)
    data = {24_000, 8_000}
    assert sorted(size for size in moved if size in data) == sorted(data)
    loop = method.session.prepared.loop
    loop.run(1)  # the end of the fit set the parameters
    moved.clear()
    for _ in range(3):
        loop.run(10)
        for _ in loop.intervals(5, 4):
            loop.write_back(internals=False)
    assert moved
    assert max(moved) <= 8
    with model:
        pm.set_data({"X": np.zeros((1000, 3))})
    loop.run(1)
    assert sorted(size for size in moved if size > 8) == [24_000]


def test_two_processes_make_one_fit():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-W", "ignore", str(HERE / "one_of_two_processes.py")]
    both = [
        subprocess.Popen(
            [*command, number, port],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"XLA_FLAGS": ""},
        )
        for number in "01"
    ]
    try:
        ended = [process.communicate(timeout=120) for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], ended
    first, second = (json.loads(out.splitlines()[-1]) for out, _ in ended)
    assert first == second
    assert first["devices"] == 2
    for one, other in zip(first["together"], first["alone"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    assert "begin at different numbers" in first["said"]
