"""vix.fit and pm.fit(method=vix...): results, callbacks, errors."""

import numpy as np
import pymc as pm
import pytest

from model_table import MODELS, Y
from pymc.variational import callbacks
from pymc.variational.approximations import MeanField
from pymc.variational.inference import KLqp
from pymc.variational.opvi import ParametrizationError
from pytensor.compile.mode import Mode
from pytensor.link.basic import PerformLinker

import pymc_vi_ext as vix

from pymc_vi_ext.inference import METHODS
from pymc_vi_ext.loop import nan_parameters

QUIET = {"backend": "jax", "progressbar": False}
# Compiles nothing.
PYTHON = Mode(linker="py", optimizer="fast_compile")


@pytest.fixture(scope="module")
def conjugate():
    return MODELS["conjugate"]()


def evidence_of_conjugate():
    covariance = np.ones((10, 10)) + np.eye(10)
    quadratic = Y @ np.linalg.solve(covariance, Y)
    return -0.5 * quadratic - 0.5 * np.linalg.slogdet(2 * np.pi * covariance).logabsdet


@pytest.mark.parametrize("backend", ["jax", "numba", "c"])
def test_known_posterior(conjugate, backend):
    """E1: mean sum(y) / 11, sd 1 / sqrt(11) = .301511, ELBO = log evidence.

    The posterior is in the family, where the gradient has no noise: the fit is exact up to what
    the rule lets pass. The ELBO has no noise either.
    """
    approx = vix.fit(model=conjugate, random_seed=1, backend=backend, progressbar=False)
    sd = 11**-0.5
    assert approx.report.converged
    assert approx.mean.eval()[0] == pytest.approx(Y.sum() / 11, abs=0.01 * sd)
    assert approx.std.eval()[0] == pytest.approx(sd, rel=0.01)
    tree = vix.to_datatree(approx, 1_000, random_seed=1)
    elbo = tree.sample_stats["lp"] - tree.sample_stats["log_q"]
    assert float(elbo.mean()) == pytest.approx(evidence_of_conjugate(), abs=1e-3)


def test_exactly_n_steps(conjugate):
    """E1 with a falling rate and the average of the second half, over exactly n steps."""
    approx = vix.fit(10_000, model=conjugate, random_seed=1, convergence=None, **QUIET)
    sd = 11**-0.5
    assert len(approx.hist) == approx.report.steps == 10_000
    assert approx.report.stop_reason is vix.StopReason.COMPLETED
    assert approx.mean.eval()[0] == pytest.approx(Y.sum() / 11, abs=0.01 * sd)
    assert approx.std.eval()[0] == pytest.approx(sd, rel=0.01)
    late = approx.hist[-2000:]
    assert -late.mean() == pytest.approx(
        evidence_of_conjugate(), abs=4 * late.std() / 2000**0.5 + 5e-3
    )


def test_mean_field_of_a_correlated_gaussian():
    """E2: sd sqrt(1 - r^2) = .6 and KL = -log(1 - r^2) / 2 = .510826."""
    approx = vix.fit(model=MODELS["correlated"](), random_seed=1, **QUIET)
    assert approx.report.converged
    # .05 nat short at most, the fit's tolerance: .16 in each of two logarithms if all is there.
    np.testing.assert_allclose(approx.std.eval(), 0.6, rtol=0.1)
    tree = vix.to_datatree(approx, 20_000, random_seed=1)
    gap = (tree.sample_stats["log_q"] - tree.sample_stats["lp"]).to_numpy()
    error = gap.std() / gap.size**0.5
    assert gap.mean() == pytest.approx(0.510826, abs=4 * error + 0.05)


def test_full_rank_reaches_the_evidence():
    """E4: the ELBO is log Z = 0, exactly and for each draw, at the optimum."""
    approx = vix.fit(method="FullRank_ADVI", model=MODELS["correlated"](), random_seed=1, **QUIET)
    np.testing.assert_allclose(approx.cov.eval(), [[1.0, 0.8], [0.8, 1.0]], atol=0.01)
    tree = vix.to_datatree(approx, 1_000, random_seed=1)
    elbo = tree.sample_stats["lp"] - tree.sample_stats["log_q"]
    assert float(elbo.mean()) == pytest.approx(0.0, abs=1e-3)


