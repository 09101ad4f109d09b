"""Objectives beside the ELBO, against closed integrals of Gaussians."""

import numpy as np
import pymc as pm
import pytest

from pymc.pytensorf import find_rng_nodes, reseed_rngs
from pymc.variational.opvi import ParametrizationError
from pytensor import grad

import pymc_vi_ext as vix

from pymc_vi_ext.approximations import family_of
from pymc_vi_ext.engine import StepProgram, make_loop
from pymc_vi_ext.objectives import ELBO, OBJECTIVES, ImportanceWeighted, Renyi, Tempered
from pymc_vi_ext.python_only import python_only

QUIET = {"progressbar": False}
R = 0.8


def correlated():
    """E2: two variables of correlation .8."""
    with pm.Model() as model:
        pm.MvNormal("x", np.zeros(2), np.array([[1.0, R], [R, 1.0]]))
    return model


def losses(objective, draws, model=None, seed=3, sd=0.6):
    """Return losses and gradients of 200 steps at a mean field beside its optimum."""
    inference = vix.ADVI(model=model or correlated())
    [group] = inference.approx.groups
    family_of(group).set_gaussian(np.array([0.1, -0.2]), np.diag([sd**2, sd**2]))
    loss = objective.operator(inference.approx)(None)(draws)
    nodes = [loss, *grad(loss, inference.approx.params)]
    with python_only():
        function = pm.pytensorf.compile([], nodes, mode="FAST_COMPILE")
        reseed_rngs(find_rng_nodes(nodes), seed)
        results = [function() for _ in range(200)]
    values = np.array([r[0] for r in results])
    return values, np.array([np.concatenate([g.ravel() for g in r[1:]]) for r in results])


def exact_bound(alpha, sd=0.6, mean=(0.1, -0.2)):
    """E9: log of int q^alpha p^(1 - alpha) / (1 - alpha), Gaussians throughout."""
    p = np.linalg.inv(np.array([[1.0, R], [R, 1.0]]))
    q, m = np.eye(2) / sd**2, np.array(mean)
    both = alpha * q + (1 - alpha) * p
    centre = np.linalg.solve(both, alpha * q @ m)
    exponent = -0.5 * (alpha * m @ q @ m - centre @ both @ centre)
    log_det = alpha * np.linalg.slogdet(q)[1] + (1 - alpha) * np.linalg.slogdet(p)[1]
    return (exponent + 0.5 * (log_det - np.linalg.slogdet(both)[1])) / (1 - alpha)


@pytest.mark.parametrize("alpha", [0.3, 0.7])
def test_renyi_bound_is_the_closed_integral(alpha):
    """With many draws inside the logarithm; five standard errors, and a bias of order 1 / K."""
    values, _ = losses(Renyi(alpha, K=400), 1)
    error = values.std() / len(values) ** 0.5
    assert -values.mean() == pytest.approx(exact_bound(alpha), abs=5 * error + 0.01)


def test_bounds_are_ordered_between_elbo_and_evidence():
    elbo = -losses(ELBO(), 8)[0].mean()
    renyi = -losses(Renyi(0.5, 8), 1)[0].mean()
    weighted = -losses(ImportanceWeighted(K=8), 1)[0].mean()
    many = -losses(ImportanceWeighted(K=200), 1)[0].mean()
    assert elbo < renyi < weighted < many < 0.05
    assert abs(-losses(Renyi(0.999, 8), 1)[0].mean() - elbo) < 0.01


@pytest.mark.parametrize("objective", [Renyi(0.5, 4), ImportanceWeighted(K=4)])
def test_doubly_reparameterised_gradient_is_unbiased(objective):
    """Against finite differences of the loss, averaged on the same draws; five standard errors."""
    _, gradients = losses(objective, 20)
    inference = vix.ADVI(model=correlated())
    [group] = inference.approx.groups
    family_of(group).set_gaussian(np.array([0.1, -0.2]), np.diag([0.36, 0.36]))
    loss = objective.operator(inference.approx)(None)(20)
    with python_only():
        function = pm.pytensorf.compile([], loss, mode="FAST_COMPILE")
    step = 1e-4
    for i, (parameter, j) in enumerate((p, j) for p in inference.approx.params for j in (0, 1)):
        value, found = parameter.get_value(), []
        for sign in (1, -1):
            moved = value.copy()
            moved[j] += sign * step
            parameter.set_value(moved)
            reseed_rngs(find_rng_nodes([loss]), 3)
            found.append(np.array([function() for _ in range(200)]))
        parameter.set_value(value)
        numeric = (found[0] - found[1]) / (2 * step)
        difference = gradients[:, i] - numeric
        assert abs(difference.mean()) < 5 * difference.std() / 200**0.5 + 1e-3


