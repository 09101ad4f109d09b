"""What PyMC's users rely on of a fit, through each of the three ways to one.

``vix.fit`` by name, PyMC's own ``fit`` of this package's methods, and ``vix.fit`` of PyMC's.
"""

from contextlib import nullcontext

import cloudpickle
import numpy as np
import pymc as pm
import pytest

from pymc.model.transform.basic import remove_minibatched_nodes
from pymc.variational import callbacks
from pymc.variational.inference import KLqp

import pymc_vi_ext as vix

# What PyMC says of its own ASVGD.
pytestmark = pytest.mark.filterwarnings("ignore:You are using experimental inference")

WAYS = ("by name", "ours", "PyMC's")
CLASSES = {"advi": "ADVI", "fullrank_advi": "FullRankADVI", "svgd": "SVGD", "asvgd": "ASVGD"}
DATA = np.random.default_rng(7).normal(-5.0, 3.0, size=60)
# Of the mean of DATA, whose standard deviation is 3, with the prior N(4, 2).
PRECISION = len(DATA) / 9 + 1 / 4
MEAN, SD = (DATA.sum() / 9 + 1) / PRECISION, PRECISION**-0.5


def model_of(data):
    with pm.Model() as model:
        mu = pm.Normal("mu", 4.0, 2.0, initval=0.0)
        pm.Normal("y", mu, 3.0, observed=data, total_size=len(DATA))
    return model


def inference_of(way, method, model, **init):
    module = vix if way == "ours" else pm
    return getattr(module, CLASSES[method])(model=model, random_seed=1, **init)


def fit(way, method, model, n, *, init=None, **options):
    options = {"progressbar": False, "backend": "jax"} | options
    init = init or {}
    if way == "by name":
        return vix.fit(
            n, method, model, random_seed=1, inf_kwargs=init, convergence=None, **options
        )
    inference = inference_of(way, method, model, **init)
    if way == "ours":
        return pm.fit(n, inference, model, **options)
    return vix.fit(n, inference, convergence=None, random_seed=1, **options)


@pytest.mark.parametrize(
    ("way", "method"),
    [
        *((way, "advi") for way in WAYS),
        ("ours", "fullrank_advi"),
        ("PyMC's", "fullrank_advi"),
        ("by name", "svgd"),
        ("PyMC's", "asvgd"),
    ],
)
def test_the_posterior(way, method):
    """Of 10,000 draws, where they are drawn and not particles."""
    options = {
        "advi": {"n": 2_000},
        "fullrank_advi": {"n": 2_000},
        "svgd": {"n": 500, "init": {"n_particles": 200}},
        "asvgd": {"n": 500, "obj_n_mc": 100},
    }[method]
    approx = fit(way, method, model_of(DATA), **options)
    # Out of the model's context.
    mu = approx.sample(10_000, random_seed=1).posterior["mu"]
    assert mu.shape == (1, 10_000)
    assert float(mu.mean()) == pytest.approx(MEAN, abs=0.2 * SD)
    assert float(mu.std()) == pytest.approx(SD, rel=0.2)
    assert float(approx.mean_data["mu"]) == pytest.approx(MEAN, abs=0.2 * SD)
    assert float(approx.std_data["mu"]) == pytest.approx(SD, rel=0.2)


@pytest.mark.parametrize("way", ["ours", "PyMC's"])
def test_the_posterior_from_minibatches(way):
    batch = pm.Minibatch(DATA, batch_size=30)
    approx = fit(way, "advi", model_of(batch), 4_000, learning_rate=0.02)
    assert approx.mean.eval()[0] == pytest.approx(MEAN, abs=0.3 * SD)
    assert approx.std.eval()[0] == pytest.approx(SD, rel=0.2)


@pytest.mark.parametrize(("way", "backend"), [("ours", "c"), ("PyMC's", "numba")])
def test_other_backends_give_the_same_start(way, backend):
    """A step of no length leaves the start, and its loss is the one that JAX computes."""
    sgd = pm.sgd(learning_rate=0.0)
    model = model_of(DATA)
    approx = fit(way, "advi", model, 2, backend=backend, obj_optimizer=sgd, obj_n_mc=2_000)
    other = fit(way, "advi", model, 2, obj_optimizer=sgd, obj_n_mc=2_000)
    assert approx.report.backend == backend
    assert approx.mean.eval()[0] == 0.0
    np.testing.assert_allclose(approx.hist.mean(), other.hist.mean(), rtol=0.02)


@pytest.mark.parametrize("way", ["ours", "PyMC's"])
@pytest.mark.parametrize("score", [False, None])
def test_scores(way, score):
    inference = inference_of(way, "advi", model_of(DATA))
    run = inference.fit if way == "ours" else lambda n, **kw: vix.fit(n, inference, **kw)
    options = {"convergence": None, "progressbar": False, "backend": "jax", "score": score}
    run(5, **options)
    run(3, **options)
    assert len(inference.hist) == 8 * (score is not False)
    inference.refine(2, progressbar=False)
    assert len(inference.hist) == 10 * (score is not False)


@pytest.mark.parametrize(("way", "score"), [("by name", True), ("ours", False), ("PyMC's", True)])
def test_a_loss_that_is_no_number(way, score):
    optimizer = pm.adam(learning_rate=float("nan"))
    with pytest.raises(FloatingPointError, match="NaN occurred in optimization"):
        fit(way, "advi", model_of(DATA), 20, score=score, obj_optimizer=optimizer)