def test_svgd_moments(conjugate):
    approx = vix.fit(
        500,
        convergence=None,
        method="svgd",
        model=conjugate,
        random_seed=1,
        inf_kwargs={"n_particles": 200},
        **QUIET,
    )
    particles = approx.histogram.get_value()[:, 0]
    # The particles spread evenly: their mean is far closer than that of 200 random draws.
    assert particles.mean() == pytest.approx(Y.sum() / 11, abs=0.02)
    assert particles.std() == pytest.approx(11**-0.5, rel=0.1)
    assert approx.report.loss == "KSD"
    assert approx.hist[-1] < 0.1 * approx.hist[0]
    assert approx.report.steps == 500


def test_svgd_seed_fixes_the_particles(conjugate):
    def start(seed):
        return vix.SVGD(
            n_particles=5, model=conjugate, random_seed=seed
        ).approx.histogram.get_value()

    np.testing.assert_array_equal(start(1), start(1))
    assert not np.array_equal(start(1), start(2))


def test_pymc_entry_point(conjugate):
    with conjugate:
        approx = pm.fit(300, method=vix.ADVI(random_seed=1), backend="jax", progressbar=False)
    assert approx.report.backend == "jax"
    assert approx.report.seed == 1
    assert len(approx.hist) == 300
    with conjugate:
        again = vix.fit(300, convergence=None, random_seed=1, **QUIET)
    np.testing.assert_array_equal(again.hist, approx.hist)


def test_report(conjugate):
    report = vix.fit(50, convergence=None, model=conjugate, random_seed=3, **QUIET).report
    assert report.stop_reason is vix.StopReason.COMPLETED
    assert (report.steps, report.seed, report.backend) == (50, 3, "jax")
    timings = report.timings
    assert min(timings.graph_s, timings.compile_s, timings.run_s) > 0
    assert set(report.versions) >= {"pymc", "pytensor", "jax", "pymc_vi_ext"}


def test_callbacks_are_called_as_in_pymc(conjugate):
    seen = []

    def each(approx, losses, i):
        seen.append((i, len(losses), losses[-1], float(approx.params[0].get_value()[0])))

    approx = vix.fit(
        12, convergence=None, model=conjugate, random_seed=1, callbacks=[each], **QUIET
    )
    assert [s[0] for s in seen] == list(range(1, 13))
    assert [s[1] for s in seen] == list(range(1, 13))
    np.testing.assert_array_equal([s[2] for s in seen], approx.hist)
    assert len({s[3] for s in seen}) == 12


def test_every_sets_the_rhythm_of_the_engine(conjugate):
    calls = []

    class Every:
        def __init__(self, every):
            self.every = every

        def __call__(self, approx, losses, i):
            calls.append((self.every, i))

    vix.fit(20, convergence=None, model=conjugate, callbacks=[Every(6), Every(4)], **QUIET)
    assert calls == [(4, 4), (6, 6), (4, 8), (6, 12), (4, 12), (4, 16), (6, 18), (4, 20)]


def test_refine_extends_steps_and_losses(conjugate):
    seen = []
    inference = vix.ADVI(model=conjugate, random_seed=1)
    inference.fit(10, callbacks=[lambda approx, losses, i: seen.append((i, len(losses)))], **QUIET)
    inference.refine(5, progressbar=False)
    assert seen == [(i, i) for i in range(1, 16)]
    assert inference.approx.report.steps == 15
    assert len(inference.approx.hist) == 15


def test_refine_before_fit(conjugate):
    with pytest.raises(TypeError, match=r"Need to call `\.fit` first"):
        vix.ADVI(model=conjugate).refine(5)


def test_stop_iteration(conjugate):
    def stop(approx, losses, i):
        if i == 30:
            raise StopIteration("far enough")

    stop.every = 10
    approx = vix.fit(100, convergence=None, model=conjugate, callbacks=[stop], **QUIET)
    report = approx.report
    assert report.stop_reason is vix.StopReason.STOPPED
    assert (report.stopped_by, report.evidence, report.steps) == ("stop", "far enough", 30)
    assert len(approx.hist) == 29


