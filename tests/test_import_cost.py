"""Importing the package stays light."""

import subprocess
import sys

import pytest

HEAVY = ("jax", "mlflow", "prefect", "matplotlib", "plotly", "pydantic", "pymc")


@pytest.mark.parametrize("module", ["pymc_vi_ext"])
def test_import_loads_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "[]"


# Chains take ArviZ's statistics, and these scipy.stats.
@pytest.mark.parametrize(("method", "more"), [("advi", ("scipy.stats",)), ("auto", ())])
def test_from_a_model_to_draws_nothing_is_loaded_that_only_draws(method, more):
    names = ("matplotlib", "plotly", "mlflow", "prefect", "numpyro.distributions", *more)
    code = f"""
import sys
import pymc as pm, pymc_vi_ext as vix
from pymc_vi_ext import zoo
with zoo.build("gamma"):
    approx = vix.fit(method={method!r}, random_seed=1, progressbar=False)
vix.to_datatree(approx)
print([m for m in {names!r} if m in sys.modules])
import numpyro.distributions
print(numpyro.distributions.Normal(0.0, 1.0).loc)
"""
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.split() == ["[]", "0.0"]


@pytest.mark.parametrize("first", ["pymc", "pymc_vi_ext"])
def test_families_are_registered_whatever_comes_first(first):
    """After two plain imports, and before anything of the package is used."""
    second = {"pymc": "pymc_vi_ext", "pymc_vi_ext": "pymc"}[first]
    code = f"""
import {first}
import {second}
import importlib.resources, pymc as pm
with pm.Model():
    group = pm.Group([pm.Normal("x", shape=3)], vfam="low_rank", rank=2)
print(group.params_dict["W"].get_value().shape, importlib.resources.files(pm).is_dir())
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.split("\n")[0] == "(3, 2) True"


def test_an_action_that_fails_does_not_break_the_import():
    code = """
from pymc_vi_ext._after_import import when_imported
def broken():
    raise RuntimeError("no")
when_imported("wave", broken)
import wave
print(wave.__spec__.loader is wave.__loader__, wave.open)
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.startswith("True <function open")


def test_public_names_load():
    import pymc_vi_ext as vix

    for name in vix.__all__:
        assert getattr(vix, name) is not None
        assert name in dir(vix)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        vix.nonsense  # noqa: B018
