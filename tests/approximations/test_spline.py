"""The rational-quadratic spline of a flow, where its bins meet."""

import numpy as np
import pytensor
import pytensor.tensor as pt
import pytest

from pymc_vi_ext.approximations.flow import spline

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
    rows = np.repeat(raw, x[0].size, axis=0)[:, None]
    y, log_slopes = (v.reshape(x.shape) for v in function(x.reshape(-1, 1), rows))
    assert y.dtype == dtype
    assert np.isfinite(y).all()
    assert np.isfinite(log_slopes).all()
    eps = np.finfo(dtype).eps
    assert np.diff(y, axis=-1).min() >= -8 * eps
    assert (abs(y - levels) < 64 * eps * (1 + 5 * slopes)).all()
    # In a narrow bin the slope changes much over a few numbers.
    np.testing.assert_allclose(np.exp(log_slopes), np.broadcast_to(slopes, x.shape), rtol=4e5 * eps)
