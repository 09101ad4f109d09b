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


def test_public_names_load():
    import pymc_vi_ext as vix

    for name in vix.__all__:
        assert getattr(vix, name) is not None
        assert name in dir(vix)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        vix.nonsense  # noqa: B018
