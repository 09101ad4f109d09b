"""What every family has to be: one body of tests over the table of families."""

import numpy as np
import pymc as pm
import pytest

from family_table import OURS, build
from pymc.pytensorf import find_rng_nodes, reseed_rngs
from pymc.variational.inference import KLqp
from pymc.variational.opvi import Group, ParametrizationError
from pytensor.tensor import constant

import pymc_vi_ext as vix

from pymc_vi_ext.approximations import OneGroup, family_of
from pymc_vi_ext.approximations.parameters import flat_parameters, moments
from pymc_vi_ext.engine import StepProgram, make_loop
from pymc_vi_ext.objectives import PathELBO
from pymc_vi_ext.python_only import python_only

QUIET = {"progressbar": False}


def elsewhere(approx):
    """Move every parameter to a place where nothing is special."""
    rng = np.random.default_rng(7)
    for parameter in approx.params:
        value = parameter.get_value()
        parameter.set_value(value + 0.3 * rng.normal(size=value.shape))
    return approx


def evaluated(nodes):
    """Evaluate without compiling."""
    with python_only():
        return pm.pytensorf.compile([], nodes, mode="FAST_COMPILE")()


def draws_and_logq(approx, n, seed=3):
    [group] = approx.groups
    nodes = approx.set_size_and_deterministic([group.symbolic_random, approx.symbolic_logq], n, 0)
    function = pm.pytensorf.compile([], nodes, mode="FAST_COMPILE")
    reseed_rngs(find_rng_nodes(nodes), seed)
    with python_only():
        return function()


@pytest.mark.parametrize("name", OURS)
def test_the_density_is_that_of_the_draws(name):
    """E_q[p / q] = 1 and E_q[z p / q] = E_p[z] for a p inside of q; five standard errors."""
    approx = elsewhere(build(name))
    z, logq = draws_and_logq(approx, 40_000)
    mean, sd = np.median(z, axis=0), 0.4 * z.std(axis=0)
    standard = (z - mean) / sd
    logp = -0.5 * np.sum(standard**2 + np.log(2 * np.pi * sd**2), axis=1)
    weights = np.exp(logp - logq)
    error = weights.std() / len(z) ** 0.5
    assert abs(weights.mean() - 1) < 5 * error < 0.2
    weighted = weights[:, None] * standard
    assert (abs(weighted.mean(axis=0)) < 5 * weighted.std(axis=0) / len(z) ** 0.5).all()


@pytest.mark.parametrize("name", OURS)
def test_means_and_standard_deviations(name):
    """Of the group, as symbols and from flat parameters, against draws; five standard errors."""
    approx = elsewhere(build(name))
    z, _ = draws_and_logq(approx, 40_000)
    means, sds, cov = evaluated([approx.mean, approx.std, approx.groups[0].cov])
    error = z.std(axis=0) / len(z) ** 0.5
    # Flows take theirs from 2,000 draws.
    noise = (len(z) / 2_000) ** 0.5 if "flow" in name else 1.0
    assert (abs(z.mean(axis=0) - means) < 5 * noise * error).all()
    # The error of a squared deviation is that of a fourth moment.
    squares = (z - means) ** 2
    errors = squares.std(axis=0) / len(z) ** 0.5
    assert (abs(squares.mean(axis=0) - sds**2) < 5 * noise * errors).all()
    np.testing.assert_allclose(np.sqrt(np.diag(cov)), sds, rtol=1e-6)
    if "flow" in name:
        with pytest.raises(TypeError, match="no closed form"):
            moments(approx, flat_parameters(approx))
    else:
        flat = np.tile(flat_parameters(approx), (2, 1))
        ours = moments(approx, flat)
        np.testing.assert_allclose(ours[0], np.tile(means, (2, 1)), rtol=1e-6)
        np.testing.assert_allclose(np.exp(ours[1]), np.tile(sds, (2, 1)), rtol=1e-6)


def losses_and_parameters(name, backend, steps=3):
    """Take a few steps with fixed draws."""
    with pm.Model() as model:
        x = pm.Normal("x", 0.0, 1.0, shape=2)
        s = pm.HalfNormal("s", 1.0)
        pm.Normal("y", x.sum(), s, observed=[0.3, 1.2])
    approx = build(name, model)
    inference = KLqp(approx)
    inference.objective = PathELBO(approx)(None)
    [group] = approx.groups
    noise = np.random.default_rng(2).normal(size=(2, group.noise_dim))
    program = StepProgram.from_inference(
        inference,
        obj_n_mc=2,
        obj_optimizer=pm.adam(learning_rate=0.05),
        more_replacements={group.symbolic_initial: constant(noise)},
    )
    with python_only():
        loop = make_loop(program, *backend)
        losses = loop.run(steps)
        loop.write_back()
    return losses, [p.get_value() for p in approx.params]


BACKENDS = {"jax": ("jax",), "numba": ("numba",), "python": ("auto", {"mode": "FAST_COMPILE"})}
# numba compiles each of the others for minutes.
ON_NUMBA = ("student_t", "full_rank_student_t", "mixture")


