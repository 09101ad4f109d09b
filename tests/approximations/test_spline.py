"""The spline of a flow where its bins meet, and its layers as a loop."""

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pymc_vi_ext.approximations import FlowGroup
from pymc_vi_ext.approximations._algebra import normal_log_density, unpacked
from pymc_vi_ext.approximations.flow import spline
from pymc_vi_ext.engine.python_mode import PYTHON_MODE
from pymc_vi_ext.python_only import python_only

BINS, LEAST = 6, 1e-3


def bins_of(raw):
    """Return knots, levels and slopes at the knots, (n, 7), of raw numbers, (n, 17)."""

    def edges(logits):
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        sizes = 10 * (LEAST + (1 - BINS * LEAST) * shares)
        return np.pad(np.cumsum(sizes, axis=1), ((0, 0), (1, 0))) - 5

    inner = LEAST + np.logaddexp(0.0, raw[:, 2 * BINS :] + np.log(np.expm1(1 - LEAST)))
    slopes = np.pad(inner, ((0, 0), (1, 1)), constant_values=1.0)
    return edges(raw[:, :BINS]), edges(raw[:, BINS : 2 * BINS]), slopes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_spline_on_its_knots(dtype):
    """Finite, monotone, and of the levels and slopes that the knots have."""
    raw = np.random.default_rng(0).normal(size=(400, 3 * BINS - 1)).astype(dtype)
    knots, levels, slopes = (part[..., None] for part in bins_of(raw.astype(float)))
    # The spline's own knots are these but for rounding: every number near them is an input.
    around = np.arange(-8, 9) * np.spacing(np.array(4.0, dtype))
    x = (knots.astype(dtype) + around.astype(dtype)).astype(dtype)
    with pytensor.config.change_flags(floatX=dtype):
        inputs, numbers = pt.matrix("x"), pt.tensor3("raw")
        outputs = spline(inputs, numbers)
        function = pytensor.function([inputs, numbers], outputs, mode="FAST_COMPILE")
    rows = np.repeat(raw, x[0].size, axis=0).T[None]
    y, log_slopes = (v.reshape(x.shape) for v in function(x.reshape(1, -1), rows))
    assert y.dtype == dtype
    assert np.isfinite(y).all()
    assert np.isfinite(log_slopes).all()
    eps = np.finfo(dtype).eps
    assert np.diff(y, axis=-1).min() >= -8 * eps
    assert (abs(y - levels) < 64 * eps * (1 + 5 * slopes)).all()
    # In a narrow bin the slope changes much over a few numbers.
    np.testing.assert_allclose(np.exp(log_slopes), np.broadcast_to(slopes, x.shape), rtol=4e5 * eps)


# An odd number of variables makes rounds of two couplings, of which one may be left over.
@pytest.mark.parametrize(
    ("kind", "d", "couplings"),
    [("spline", 5, 3), ("affine", 4, 3), ("planar", 3, 2), ("spline", 1, 1)],
)
def test_layers_in_a_loop_are_those_one_after_the_other(kind, d, couplings):
    """Draws and log q, and the gradient of both, agree within rounding."""
    with pm.Model() as model:
        pm.Normal("x", shape=d)
    options = {"kind": kind, "couplings": couplings, "width": 3, "random_seed": 1}
    group = FlowGroup(model.free_RVs, model=model, **options)
    rng = np.random.default_rng(1)
    weights = group.params_dict["weights"]
    start = weights.get_value()
    weights.set_value(start + 0.3 * rng.normal(size=start.shape))
    noise = group.symbolic_initial
    x, log_det, used = noise.T, 0.0, 0
    for layer in group._layers.layers:
        own = weights[used : used + layer.size]
        x, more = layer.apply(x, own, pt.constant(layer.places))
        log_det, used = log_det + more, used + layer.size
    assert used == start.size
    identity = unpacked(group.params_dict["L_tril"], d)
    z = group.params_dict["mu"] + x.T.dot(identity.T)
    logq = normal_log_density(noise) - log_det - pt.sum(pt.log(pt.diagonal(identity)))
    looped = [group.symbolic_random, group.symbolic_logq_not_scaled]
    one_by_one = [z, logq]
    across = pt.constant(rng.normal(size=d))
    both = [
        [*pair, pytensor.grad(pt.sum(pair[0].dot(across) * pair[1]), weights)]
        for pair in (looped, one_by_one)
    ]
    with python_only():
        function = pytensor.function([noise], both[0] + both[1], mode=PYTHON_MODE)
    found = function(2 * rng.normal(size=(30, d)).astype(noise.dtype))
    for ours, theirs in zip(found[:3], found[3:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10 * abs(theirs).max())
