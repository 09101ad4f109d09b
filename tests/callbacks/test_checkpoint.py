import errno
import os
import signal
import subprocess
import sys
import time

from pathlib import Path

import numpy as np
import pymc as pm
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.callbacks import Checkpoint, CheckpointError, EarlyStopping, checkpoint

SCRIPT = Path(__file__).with_name("interrupted.py")
QUIET = {"backend": "jax", "progressbar": False}


def one_variable(name="x", shape=(), data=0.5):
    with pm.Model() as model:
        x = pm.Normal(name, 0.0, 1.0, shape=shape)
        pm.Normal("y", x, 1.0, observed=np.full(shape, data))
    return model


@pytest.fixture(scope="module")
def model():
    return one_variable()


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "fit.npz"
    vix.fit(
        300,
        model=model,
        random_seed=1,
        callbacks=[Checkpoint(path, 100)],
        convergence=None,
        **QUIET,
    )
    return path


@pytest.mark.parametrize("backend", ["jax", "c"])
def test_killed_and_resumed_is_bit_for_bit_the_same(backend, tmp_path):
    """SIGKILL at a random step, then `resume`; the C backend runs without a compiler, for speed."""
    path, out = tmp_path / "fit.npz", tmp_path / "out.npz"
    environment = os.environ | {"PYTENSOR_FLAGS": "cxx="}
    command = [sys.executable, "-W", "ignore", str(SCRIPT)]
    steps = int(np.random.default_rng().integers(3, 9))
    with subprocess.Popen(
        [*command, "fit", str(path), backend], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        reached = [next(process.stdout) for _ in range(steps)]
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    subprocess.run([*command, "resume", path, backend, out], check=True, env=environment)
    found = np.load(out)
    step = checkpoint.read(path).header["step"]
    assert 0 < step <= int(reached[-1]) < len(found["whole_losses"]), f"killed after {reached}"
    for name in ("losses", "mu", "rho"):
        np.testing.assert_array_equal(found[f"resumed_{name}"], found[f"whole_{name}"])


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("fullrank_advi", {}),
        ("advi", {"convergence": None}),
        ("advi", {"convergence": None, "obj_optimizer": pm.adagrad_window(learning_rate=0.01)}),
        ("svgd", {"inf_kwargs": {"n_particles": 20}, "convergence": None}),
        ("asvgd", {"convergence": None, "obj_n_mc": 10}),
        ("lowrank_advi", {}),
        ("studentt_advi", {"objective": "iwelbo", "convergence": None}),
        ("mixture_advi", {"inf_kwargs": {"K": 2}}),
        ("flow_advi", {"inf_kwargs": {"kind": "planar", "couplings": 1}, "convergence": None}),
        ("bam", {"obj_n_mc": 4, "convergence": None}),
    ],
)
def test_every_method_goes_on(model, method, options, tmp_path):
    path = tmp_path / "fit.npz"
    whole = vix.fit(
        400,
        method,
        model,
        random_seed=2,
        callbacks=[Checkpoint(path, 150)],
        **options,
        **QUIET,
    )
    assert 0 < checkpoint.read(path).header["step"] < whole.report.steps
    resumed = vix.resume(path, model, progressbar=False)
    assert resumed.report.steps == whole.report.steps
    np.testing.assert_array_equal(resumed.hist, whole.hist)
    assert resumed.hist.shape == whole.hist.shape
    for a, b in zip(resumed.params, whole.params, strict=True):
        np.testing.assert_array_equal(a.get_value(), b.get_value())


def test_states_of_callbacks_go_on(model, tmp_path):
    path = tmp_path / "fit.npz"

    def callbacks():
        tracker = vix.callbacks.Tracker(every=50, step=lambda approx, losses, i: i)
        return [tracker, EarlyStopping(patience=100, every=50), Checkpoint(path, 150)]

    before, again = callbacks(), callbacks()
    vix.fit(400, model=model, callbacks=before, convergence=None, random_seed=2, **QUIET)
    assert checkpoint.read(path).header["step"] == 300
    vix.resume(path, model, callbacks=again, progressbar=False)
    assert list(again[0]["step"]) == list(range(50, 401, 50))
    np.testing.assert_equal(again[1].state_dict(), before[1].state_dict())
    with pytest.raises(CheckpointError, match="callbacks Tracker, EarlyStopping"):
        vix.resume(path, model, callbacks=again[1:], progressbar=False)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (one_variable(name="z"), "variable 'x' is x of shape"),
        (
            one_variable(shape=(3,)),
            r"x of shape \(\), here it is x of shape \(3,\)",
        ),
        (one_variable(data=0.6), "observed variable 'y'"),
    ],
)
def test_another_model_is_refused(saved, other, message):
    with pytest.raises(CheckpointError, match=message):
        vix.resume(saved, other, progressbar=False)