def test_pymc_callbacks(conjugate):
    tracker = callbacks.Tracker(mean=lambda approx, losses, i: approx.mean.get_value()[0])
    convergence = callbacks.CheckParametersConvergence(every=50, tolerance=1e9)
    approx = vix.fit(
        500, convergence=None, model=conjugate, callbacks=[tracker, convergence], **QUIET
    )
    assert approx.report.stopped_by == "CheckParametersConvergence"
    assert len(tracker["mean"]) == approx.report.steps


def test_keyboard_interrupt_keeps_the_fit(conjugate):
    def interrupt(approx, losses, i):
        if i == 7:
            raise KeyboardInterrupt

    approx = vix.fit(100, convergence=None, model=conjugate, callbacks=[interrupt], **QUIET)
    assert approx.report.stop_reason is vix.StopReason.INTERRUPTED
    assert len(approx.hist) == 6


def test_callback_that_raises_loses_nothing(conjugate):
    def broken(approx, losses, i):
        if i == 9:
            raise ZeroDivisionError("oops")

    with pytest.raises(ZeroDivisionError, match="oops") as error:
        vix.fit(100, convergence=None, model=conjugate, callbacks=[broken], **QUIET)
    assert "the callback broken at step 9" in "".join(error.value.__notes__)
    approx = error.value.approx
    assert len(approx.hist) == 9
    assert approx.report.stop_reason is vix.StopReason.FAILED
    assert np.isfinite(approx.mean.eval()).all()


def test_score_off(conjugate):
    seen = []
    callback = lambda approx, losses, i: seen.append(losses)  # noqa: E731
    approx = vix.fit(
        5, convergence=None, model=conjugate, score=False, callbacks=[callback], **QUIET
    )
    assert seen == [None] * 5
    assert len(approx.hist) == 0


def test_zero_steps(conjugate):
    approx = vix.fit(0, convergence=None, model=conjugate, **QUIET)
    assert len(approx.hist) == approx.report.steps == 0


def test_start_and_start_sigma(conjugate):
    approx = vix.fit(
        0, convergence=None, model=conjugate, start={"mu": 2.5}, start_sigma={"mu": 0.2}, **QUIET
    )
    assert approx.mean.eval()[0] == 2.5
    assert approx.std.eval()[0] == pytest.approx(0.2)


def test_a_callback_that_sets_the_parameters_has_said_the_result(conjugate):
    """Neither the engine's state nor the optimizer's average takes their place."""

    def set_and_stop(approx, losses, i):
        for parameter in approx.params:
            parameter.set_value(np.array([0.25]))
        raise StopIteration("my own result")

    for convergence in ("default", None):
        approx = vix.fit(
            500, model=conjugate, callbacks=[set_and_stop], convergence=convergence, **QUIET
        )
        assert [p.get_value()[0] for p in approx.params] == [0.25, 0.25]


def test_contradictory_rules(conjugate):
    rules = [vix.callbacks.IterateRhat(), vix.callbacks.ReduceLROnPlateau()]
    with pytest.raises(ValueError, match="IterateRhat needs a constant learning rate, and Reduce"):
        vix.fit(10, model=conjugate, callbacks=rules, convergence=None, **QUIET)