def test_closed_entropy_has_the_same_mean_and_less_noise():
    closed, gradients = losses(ELBO("entropy"), 4)
    path, path_gradients = losses(ELBO("path"), 4)
    error = np.hypot(closed.std(), path.std()) / 200**0.5
    assert abs(closed.mean() - path.mean()) < 5 * error
    difference = gradients - path_gradients
    assert (abs(difference.mean(axis=0)) < 5 * difference.std(axis=0) / 200**0.5).all()


def test_tempering_ends_at_the_posterior():
    """The loss is the negative ELBO at every temperature, the gradient that of the tempered one."""
    inference = vix.FullRankADVI(model=correlated())
    [group] = inference.approx.groups
    inference.objective = Tempered(first=0.25, steps=4).operator(inference.approx)(None)
    family_of(group).set_gaussian(np.zeros(2), np.array([[1.0, R], [R, 1.0]]))
    program = StepProgram.from_inference(inference, obj_optimizer=pm.sgd(learning_rate=1e-9))
    loop = make_loop(program, "jax")
    np.testing.assert_allclose(loop.run(6), 0.0, atol=1e-6)
    approx = vix.fit(
        method="fullrank_advi", model=correlated(), objective="tempered", random_seed=1, **QUIET
    )
    assert approx.cov.eval()[0, 1] == pytest.approx(R, abs=0.1)


def test_tempered_fits_do_not_stop_before_the_posterior():
    """The rule waits for the temperature; too few steps are refused."""
    approx = vix.fit(model=correlated(), objective=Tempered(steps=2_000), random_seed=1, **QUIET)
    assert approx.report.converged
    assert approx.report.steps > 2_000
    np.testing.assert_allclose(approx.std.eval(mode="FAST_COMPILE"), 0.6, rtol=0.1)
    with pytest.raises(ValueError, match="tempered for its first 1,000 steps, and n=800"):
        vix.fit(800, model=correlated(), objective="tempered", **QUIET)
    with pytest.raises(ValueError, match="take at least 2,000"):
        vix.fit(1_500, model=correlated(), objective="tempered", convergence=None, **QUIET)


def test_one_inference_with_several_objectives():
    """Each fit minimises what it was asked for, and "elbo" is the method's own again."""
    with pm.Model() as model:
        pm.StudentT("x", nu=3.0)
    inference = vix.ADVI(model=model, random_seed=1)
    options = {"method": inference, "convergence": None, "backend": "jax", **QUIET}
    first = vix.fit(1_500, **options).std.eval(mode="FAST_COMPILE")[0]
    bound = Renyi(0.0, K=16)
    second = vix.fit(1_500, objective=bound, **options).std.eval(mode="FAST_COMPILE")[0]
    third = vix.fit(1_500, **options).std.eval(mode="FAST_COMPILE")[0]
    assert second > 1.1 * first
    assert third == pytest.approx(first, rel=0.05)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("method", ["advi", "lowrank_advi", "studentt_advi"])
def test_every_objective_with_every_family(name, method):
    objective = Tempered(steps=20) if name == "tempered" else name
    approx = vix.fit(
        60, method, correlated(), 1, objective=objective, convergence=None, backend="jax", **QUIET
    )
    assert np.isfinite(approx.hist).all()


@pytest.mark.parametrize(
    ("method", "objective", "error", "message"),
    [
        ("advi", "elbow", ValueError, "Unknown objective 'elbow'"),
        ("advi", 3, TypeError, "`objective` is one of elbo, iwelbo, renyi, tempered or an object"),
        ("svgd", "renyi", ValueError, "SVGD does not minimise an ELBO"),
        ("bam", "renyi", ValueError, "BaM does not minimise an ELBO"),
        ("mixture_advi", "iwelbo", ParametrizationError, 'use objective="elbo" for mixtures'),
        ("mixture_advi", "tempered", ParametrizationError, "needs no tempering"),
        ("lowrank_advi", ELBO("entropy"), ParametrizationError, "no closed form here"),
    ],
)
def test_pairs_that_do_not_go(method, objective, error, message):
    options = {"K": 1} if method == "mixture_advi" else None
    with pytest.raises(error, match=message):
        vix.fit(10, method, correlated(), objective=objective, inf_kwargs=options, **QUIET)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Renyi(alpha=1), "where the bound is the ELBO"),
        (lambda: Renyi(alpha=-0.1), "`alpha` must be 0 or more"),
        (lambda: ImportanceWeighted(K=1), "at least 2, not 1"),
        (lambda: Tempered(first=2.0), "between 0 and 1"),
        (lambda: Tempered(steps=0), "`steps` must be"),
        (lambda: ELBO("score"), "one of path, total, entropy, not 'score'"),
    ],
)
def test_bad_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()
