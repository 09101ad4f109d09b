"""Compiled programs that a later process takes from a folder."""

import os
import subprocess
import sys

import jax
import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor.gradient import disconnected_grad
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.jax.dispatch import jax_funcify

from pymc_vi_ext.engine import StepProgram, kept_programs, make_loop
from pymc_vi_ext.engine.fingerprint import fingerprint


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(kept_programs.VARIABLE, str(tmp_path))
    return tmp_path


def program(new=lambda x: x / 2, value=(8.0, 4.0)):
    x = pytensor.shared(np.array(value), "x")
    return StepProgram({x: new(x)}, loss=pt.sqr(x).sum())


class Twice(Op):
    """An Op of somebody else's, whose code may change without a trace."""

    __props__ = ()

    def make_node(self, x):
        return Apply(self, [x], [x.type()])

    def perform(self, node, inputs, outputs):
        outputs[0][0] = 2 * inputs[0]


def _scanned(x, n):
    return pytensor.scan(lambda s: s / 2, outputs_info=[x], n_steps=n, return_updates=False)[-1]


LENGTH = pytensor.shared(2, "length")
PROGRAMS = {
    "as it is": program(),
    "another constant": program(lambda x: x / 3),
    "another operation": program(lambda x: x * 2),
    "of other inputs": program(lambda x: 2 / x),
    "another type": program(lambda x: (x.astype("float32") / 2).astype("float64")),
    "another shape": program(value=(1.0, 2.0, 3.0)),
    "an array in it": program(lambda x: x / np.array([2.0, 3.0])),
    "another array": program(lambda x: x / np.array([2.0, 4.0])),
    "another axis": program(lambda x: x / x.reshape((1, 2)).sum(axis=0)),
    "the other axis": program(lambda x: x / x.reshape((1, 2)).sum(axis=1)),
    "a loop": program(lambda x: _scanned(x, 2)),
    "a longer loop": program(lambda x: _scanned(x, 3)),
    "a length from data": program(lambda x: x[:LENGTH].sum() * x),
}


def test_no_two_programs_share_a_fingerprint():
    found = {name: fingerprint(one) for name, one in PROGRAMS.items()}
    assert None not in found.values()
    assert len(set(found.values())) == len(found)
    assert fingerprint(program()) == found["as it is"]
    assert fingerprint(program(value=(1.0, 2.0))) == found["as it is"]
    LENGTH.set_value(1)
    assert fingerprint(PROGRAMS["a length from data"]) != found["a length from data"]
    assert fingerprint(program(), 1) != fingerprint(program(), 2)


@pytest.mark.parametrize(
    "new", [lambda x: Twice()(x), lambda x: x / pt.as_tensor(np.ones(2**23 + 1)).sum()]
)
def test_what_may_change_or_is_large_is_not_kept(new):
    assert fingerprint(program(new)) is None


class Endless:
    """As a graph may be: each operation on a sum of two that are the same doubles its text."""

    def __repr__(self):
        raise AssertionError("its text is as long as memory")


def test_nothing_is_written_out_to_be_put_in_order():
    assert fingerprint(program(), {"one": Endless(), "two": 2}) is None


def test_other_rewrites_are_another_program(monkeypatch):
    before = fingerprint(program())
    monkeypatch.setattr(
        StepProgram, "mode", lambda self, mode: pytensor.compile.mode.get_mode("JAX")
    )
    assert fingerprint(program()) != before


def test_what_others_say_of_ops_is_not_kept(monkeypatch):
    """The registry has a second function for an Op; which one, and what it says, may change."""
    monkeypatch.setattr(jax_funcify, "registry", {**jax_funcify.registry})
    assert fingerprint(program()) is not None
    jax_funcify.registry[Twice] = lambda op, **kwargs: lambda x: 2 * x
    assert fingerprint(program()) is None


CODE = """
import sys
import pymc as pm, pymc_vi_ext as vix
with pm.Model():
    x = pm.Normal("x", 0.0, 1.0, shape=2)
    pm.Gamma("y", 2.0, pm.math.exp(x[0]), observed=[1.0, 2.0, 0.5])
    approx = vix.fit(300, convergence=None, random_seed=1, progressbar=False)
print(approx.hist.tobytes().hex())
print("pytensor.link.jax.dispatch" in sys.modules)
"""


@pytest.mark.parametrize("flags", ["", "--xla_force_host_platform_device_count=3"])
def test_a_second_process_takes_the_same_steps_without_compiling(folder, flags):
    """On the first device, of however many there are."""

    def run(**environment):
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CODE],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "XLA_FLAGS": flags, **environment},
        ).stdout.split()

    first, compiled = run()
    assert compiled == "True"
    assert len(list(folder.iterdir())) == 1
    second, compiled = run()
    assert compiled == "False"
    off, compiled = run(**{kept_programs.VARIABLE: "off"})
    assert compiled == "True"
    assert first == second == off