@pytest.mark.parametrize("name", OURS)
def test_every_backend_takes_the_same_steps(name):
    names = [b for b in BACKENDS if b != "numba" or name in ON_NUMBA]
    (losses, parameters), *others = [losses_and_parameters(name, BACKENDS[b]) for b in names]
    for other, other_parameters in others:
        np.testing.assert_allclose(other, losses, rtol=1e-7)
        for ours, theirs in zip(parameters, other_parameters, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


CORRELATED = np.array([[1.0, 0.7, 0.2], [0.7, 2.0, -0.3], [0.2, -0.3, 0.5]])
# Where the optimum is the posterior: E4.
EXACT = {
    "low_rank": {"rank": 3},
    "full_rank_student_t": {"df": 1e8},
    "full_rank_mixture": {"K": 1},
    "flow": {},
    "flow affine": {},
    "flow planar": {},
}


@pytest.mark.parametrize("name", EXACT)
def test_starts_from_a_gaussian(name):
    """Set to the posterior, a family has log q = log p at every draw: log Z = 0."""
    with pm.Model() as model:
        pm.MvNormal("x", [1.0, 2.0, 3.0], CORRELATED)
    approx = build(name, model, **EXACT[name])
    family_of(approx.groups[0]).set_gaussian(np.array([1.0, 2.0, 3.0]), CORRELATED)
    z, logq = draws_and_logq(approx, 200)
    away = z - [1.0, 2.0, 3.0]
    quadratic = np.sum(away * np.linalg.solve(CORRELATED, away.T).T, axis=1)
    logp = -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * CORRELATED)[1])
    # A low-rank covariance keeps something on its diagonal.
    np.testing.assert_allclose(logq, logp, atol=0.2 if name == "low_rank" else 1e-5)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("low_rank", {"rank": 4}, "`rank` is 4, and the model has 3 dimensions"),
        ("low_rank", {"rank": 0}, "`rank` must be a whole number from 1, not 0"),
        ("student_t", {"df": 2.0}, "`df` must be above 2, not"),
        ("full_rank_student_t", {"df": 1.0}, "`df` must be above 2, not"),
        ("mixture", {"K": 0}, "`K` must be a whole number from 1, not 0"),
        ("full_rank_mixture", {"K": 1.5}, "`K` must be a whole number from 1, not 1.5"),
        ("flow", {"kind": "cubic"}, "Unknown kind 'cubic': the known ones are affine, planar"),
        ("flow", {"couplings": 0}, "`couplings` must be a whole number from 1"),
        ("flow", {"width": 0}, "`width` must be a whole number from 1"),
    ],
)
def test_bad_options(family, options, message):
    with pm.Model() as model:
        pm.Normal("x", shape=3)
    with pytest.raises(ParametrizationError, match=message):
        Group(model.free_RVs, vfam=family, model=model, **options)


def test_a_flow_in_one_dimension_is_a_spline_and_says_so(caplog):
    with pm.Model() as model:
        pm.Normal("x")
    with caplog.at_level("WARNING"):
        group = Group(model.free_RVs, vfam="flow", model=model)
    assert "one dimension" in caplog.text
    assert len(group._layers.layers) == 1
    z, logq = draws_and_logq(OneGroup(group), 5)
    assert z.shape == (5, 1)
    assert np.isfinite(logq).all()


def test_stratified_mixture_loss():
    """The mean over components weighs them; by hand on the same noise."""
    with pm.Model() as model:
        pm.Normal("x", 0.0, 2.0, shape=2)
    approx = build("mixture", model, K=3)
    elsewhere(approx)
    [group] = approx.groups
    noise = np.random.default_rng(1).normal(size=(5, 3))
    loss = PathELBO(approx)(None)(5, more_replacements={group.symbolic_initial: constant(noise)})
    weights = evaluated(group.weights)
    mu, sd = group.params_dict["mu"].get_value(), group.params_dict["rho"].get_value()
    sd = np.logaddexp(0.0, sd)

    def normal(z, mean, scale):
        return -0.5 * np.sum(((z - mean) / scale) ** 2 + np.log(2 * np.pi * scale**2), axis=-1)

    expected = 0.0
    for k in range(3):
        z = mu[k] + sd[k] * noise[:, 1:]
        logq = np.log(np.sum(weights * np.exp(normal(z[:, None], mu, sd)), axis=1))
        expected += weights[k] * np.mean(logq - normal(z, 0.0, 2.0))
    assert float(evaluated(loss)) == pytest.approx(expected, rel=1e-7)


def test_low_rank_log_density_is_that_of_its_covariance():
    approx = elsewhere(build("low_rank"))
    z, logq = draws_and_logq(approx, 6)
    cov, mean = evaluated([approx.groups[0].cov, approx.mean])
    away = z - mean
    quadratic = np.sum(away * np.linalg.solve(cov, away.T).T, axis=1)
    exact = -0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * cov)[1])
    np.testing.assert_allclose(logq, exact, rtol=1e-9)


def test_families_side_by_side():
    with pm.Model() as model:
        x = pm.Normal("x", 0.0, 1.0, shape=3)
        pm.Normal("z", x.sum(), 1.0)
    groups = {"low_rank": ["x"], "student_t": ["z"]}
    approx = vix.fit(100, model=model, groups=groups, convergence=None, random_seed=1, **QUIET)
    assert [g.short_name for g in approx.groups] == ["low_rank", "student_t"]
    assert set(vix.to_datatree(approx, 10).posterior.data_vars) == {"x", "z"}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"full_rank": ["x"]}, "leaves out z"),
        ({"full_rank": ["x", "z"], "mean_field": ["x"]}, "names 'x' twice"),
        ({"full_rank": ["x", "w"]}, "'w', which is no free variable"),
        ({"fullest": ["x", "z"]}, "no family 'fullest'"),
        ({"full_rank": []}, "no variables"),
        ({}, "maps families to names"),
        (["x"], "maps families to names"),
    ],
)
def test_bad_groups(groups, message):
    with pm.Model() as model:
        x = pm.Normal("x")
        pm.Normal("z", x)
    with pytest.raises(ValueError, match=message):
        vix.fit(10, model=model, groups=groups, **QUIET)


def test_groups_belong_to_advi():
    with pm.Model() as model:
        pm.Normal("x")
    with pytest.raises(ValueError, match='use method="advi"'):
        vix.fit(10, "svgd", model=model, groups={"full_rank": ["x"]}, **QUIET)
