"""Where fits begin, and methods that take no steps."""

import numpy as np
import pymc as pm
import pytest

import pymc_vi_ext as vix

from pymc_vi_ext.approximations._algebra import softplus_inverse

QUIET = {"progressbar": False}
COV = np.array([[1.0, 0.6], [0.6, 0.5]])


@pytest.fixture(scope="module")
def model():
    """A Gaussian posterior, of a scalar and a vector, whose initial point is not its mode."""
    with pm.Model() as model:
        x = pm.Normal("x", 3.0, 1.0, initval=0.0)
        pm.Normal("y", 1.0 + 0.6 * (x - 3.0), np.sqrt(0.5 - 0.36), shape=1, initval=[5.0])
    return model


@pytest.fixture(scope="module")
def fitted(model):
    return vix.fit(method="fullrank_advi", model=model, random_seed=1, **QUIET)


def begun(model, start, method="fullrank_advi", **options):
    return vix.fit(
        0, method, model, random_seed=1, start=start, convergence=None, **options, **QUIET
    )


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("advi", {}),
        ("fullrank_advi", {}),
        ("lowrank_advi", {"rank": 1}),
        ("studentt_advi", {}),
        ("mixture_advi", {"K": 1, "full_rank": True}),
        ("flow_advi", {"kind": "planar", "couplings": 1}),
        ("svgd", {"n_particles": 5_000}),
    ],
)
def test_laplace_as_a_start_of_every_family(model, method, options):
    approx = begun(model, "laplace", method, inf_kwargs=options)
    sds = np.sqrt(np.diag(COV if method != "advi" else np.diag(1 / np.diag(np.linalg.inv(COV)))))
    # Five standard errors of means and standard deviations: of as many particles, and of the 2,000
    # draws that a flow takes its standard deviations from.
    n = {"svgd": 5_000, "flow_advi": 2_000}.get(method, np.inf)
    mean_error = 5 / n**0.5 if method == "svgd" else 1e-4
    # A low-rank covariance keeps something on its diagonal.
    sd_error = 0.02 if method == "lowrank_advi" else 5 / (2 * n) ** 0.5 + 1e-4
    np.testing.assert_allclose(approx.mean.eval(mode="FAST_COMPILE"), [3.0, 1.0], atol=mean_error)
    np.testing.assert_allclose(approx.std.eval(mode="FAST_COMPILE"), sds, rtol=sd_error)


def test_map_moves_the_means_and_keeps_the_scales(model):
    approx = begun(model, "map")
    np.testing.assert_allclose(approx.mean.eval(), [3.0, 1.0], atol=1e-4)
    np.testing.assert_allclose(approx.std.eval(), np.log1p(np.exp(1.0)), rtol=1e-6)


def test_prior_draws_differ_by_seed(model):
    means = [
        vix.fit(0, "advi", model, seed, start="prior", convergence=None, **QUIET).mean.eval()
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(means[0], means[1])
    assert (means[0] != means[2]).all()


def test_from_an_approximation(model, fitted):
    same = begun(model, fitted)
    np.testing.assert_array_equal(same.cov.eval(), fitted.cov.eval())
    larger = begun(model, fitted, "studentt_advi")
    # The other's mean and covariance are those of 4,000 draws.
    np.testing.assert_allclose(larger.cov.eval(), fitted.cov.eval(), atol=0.15)


def test_from_a_datatree_and_empirical(model, fitted):
    tree = vix.to_datatree(fitted, 2_000, random_seed=3)
    approx = begun(model, tree)
    np.testing.assert_allclose(approx.cov.eval(), COV, atol=0.15)
    particles = vix.Empirical(tree, model=model)
    ours = vix.to_datatree(particles, 20_000, random_seed=1).posterior
    assert float(ours.x.mean()) == pytest.approx(float(tree["posterior"].x.mean()), abs=0.05)
    assert ours.y.shape == (1, 20_000, 1)
    with pytest.raises(ValueError, match="no draws of y"):
        begun(model, _without_y(tree))


def _without_y(tree):
    import xarray as xr

    return xr.DataTree.from_dict({"posterior": tree["posterior"].to_dataset().drop_vars("y")})


def test_groups_take_their_own_part(model):
    approx = begun(model, "laplace", "advi", groups={"full_rank": ["y"], "mean_field": ["x"]})
    by_name = {
        name: group.params_dict["mu"].get_value()[0]
        for group in approx.groups
        for name in group.ordering
    }
    assert by_name == pytest.approx({"y": 1.0, "x": 3.0}, abs=1e-4)


def test_laplace_as_a_method(model):
    approx = vix.fit(method="laplace", model=model, **QUIET)
    np.testing.assert_allclose(approx.cov.eval(), COV, rtol=1e-5)
    assert approx.report.steps == 0
    # Exact for a Gaussian: log Z = 0.
    assert "log of the mass" in approx.report.evidence
    with pytest.raises(ValueError, match="takes no steps: leave out learning_rate"):
        vix.fit(method="laplace", model=model, learning_rate=0.1, **QUIET)


def test_pathfinder_as_a_method_and_a_start(model):
    pytest.importorskip("pymc_extras", reason="needs a PyMC that it admits")
    approx = vix.fit(method="pathfinder", model=model, random_seed=1, **QUIET)
    assert approx.mean.eval()[0] == pytest.approx(3.0, abs=0.3)
    started = begun(model, "pathfinder")
    assert started.mean.eval()[0] == pytest.approx(3.0, abs=0.3)


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [
        ("posterior", ValueError, "Unknown start 'posterior': the known ones are laplace, map"),
        (3, TypeError, "`start` is values by name"),
    ],
)
def test_bad_starts(model, start, error, message):
    with pytest.raises(error, match=message):
        begun(model, start)


def test_starts_that_a_model_has_not():
    with pm.Model() as flat:
        pm.Flat("slope")
        pm.Potential("rise", flat["slope"] * 0.0)
    with pytest.raises(ValueError, match="slope has an improper prior"):
        begun(flat, "prior")
    with pytest.raises(ValueError, match="No proper mode"):
        begun(flat, "map")


def test_components_stay_at_their_modes():
    with pm.Model() as model:
        pm.NormalMixture("x", w=[0.3, 0.7], mu=[-3.0, 3.0], sigma=0.5)
    approx = begun(model, "map", "mixture_advi")
    means = approx.groups[0].params_dict["mu"].get_value()[:, 0]
    np.testing.assert_allclose(sorted(means), [-3.0, 3.0], atol=1e-3)


def test_softplus_inverse():
    x = np.array([1e-3, 1.0, 30.0, 1e5])
    np.testing.assert_allclose(np.logaddexp(0, softplus_inverse(x)), x, rtol=1e-9)