CHOLESKY = """
import sys
import numpy as np, pytensor, pytensor.tensor as pt
from pymc_vi_ext.engine import StepProgram, make_loop
x = pytensor.shared(np.array([[2.0, 0.5], [0.5, 1.0]]), "x", shape=(2, 2))
loop = make_loop(StepProgram({x: pt.linalg.cholesky(x)}, loss=x.sum()), "jax")
print(loop.run(1).tolist(), "pytensor.link.jax.dispatch" in sys.modules)
"""


def test_a_program_that_calls_lapack_finds_it(folder):
    """Loaded as it is, it would call what nobody has looked up, and end the process."""
    command = [sys.executable, "-W", "ignore", "-c", CHOLESKY]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    )
    assert (first, second) == ("[4.0] True", "[4.0] False")


def test_a_program_that_calls_other_things_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(kept_programs, "_LAPACK", "another_library_")
    x = pytensor.shared(np.eye(2), "x", shape=(2, 2))
    make_loop(StepProgram({x: pt.linalg.cholesky(x)}), "jax")
    assert not list(folder.iterdir())


@pytest.fixture
def compilations(monkeypatch):
    """The programs that were lowered, one entry each."""
    from pymc_vi_ext.engine import jax_loop

    lower, found = jax_loop.jax_step, []
    monkeypatch.setattr(
        jax_loop, "jax_step", lambda one, *more: found.append(one) or lower(one, *more)
    )
    return found


def losses(**options):
    return make_loop(program(**options), "jax").run(3).tolist()


def test_once_for_all_values(folder, compilations):
    assert losses() == [80.0, 20.0, 5.0]
    assert losses(value=(4.0, 2.0)) == [20.0, 5.0, 1.25]
    assert len(compilations) == 1


def test_large_constants_are_kept_with_it(folder, compilations):
    rows = np.random.default_rng(0).normal(size=(1_000, 2))

    def new(x):
        return x - 1e-4 * pt.log(rows**2).T @ (rows @ x)

    first = losses(new=new)
    assert losses(new=new) == first
    assert len(compilations) == 1


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_broken_file_is_made_anew(folder, compilations, content):
    losses()
    [file] = folder.iterdir()
    file.write_bytes(file.read_bytes()[:1_000] if content is None else content)
    assert losses() == [80.0, 20.0, 5.0]
    losses()
    assert len(compilations) == 2


def test_off(folder, compilations, monkeypatch):
    monkeypatch.setenv(kept_programs.VARIABLE, "off")
    assert kept_programs.folder() is None
    losses()
    losses()
    assert len(compilations) == 2
    assert not list(folder.iterdir())


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no such permissions")
def test_a_folder_that_others_write_to_is_not_used(folder, compilations):
    folder.chmod(0o777)
    assert kept_programs.folder() is None
    losses()
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_made(folder, monkeypatch):
    (folder / "file").touch()
    monkeypatch.setenv(kept_programs.VARIABLE, str(folder / "file" / "below"))
    assert kept_programs.folder() is None
    assert losses() == [80.0, 20.0, 5.0]


def test_those_used_longest_ago_make_room(folder, monkeypatch):
    def keep(new):
        losses(new=new)
        [latest] = set(folder.iterdir()) - known
        return latest

    known = set()
    first = keep(lambda x: x / 2)
    known.add(first)
    second = keep(lambda x: x / 3)
    known.add(second)
    os.utime(first, (2, 2))
    os.utime(second, (1, 1))
    monkeypatch.setattr(kept_programs, "_MOST_BYTES", 2.5 * first.stat().st_size)
    third = keep(lambda x: x / 4)
    assert set(folder.iterdir()) == {first, third}
    # What is used is used last.
    losses(new=lambda x: x / 2)
    assert first.stat().st_mtime > third.stat().st_mtime - 1


def test_what_jax_is_told_counts():
    before = fingerprint(program())
    with jax.default_matmul_precision("highest"):
        assert fingerprint(program()) not in (before, None)
    assert fingerprint(program()) == before


def test_custom_gradients_count():
    """The graph of a gradient is told, not the expression that it was taken of."""
    with pm.Model():
        x = pm.Normal("x")
        pm.Potential("p", -((x - 1) ** 2))
        one = StepProgram.from_inference(pm.ADVI(), obj_optimizer=pm.adam())
    with pm.Model():
        x = pm.Normal("x")
        pm.Potential("p", -((disconnected_grad(x) - 1) ** 2))
        other = StepProgram.from_inference(pm.ADVI(), obj_optimizer=pm.adam())
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("said", ["on", " ON ", None])
def test_by_default_it_is_among_the_users_caches(tmp_path, monkeypatch, said):
    monkeypatch.setattr(kept_programs, "user_cache_path", lambda name: tmp_path / name)
    if said is None:
        monkeypatch.delenv(kept_programs.VARIABLE)
    else:
        monkeypatch.setenv(kept_programs.VARIABLE, said)
    assert kept_programs.folder() == tmp_path / "pymc_vi_ext"