def test_compile_kwargs_choose_a_pytensor_mode(conjugate):
    inference = vix.ADVI(model=conjugate)
    options = {"convergence": None, "compile_kwargs": {"mode": PYTHON}, "progressbar": False}
    assert vix.fit(3, method=inference, **options).report.steps == 3
    step = inference.session.prepared.loop._step
    assert type(step.maker.linker) is PerformLinker
    with pytest.raises(ValueError, match="compile_kwargs, and modes for JAX of one's own"):
        vix.fit(3, convergence=None, model=conjugate, compile_kwargs={"profile": True}, **QUIET)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "avdi"}, ValueError, "Unknown method 'avdi': the known ones are advi, asvgd"),
        ({"method": "avdi"}, KeyError, "studentt_advi, svgd"),
        ({"method": 3}, TypeError, "`method` is a name"),
        ({"backend": "tpu"}, ValueError, "Unknown backend 'tpu': the known ones are auto, c, jax"),
        ({"n": -1}, ValueError, "whole number from 0"),
        ({"n": 2.5}, ValueError, "whole number from 0"),
        ({"obj_n_mc": 0}, ValueError, "`obj_n_mc` counts draws"),
        ({"learning_rate": -1.0}, ValueError, "learning rate must be positive"),
        (
            {"learning_rate": 0.1, "obj_optimizer": pm.adam()},
            ValueError,
            "Give either `learning_rate`",
        ),
        ({"convergence": "soon"}, ValueError, "Unknown stopping rule 'soon'"),
        ({"callbacks": [3]}, TypeError, "A callback is called as"),
        ({"method": "svgd", "start_sigma": {"mu": 1.0}}, NotImplementedError, '"advi" only'),
        ({"method": "svgd", "inf_kwargs": {"n_particles": 1}}, ValueError, "from 2, not 1"),
        ({"obj_nmc": 2}, TypeError, "no option 'obj_nmc': did you mean 'obj_n_mc'"),
        ({"call_backs": []}, TypeError, "no option 'call_backs': did you mean 'callbacks'"),
        ({"zzz": 1}, TypeError, "no option 'zzz': it has callbacks, compile_kwargs"),
        ({"fn_kwargs": {}, "compile_kwargs": {"profile": True}}, TypeError, "`fn_kwargs` is the"),
        ({"start": {"nu": 1.0}}, KeyError, "variable in `start` 'nu': the known ones are mu"),
        ({"start": {"mu": [1.0, 2.0]}}, ValueError, r"mu the shape \(2,\), and the model \(\)"),
        ({"start": {"nu": 1.0}, "method": "bam"}, ValueError, "variable in `start` 'nu'"),
        ({"start_sigma": {"nu": 1.0}}, ValueError, "in `start_sigma` 'nu': the known ones are mu"),
        ({"start_sigma": {"mu": [1.0, 2.0]}}, ValueError, r"mu the shape \(2,\), and on the"),
        ({"start_sigma": {"mu": 0.0}}, ValueError, "standard deviations, and that of mu is 0"),
        (
            {"backend": "numba", "compile_kwargs": {"mode": "CVM"}},
            ValueError,
            "which is c's, ask for different backends: leave one of them out",
        ),
    ],
)
def test_bad_options(conjugate, options, error, message):
    options = {"n": 5, "progressbar": False} | options
    with pytest.raises(error, match=message):
        vix.fit(model=conjugate, **options)


def test_bad_every(conjugate):
    def callback(approx, losses, i):
        pass

    callback.every = 0
    with pytest.raises(ValueError, match=r"callback\.every must be a whole number of steps"):
        vix.fit(5, convergence=None, model=conjugate, callbacks=[callback], **QUIET)


def test_options_of_a_name_given_with_an_object(conjugate):
    with pytest.raises(ValueError, match="start: options for building a method by name"):
        vix.fit(5, convergence=None, method=vix.ADVI(model=conjugate), start={"mu": 1.0}, **QUIET)


@pytest.mark.parametrize("method", METHODS)
def test_discrete_variables_are_named(method):
    with pm.Model() as model:
        pm.Poisson("count", 3.0)
        pm.Bernoulli("flag", 0.5)
        pm.Normal("x")
    with pytest.raises(
        ParametrizationError, match="Discrete variables are not supported by VI: count, flag"
    ):
        vix.fit(5, convergence=None, method=method, model=model, **QUIET)


@pytest.mark.parametrize("method", METHODS)
def test_model_without_free_variables(method):
    with pm.Model() as model:
        pm.Normal("y", 0.0, 1.0, observed=1.0)
    with pytest.raises(TypeError, match="no free variables"):
        vix.fit(5, convergence=None, method=method, model=model, **QUIET)


