"""However a fit ends: which parameters it leaves, and which losses."""

import numpy as np
import pymc as pm
import pytest

from model_table import MODELS

import pymc_vi_ext as vix

from pymc_vi_ext.approximations.parameters import flat_parameters
from pymc_vi_ext.callbacks import EarlyStopping, StagedStop

QUIET = {"backend": "jax", "progressbar": False}


@pytest.fixture(scope="module")
def conjugate():
    return MODELS["conjugate"]()


class End:
    """Raises `error` at a step."""

    def __init__(self, step, error):
        self.every, self.error = step, error

    def __call__(self, approx, losses, i):
        self.iterate = flat_parameters(approx)
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StopIteration("enough"), "stopped"),
        (KeyboardInterrupt(), "interrupted"),
        (ZeroDivisionError("broken"), "failed"),
    ],
)
def test_every_end_gives_the_rules_average(conjugate, error, reason):
    """The last iterate scatters; whoever ends the fit, its result is what the rule averaged."""
    rule, end = StagedStop(), End(150, error)
    try:
        approx = vix.fit(model=conjugate, random_seed=1, convergence=rule, callbacks=[end], **QUIET)
    except ZeroDivisionError as failure:
        approx = failure.approx
    assert approx.report.stop_reason.value == reason
    np.testing.assert_array_equal(flat_parameters(approx), rule.average())
    assert (flat_parameters(approx) != end.iterate).all()


def test_a_nan_gives_the_average_of_what_came_before(conjugate):
    def spoil(approx, losses, i):
        approx.params[0].set_value(np.full(1, np.nan))

    spoil.every = 140
    rule = StagedStop()
    rule.recover = lambda *_: False
    with pytest.raises(FloatingPointError, match="`mu`") as error:
        vix.fit(model=conjugate, random_seed=1, convergence=rule, callbacks=[spoil], **QUIET)
    approx = error.value.approx
    assert approx.report.stop_reason is vix.StopReason.NOT_FINITE
    np.testing.assert_array_equal(flat_parameters(approx), rule.average())


def test_a_callback_that_sets_the_parameters_has_the_last_word(conjugate):
    rule = EarlyStopping(lambda approx, losses, i: i, patience=5, every=50)
    seen = []

    def look(approx, losses, i):
        seen.append(flat_parameters(approx))

    look.every = 50
    approx = vix.fit(model=conjugate, random_seed=1, callbacks=[look, rule], **QUIET)
    assert approx.report.stopped_by == "EarlyStopping"
    np.testing.assert_array_equal(flat_parameters(approx), seen[0])


@pytest.mark.parametrize("step", [200, 800])
def test_without_a_rule_the_optimizers_average_counts_from_half_of_the_steps(conjugate, step):
    end = End(step, StopIteration())
    approx = vix.fit(
        1000, model=conjugate, random_seed=1, convergence=None, callbacks=[end], **QUIET
    )
    moved = flat_parameters(approx) != end.iterate
    assert moved.all() if step > 500 else not moved.any()


@pytest.mark.parametrize("error", [StopIteration, KeyboardInterrupt])
@pytest.mark.parametrize("step", [1, 10])
def test_as_many_losses_as_pymc(conjugate, error, step):
    """Also in a second `fit` of the same object, and after `refine`."""

    def lengths(inference, **options):
        found = []

        def end(approx, losses, i):
            if i == step:
                raise error

        for _ in range(2):
            inference.fit(30, callbacks=[end], progressbar=False, **options)
            found.append(len(inference.hist))
        inference.refine(30, progressbar=False)
        return [*found, len(inference.hist)]

    with conjugate:
        expected = lengths(pm.ADVI(random_seed=1), backend="c")
        method = vix.ADVI(random_seed=1)
        found = lengths(method)
    # PyMC counts the step that was ended again, at which the callback ends this again.
    assert found[:2] == expected[:2] == [step - 1, 2 * (step - 1)]
    assert found[2] == found[1] + 30
    assert method.approx.report.steps == step + 30
    assert len(method.session.losses) == step + 30