def test_damaged_and_missing_files(saved, model, tmp_path):
    content = saved.read_bytes()
    saved.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        vix.resume(saved, model)
    saved.write_bytes(b"hello")
    with pytest.raises(CheckpointError, match="no checkpoint of pymc_vi_ext"):
        vix.resume(saved, model)
    np.savez(tmp_path / "foreign.npz", a=np.arange(3))
    with pytest.raises(CheckpointError, match="no checkpoint of pymc_vi_ext"):
        vix.resume(tmp_path / "foreign.npz", model)
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        vix.resume(tmp_path / "nowhere.npz", model)
    with pytest.raises(FileNotFoundError, match="folder of the checkpoint"):
        Checkpoint(tmp_path / "no" / "fit.npz")


def test_options_a_file_cannot_hold(model, tmp_path):
    path = tmp_path / "fit.npz"

    def optimizer(loss, params):
        return pm.sgd(loss, params, learning_rate=0.01)

    whole = vix.fit(
        200,
        model=model,
        callbacks=[Checkpoint(path, 150)],
        obj_optimizer=optimizer,
        convergence=None,
        random_seed=1,
        **QUIET,
    )
    assert checkpoint.read(path).header["step"] == 150
    with pytest.raises(CheckpointError, match="obj_optimizer=<function"):
        vix.resume(path, model, progressbar=False)
    resumed = vix.resume(path, model, obj_optimizer=optimizer, progressbar=False)
    np.testing.assert_array_equal(resumed.hist, whole.hist)
    described = checkpoint.describe_option(pm.adam(learning_rate=vix.schedules.constant(0.01)))
    with pytest.raises(CheckpointError, match="learning_rate=<pymc_vi_ext"):
        checkpoint.option("obj_optimizer", described)
    with pytest.raises(CheckpointError, match="started without n_particles"):
        vix.resume(path, model, obj_optimizer=optimizer, n_particles=3)


def test_a_full_disk_warns_once_and_the_fit_goes_on(model, tmp_path, monkeypatch):
    path = tmp_path / "fit.npz"
    path.write_bytes(b"the old one")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left on device") as caught:
        approx = vix.fit(
            300, model=model, callbacks=[Checkpoint(path, 100)], convergence=None, **QUIET
        )
    assert len(caught) == 1
    assert approx.report.steps == 300
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_plain_pymc_fit_saves_parameters_only(model, tmp_path):
    path = tmp_path / "fit.npz"
    with model:
        approx = pm.fit(
            20, callbacks=[Checkpoint(path, 10)], progressbar=False, random_seed=1, backend="c"
        )
    held = checkpoint.read(path)
    np.testing.assert_array_equal(held.losses, approx.hist)
    mean_and_rho = np.concatenate([p.get_value() for p in approx.params])
    np.testing.assert_array_equal(held.arrays["parameters"], mean_and_rho)
    with pytest.raises(CheckpointError, match=r"was not written by `vix\.fit`"):
        vix.resume(path, model)


def test_seconds_in_place_of_steps(model, tmp_path):
    """Wherever the steps pause; the rest of the fit is the same, and its seconds are told too."""
    path = tmp_path / "fit.npz"
    options = {"model": model, "random_seed": 3, **QUIET}
    save = Checkpoint(path, seconds=1e-4)
    whole = vix.fit(3_000, callbacks=[save], **options)
    held = checkpoint.read(path)
    assert 0 < held.header["step"] < whole.report.steps
    spent = held.header["seconds"]
    assert 0 < spent["run_s"] < whole.report.timings.run_s
    resumed = vix.resume(path, model, progressbar=False)
    np.testing.assert_array_equal(resumed.hist, whole.hist)
    np.testing.assert_array_equal(vix.fit(3_000, **options).hist, whole.hist)
    assert resumed.report.timings.run_s > spent["run_s"]
    assert resumed.report.timings.before_s > sum(spent.values()) - spent["run_s"]
    with pytest.raises(ValueError, match="seconds"):
        Checkpoint(path, seconds=0)


def test_writing_takes_at_most_a_fiftieth_of_a_fit(model, tmp_path, monkeypatch):
    written = []

    def slowly(path, content):
        written.append(content)
        time.sleep(0.05)

    monkeypatch.setattr(checkpoint, "_write", slowly)
    save = Checkpoint(tmp_path / "fit.npz", seconds=1e-4)
    stop = vix.callbacks.WallTime(4)
    vix.fit(10**9, model=model, callbacks=[save, stop], convergence=None, score=False, **QUIET)
    assert 1 <= len(written) <= 2