@pytest.mark.parametrize("fit", [vix.fit, vix.ADVI.fit], ids=["fit", "method"])
def test_unknown_options_show_at_once(conjugate, fit):
    """None is a value as any other: the word is wrong."""
    options = {"model": conjugate} if fit is vix.fit else {"self": vix.ADVI(model=conjugate)}
    with pytest.raises(TypeError, match="no option 'obj_optimiser': did you mean 'obj_optimizer'"):
        fit(n=5, obj_optimiser=None, **options, **QUIET)


@pytest.mark.parametrize(
    ("backend", "mode", "ran"),
    [
        ("auto", "NUMBA", "numba"),
        ("numba", "NUMBA", "numba"),
        (None, "JAX", "jax"),
        ("auto", PYTHON, "python"),
        ("c", "CVM", "c"),
    ],
)
def test_a_mode_names_the_backend(conjugate, backend, mode, ran):
    approx = vix.fit(
        2,
        convergence=None,
        model=conjugate,
        backend=backend,
        compile_kwargs={"mode": mode},
        progressbar=False,
    )
    assert approx.report.backend == ran


def test_pymcs_old_name_of_compile_kwargs(conjugate):
    with pytest.warns(DeprecationWarning, match="use `compile_kwargs`"):
        approx = vix.fit(
            2,
            convergence=None,
            model=conjugate,
            fn_kwargs={"mode": PYTHON},
            progressbar=False,
        )
    assert approx.report.backend == "python"


@pytest.mark.parametrize(("score", "losses"), [(None, 5), (True, 5), (False, 0)])
def test_losses_are_recorded_unless_declined(conjugate, score, losses):
    approx = vix.fit(5, convergence=None, model=conjugate, score=score, **QUIET)
    assert len(approx.hist) == losses


def test_starting_scales_by_either_name():
    """PyMC ignores those of a transformed variable's own name."""
    with pm.Model() as model:
        pm.Normal("x", shape=(2, 2))
        pm.HalfNormal("s")
    for name in ("s", "s_log__"):
        sigmas = {"x": np.arange(1.0, 5.0).reshape(2, 2), name: 0.1}
        std = vix.ADVI(model=model, start_sigma=sigmas).approx.std.eval()
        np.testing.assert_allclose(std, [1.0, 2.0, 3.0, 4.0, 0.1], rtol=1e-6)


def test_nan_parameters_of_every_shape():
    approx = MeanField(model=MODELS["data_and_dims"]())
    assert nan_parameters(approx) == []
    value = approx.params[0].get_value()
    value[[1, 3]] = np.nan
    approx.params[0].set_value(value)
    first, second = nan_parameters(approx)
    assert "`b`.ravel()[1]" in first
    assert "`sigma_log__`.ravel()[0]" in second
    full = vix.FullRankADVI(model=MODELS["correlated"]()).approx
    full.params[0].set_value(np.full(3, np.nan))
    assert "`L_tril`" in nan_parameters(full)[0]


def test_foreign_inference_keeps_its_own_defaults(conjugate):
    """500 draws, as PyMC's ASVGD has in its own `fit`."""

    def fitted(**draws):
        with pytest.warns(UserWarning, match="experimental inference Operator"):
            inference = pm.ASVGD(model=conjugate)
        options = {"convergence": None, "compile_kwargs": {"mode": PYTHON}, "random_seed": 1}
        approx = vix.fit(1, method=inference, progressbar=False, **options, **draws)
        assert approx.report.steps == 1
        return np.concatenate([p.get_value() for p in approx.params])

    own = fitted()
    np.testing.assert_array_equal(own, fitted(obj_n_mc=500))
    assert (own != fitted(obj_n_mc=400)).all()


def test_temperature_of_the_prior(conjugate):
    """KLqp(beta=0) leaves the likelihood alone, whose best Gaussian is a point."""
    inference = KLqp(MeanField(model=conjugate), beta=0.0)
    approx = vix.fit(3000, convergence=None, method=inference, random_seed=1, **QUIET)
    assert approx.std.eval()[0] < 0.1
    assert approx.mean.eval()[0] == pytest.approx(Y.mean(), abs=0.05)