@pytest.mark.parametrize(
    ("method", "init"),
    [
        ("advi", {"start": {"mu": 17.0}, "start_sigma": {"mu": 13.0}}),
        ("fullrank_advi", {"start": {"mu": 17.0}}),
        ("svgd", {"start": {"mu": 17.0}, "jitter": 0.1}),
    ],
)
@pytest.mark.parametrize("way", ["by name", "PyMC's"])
def test_starts(way, method, init):
    approx = fit(way, method, model_of(DATA), 0, init=init)
    assert approx.mean.eval(mode="FAST_COMPILE")[0] == pytest.approx(17.0, abs=0.1)
    if "start_sigma" in init:
        assert approx.std.eval(mode="FAST_COMPILE")[0] == pytest.approx(13.0, rel=1e-6)


@pytest.mark.parametrize(
    ("method", "options", "error"),
    [
        ("undefined", {}, KeyError),
        ("nfvi=bad-formula", {"start": {}}, KeyError),
        (1, {}, TypeError),
        ("asvgd", {"start": {}}, TypeError),
        ("fullrank_advi", {"start_sigma": {"mu": 1.0}}, NotImplementedError),
        ("ADVI", {"total_grad_norm_constraint": 10}, None),
        ("svgd", {"start": {}, "total_grad_norm_constraint": 10}, None),
    ],
)
def test_names_and_their_options(method, options, error):
    with nullcontext() if error is None else pytest.raises(error):
        vix.fit(5, method, model_of(DATA), convergence=None, progressbar=False, **options)


@pytest.mark.parametrize("way", WAYS)
def test_callbacks(way):
    """PyMC's own: what is shown of each step, and a stop where parameters stand still.

    The check sees every tenth step, where PyMC shows it the first one too: it stops at its second.
    The loss of the step at which a callback stops a fit is not in its history.
    """
    tracker = callbacks.Tracker(loss=lambda approx, losses, i: losses[-1], i=lambda *t: t[-1])
    still = callbacks.CheckParametersConvergence(every=10, tolerance=1e-9, diff="absolute")
    approx = fit(
        way,
        "advi",
        model_of(DATA),
        50,
        callbacks=[tracker, still],
        obj_optimizer=pm.sgd(learning_rate=0.0),
    )
    assert tracker["i"] == list(range(1, 21))
    np.testing.assert_array_equal(tracker["loss"][:-1], approx.hist)


@pytest.mark.parametrize("diff", ["relative", "absolute"])
@pytest.mark.parametrize("order", [1, 2, np.inf])
@pytest.mark.parametrize("module", [callbacks, vix.callbacks], ids=["PyMC's", "ours"])
def test_parameters_that_stand_still(module, order, diff):
    approx = vix.ADVI(model=model_of(DATA), start={"mu": 1.0}).approx
    approx.params[1].set_value(np.ones(1))
    check = module.CheckParametersConvergence(every=1, diff=diff, ord=order)
    check(approx, None, 1)
    with pytest.raises(StopIteration):
        check(approx, None, 10)


@pytest.mark.parametrize("module", [callbacks, vix.callbacks], ids=["PyMC's", "ours"])
def test_trackers_of_steps_from_0(module):
    tracker = module.Tracker(last=lambda *given: given[-1], i=lambda approx, losses, i: i)
    for i in range(10):
        tracker(None, None, i)
    assert tracker["last"] == tracker["i"] == list(range(10))
    tracker.clear()
    assert not tracker.hist.get("i")


def test_a_fit_can_be_copied():
    """The copy has draws, and is fitted on."""
    # Bytes of this very line: nothing is loaded that came from elsewhere.
    approx = cloudpickle.loads(cloudpickle.dumps(fit("by name", "advi", model_of(DATA), 5)))
    assert approx.sample(3).posterior["mu"].shape == (1, 3)
    report = vix.fit(5, KLqp(approx), convergence=None, progressbar=False).report
    assert report.steps == 5


def test_the_same_seed_gives_the_same_fit():
    with pm.Model() as model:
        pm.Normal("x", 0.0, 10.0, initval="prior")
    means = [
        vix.fit(5, model=model, random_seed=42, convergence=None, progressbar=False).mean.eval()
        for _ in range(2)
    ]
    assert means[0] == means[1]


def test_draws_of_all_data_after_a_fit_of_minibatches():
    with pm.Model(coords={"row": [0, 1, 2]}) as model:
        x = pm.Data("x", [1.0, 2.0, 3.0], dims="row")
        y = pm.Data("y", [1.0, 2.0, 3.0], dims="row")
        x_batch, y_batch = pm.Minibatch(x, y, batch_size=2)
        slope = pm.Normal("slope", 0.0, 10.0)
        line = pm.Deterministic("line", slope * x_batch, dims="row")
        pm.Normal("obs", line, 0.1, observed=y_batch, total_size=3, dims="row")
        approx = vix.fit(10, convergence=None, progressbar=False)
    with remove_minibatched_nodes(model):
        draws = approx.sample(20)
    assert draws.posterior["slope"].shape == (1, 20)
    assert draws.constant_data["x"].shape == draws.observed_data["obs"].shape == (3,)


def test_labels_of_means_and_standard_deviations():
    with pm.Model(coords={"city": list("ab"), "year": [1, 2, 3]}) as model:
        scale = pm.HalfNormal("scale")
        pm.Normal("level", 0.0, scale, dims=("city", "year"))
    approx = vix.fit(1, model=model, convergence=None, progressbar=False)
    for values in (approx.mean_data, approx.std_data):
        assert set(values) == {"scale_log__", "level"}
        assert values["level"].dims == ("city", "year")
        assert values["level"].coords["city"].values.tolist() == ["a", "b"]
