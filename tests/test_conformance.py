"""What every method and every family has to be: one body of checks over the tables."""

import functools

import pytest

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


@functools.cache
def case(name):
    """Checks of one method share its compiled steps."""
    return testing.MethodCase(METHODS[name], name, **METHOD_CASES.get(name, {}))


@pytest.mark.parametrize("check", testing.METHOD_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", METHODS)
def test_method(name, check):
    if name == "pathfinder":
        pytest.importorskip("pymc_extras")
    check(case(name))


@pytest.mark.parametrize("check", testing.FAMILY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name, check):
    check(testing.FamilyCase(name, FAMILY_OPTIONS.get(name, {})))
