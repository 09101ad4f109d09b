"""Posteriors that other libraries take; `make test-clients` tries the libraries themselves."""

import numpy as np
import pytest

import pymc_vi_ext as vix


# formulae, which reads Bambi's formulas, calls pandas as pandas 2 wants it.
@pytest.mark.filterwarnings("ignore:For backward compatibility, 'str' dtypes:DeprecationWarning")
def test_bambi_predicts_from_its_own_intercept():
    bambi = pytest.importorskip("bambi")
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(2)
    frame = pandas.DataFrame({"x": rng.normal(40.0, 2.0, 60)})
    frame["y"] = 1.0 + 2.0 * frame["x"] + rng.normal(0, 0.5, 60)
    model = bambi.Model("y ~ x", frame)
    tree, approx = vix.integrations.bambi.fit(
        model, method="fullrank_advi", random_seed=1, progressbar=False
    )
    # Bambi's parameters of the likelihood are not kept until it predicts.
    assert sorted(tree.posterior.data_vars) == ["Intercept", "sigma", "x"]
    model.predict(tree)
    predicted = tree.posterior["mu"].mean(("chain", "draw")).to_numpy()
    slope, intercept = np.polyfit(frame["x"], frame["y"], 1)
    # Priors are wide: the line is that of least squares, which is known to .5 / sqrt(60) = .065.
    np.testing.assert_allclose(predicted, intercept + slope * frame["x"], atol=0.1)
    other = bambi.Model("y ~ 1", frame)
    other.build()
    with pytest.raises(ValueError, match="not of this Bambi model"):
        vix.integrations.bambi.to_datatree(other, approx)
