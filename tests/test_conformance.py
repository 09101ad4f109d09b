"""What every method and every family has to be: one body of checks over the tables."""

import pytensor
import pytensor.tensor as pt
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext import testing
from pymc_vi_ext.approximations import FAMILIES
from pymc_vi_ext.inference import METHODS

# Where a default fit is not what recovers a Gaussian, and why.
METHOD_CASES = {
    # Networks that need thousands of steps; small ones, for a fixed number.
    "flow_advi": {
        "options": {"kind": "affine", "couplings": 2, "width": 8},
        "fit": {"n": 2_000, "convergence": None},
    },
    # Amortised, it underestimates variances at temperature 1, as its docstring says.
    "asvgd": {"fit": {"obj_n_mc": 100}, "mean_tolerance": 0.3, "sd_tolerance": 0.5},
    # A hundred particles spread evenly, a little narrower than the posterior.
    "svgd": {"mean_tolerance": 0.15, "sd_tolerance": 0.25},
    # A thousand draws, from a quasi-Newton path: 1/sqrt(1000) = .03 sd is one standard error.
    "pathfinder": {"mean_tolerance": 0.2, "sd_tolerance": 0.2},
    # The tails of an optimum with finitely many degrees of freedom.
    "studentt_advi": {"sd_tolerance": 0.15},
}
FAMILY_OPTIONS = {
    "empirical": {"size": 200},
    "low_rank": {"rank": 1},
    "mixture": {"K": 2},
    "full_rank_mixture": {"K": 2},
    "flow": {"kind": "affine", "couplings": 2, "width": 4},
}


@pytest.mark.parametrize("name", METHODS)
def test_method(name):
    """All checks of a method in one test, since they share its compiled steps."""
    if name == "pathfinder":
        pytest.importorskip("pymc_extras")
    case = testing.MethodCase(METHODS[name], name, **METHOD_CASES.get(name, {}))
    for check in testing.METHOD_CHECKS:
        check(case)


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name):
    case = testing.FamilyCase(name, FAMILY_OPTIONS.get(name, {}))
    for check in testing.FAMILY_CHECKS:
        check(case)


def test_compilations_are_counted():
    """Without this the checks could not fail."""
    case = testing.MethodCase(METHODS["advi"], "advi")
    with testing.compilations() as found:
        case.steps(3)
    assert found.count("xla") > 0
    with testing.compilations() as found:
        pytensor.function([], pt.constant(1.0), mode="FAST_COMPILE")
    assert "pytensor" in found


def test_what_does_not_conform_is_named():
    class Greedy(METHODS["laplace"]):
        """Takes anything, and tells of none of it."""

        takes_steps = False

        def __init__(self, *, model=None, random_seed=None, **anything):
            super().__init__(model=model, random_seed=random_seed)

    with pytest.raises(AssertionError, match="greedy: obj_optimiser is accepted"):
        vix.testing.check_method(Greedy)
    assert "greedy" not in METHODS
