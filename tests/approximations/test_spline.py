"""The spline of a flow where its bins meet, and its layers as a loop, in PyTensor and in JAX."""

import jax
import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import pytest

from pytensor.compile.mode import Mode

from pymc_vi_ext.approximations import FlowGroup
from pymc_vi_ext.approximations._algebra import normal_log_density, unpacked
from pymc_vi_ext.approximations._flow_ops import Along, Back
from pymc_vi_ext.approximations._layers import Coupling, spline
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


def couplings_at(kind, d, couplings, width=3, draws=40, dtype="float64"):
    """Return inputs of both operations: noise, weights, and gradients in what comes of them."""
    rng = np.random.default_rng(2)
    layers = [Coupling(kind, d, i, width) for i in range(couplings)]
    weights = np.concatenate([layer.start(rng) for layer in layers])
    weights += 0.5 * rng.normal(size=weights.shape)
    # Some draws beyond the spline.
    noise = 3 * rng.normal(size=(d, draws))
    given = noise, weights, rng.normal(size=(d, draws)), rng.normal(size=draws)
    return [part.astype(dtype) for part in given]


def as_graphs(kind, d, couplings, of_both, width=3, mode=PYTHON_MODE):
    """Return a function of what PyTensor makes of the operations: all but what is left behind."""
    noise, weights, of_draws = pt.matrix("noise"), pt.vector("weights"), pt.matrix("of_draws")
    of_log_det = pt.vector("of_log_det")
    draws, log_det, gradient, *_ = Along(kind, d, couplings, width)(noise, weights)
    cost = pt.sum(draws * of_draws) + (pt.sum(log_det * of_log_det) if of_both else 0.0)
    outputs = [draws, log_det, gradient, *pt.grad(cost, [noise, weights])]
    inputs = [noise, weights, of_draws, of_log_det]
    with python_only():
        return pytensor.function(inputs, outputs, mode=mode, on_unused_input="ignore")


def in_jax(kind, d, couplings, of_both, given, width=3):
    """Return the same of JAX's functions."""
    noise, weights, *gradients = given
    with jax.enable_x64(True):
        along = jax.jit(Along(kind, d, couplings, width).jax_function())
        back = jax.jit(Back(kind, d, couplings, width, of_both).jax_function())
        found = along(noise, weights)
        gradients = gradients[: 1 + of_both]
        found = [*found[:3], *back(noise, weights, *gradients, *found[3:])]
    return [np.asarray(one) for one in found]


@pytest.mark.parametrize(
    ("kind", "d", "couplings", "of_both"),
    [
        ("spline", 5, 3, True),
        ("spline", 4, 2, False),
        ("affine", 3, 2, True),
        ("spline", 1, 1, True),
    ],
)
def test_couplings_in_jax_are_those_of_the_graph(kind, d, couplings, of_both):
    given = couplings_at(kind, d, couplings)
    ours = in_jax(kind, d, couplings, of_both, given)
    theirs = as_graphs(kind, d, couplings, of_both)(*given)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10 * abs(other).max())


def test_couplings_in_float32():
    """As near to those in float64 as rounding, which slopes up to 1,000 multiply."""
    case = ("spline", 4, 2, False)
    given = couplings_at(*case[:3], dtype="float32")
    ours = in_jax(*case, given)
    theirs = in_jax(*case, [part.astype("float64") for part in given])
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == "float32"
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=2e-4 * abs(other).max())


def test_what_couplings_leave_behind_has_the_shapes_that_are_said():
    for d, couplings in ((5, 3), (4, 2), (1, 1)):
        noise, weights, *_ = couplings_at("spline", d, couplings)
        op = Along("spline", d, couplings, 3)
        node = op(pt.constant(noise), pt.constant(weights))[0].owner
        with jax.enable_x64(True):
            found = jax.eval_shape(op.jax_function(), noise, weights)
        assert [v.type.shape for v in node.outputs] == [one.shape for one in found]


def test_couplings_that_nothing_has_written_out():
    given = couplings_at("affine", 3, 2)
    plain = as_graphs("affine", 3, 2, True, mode=Mode("py", None))
    for one, other in zip(plain(*given), as_graphs("affine", 3, 2, True)(*given), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10 * abs(other).max())
