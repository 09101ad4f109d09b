"""Models of the libraries that are built on PyMC, and what each does with a posterior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import xarray as xr

from pymc_vi_ext import results
from pymc_vi_ext.integrations import bambi as integration
from pymc_vi_ext.upstream import cleaned_by_bambi


@dataclass
class Client:
    """A library's model.

    Attributes
    ----------
    model : pymc.Model
    uses : callable
        ``uses(tree, folder) -> array``: what the library makes of a posterior, predictions mostly;
        it fails where the library does not take it.
    tree : callable
        Draws of an approximation as the library expects them.
    sampled : callable
        Draws of :func:`pymc.sample` as the library expects them.
    method : str
        What fits it.
    names : list of str, optional
        Variables that the library has PyMC sample; by default all.
    """

    model: pm.Model
    uses: Callable[[xr.DataTree, Path], np.ndarray]
    tree: Callable[..., xr.DataTree] = results.to_datatree
    sampled: Callable[[xr.DataTree], xr.DataTree] = lambda tree: tree
    method: str = "fullrank_advi"
    names: list[str] | None = None


def _bambi(formula: str, data: pd.DataFrame, name: str, **options: Any) -> Client:
    import bambi

    model = bambi.Model(formula, data, **options)
    model.build()

    def tree(approx: Any, draws: int, random_seed: int) -> xr.DataTree:
        return integration.to_datatree(model, approx, draws, random_seed=random_seed)

    def uses(posterior: xr.DataTree, folder: Path) -> np.ndarray:
        model.predict(posterior)
        model.predict(posterior, kind="response")
        posterior.to_netcdf(folder / "posterior.nc")
        return posterior.posterior[name].mean(("chain", "draw")).to_numpy()

    def sampled(tree: xr.DataTree) -> xr.DataTree:
        return cleaned_by_bambi(model.backend, tree, True, False)

    # Not the parameters of the likelihood, which it computes when it predicts.
    names = [v.name for v in model.backend.model.unobserved_RVs if v.name != name]
    return Client(model.backend.model, uses, tree, sampled, names=names)


def bambi_linear() -> Client:
    """Predictors far from 0, which Bambi centres."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"x": rng.normal(50, 5, 80), "w": rng.normal(-20, 2, 80)})
    data["y"] = 10 + 2 * data["x"] - data["w"] + rng.normal(size=80)
    return _bambi("y ~ x + w", data, "mu")


def bambi_sleepstudy() -> Client:
    """Simulated: slopes and intercepts of 18 subjects over ten days."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame(
        {"subject": np.repeat(np.arange(18), 10), "days": np.tile(np.arange(10), 18)}
    )
    own = rng.normal([250, 10], [25, 6], (18, 2))[data["subject"]]
    data["reaction"] = own[:, 0] + own[:, 1] * data["days"] + rng.normal(0, 25, 180)
    data["subject"] = data["subject"].astype(str)
    return _bambi("reaction ~ days + (days | subject)", data, "mu")


def bambi_categorical() -> Client:
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"x": rng.normal(3, 1, 150)})
    utility = np.stack([0 * data["x"], data["x"] - 3, 1.5 - 0.5 * data["x"]]) + rng.gumbel(
        size=(3, 150)
    )
    data["y"] = np.array(list("abc"))[utility.argmax(axis=0)]
    return _bambi("y ~ x", data, "p", family="categorical")


def bambi_hsgp() -> Client:
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"x": np.linspace(0, 5, 80)})
    data["y"] = np.sin(data["x"]) + rng.normal(0, 0.3, 80)
    return _bambi("y ~ 0 + hsgp(x, m=10, c=1.5)", data, "mu")


def bambi_ordinal() -> Client:
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"x": rng.normal(2, 1, 150)})
    data["y"] = pd.Categorical(
        np.digitize(data["x"] + rng.logistic(size=150), [1.0, 2.5, 4.0]), ordered=True
    )
    return _bambi("y ~ x", data, "p", family="cumulative")


def marketing_mmm() -> Client:
    """Two channels, of which one is on every other week, on ``pymc.dims``."""
    from pymc_marketing.mmm import GeometricAdstock, LogisticSaturation
    from pymc_marketing.mmm.multidimensional import MMM

    rng = np.random.default_rng(5)
    data = pd.DataFrame({"date": pd.date_range("2022-01-03", periods=100, freq="W-MON")})
    data["x1"], data["x2"] = rng.uniform(size=100), rng.uniform(size=100) * rng.integers(0, 2, 100)
    sales = pd.Series(2 + 1.5 * data["x1"] + 0.8 * data["x2"] + rng.normal(0, 0.2, 100), name="y")
    mmm = MMM(
        date_column="date",
        channel_columns=["x1", "x2"],
        target_column="y",
        adstock=GeometricAdstock(l_max=4),
        saturation=LogisticSaturation(),
        yearly_seasonality=2,
    )
    mmm.build_model(data, sales)

    def uses(posterior: xr.DataTree, folder: Path) -> np.ndarray:
        mmm.idata = posterior
        drawn = mmm.sample_posterior_predictive(data, progressbar=False, random_seed=1)
        return drawn["y"].mean("sample").to_numpy()

    return Client(mmm.model, uses)


def _customers() -> pd.DataFrame:
    """Simulated: Poisson purchases until a customer leaves."""
    rng = np.random.default_rng(6)
    rows = []
    for customer in range(300):
        rate, leaves, horizon = rng.gamma(0.5, 0.25), rng.beta(0.8, 2.5), rng.uniform(20, 40)
        bought, last = 0, 0.0
        while (now := last + rng.exponential(1 / rate)) < horizon:
            bought, last = bought + 1, now
            if rng.uniform() < leaves:
                break
        rows.append((customer, bought, last, horizon))
    return pd.DataFrame(rows, columns=["customer_id", "frequency", "recency", "T"])


def _clv(name: str, data: pd.DataFrame, predict: Callable[[Any], xr.DataArray]) -> Client:
    import pymc_marketing.clv

    clv = getattr(pymc_marketing.clv, name)()
    clv.build_model(data=data)

    def uses(posterior: xr.DataTree, folder: Path) -> np.ndarray:
        clv.idata = posterior
        return predict(clv).mean(("chain", "draw")).to_numpy()

    return Client(clv.model, uses, method="dadvi")


def marketing_beta_geo() -> Client:
    data = _customers()
    return _clv("BetaGeoModel", data, lambda clv: clv.expected_purchases(data, future_t=10))


def marketing_pareto_nbd() -> Client:
    data = _customers()
    return _clv("ParetoNBDModel", data, lambda clv: clv.expected_purchases(data, future_t=10))


def marketing_gamma_gamma() -> Client:
    rng = np.random.default_rng(7)
    data = _customers().query("frequency > 0").reset_index(drop=True)
    data["monetary_value"] = (
        rng.gamma(6 * data["frequency"]) / data["frequency"] / rng.gamma(3, 0.1, len(data))
    )
    return _clv("GammaGammaModel", data, lambda clv: clv.expected_customer_spend(data))


def hssm_ddm() -> Client:
    """A drift diffusion model."""
    import hssm

    truth = {"v": 0.5, "a": 1.5, "z": 0.5, "t": 0.3}
    data = hssm.simulate_data(model="ddm", theta=truth, size=500, random_state=1)
    model = hssm.HSSM(data=data, model="ddm")

    def uses(posterior: xr.DataTree, folder: Path) -> np.ndarray:
        model.restore_traces(posterior)
        drawn = model.sample_posterior_predictive(draws=100, inplace=False)
        # All trials are alike: what differs is the distribution.
        times, choices = drawn.posterior_predictive["rt,response"].to_numpy().reshape(-1, 2).T
        return np.array([times.mean(), times.std(), choices.mean()])

    return Client(model.pymc_model, uses, method="dadvi")


def extras_statespace() -> Client:
    """Local level and trend, by the Kalman filter: a Scan."""
    from pymc_extras.statespace import structural as st

    rng = np.random.default_rng(8)
    level = np.cumsum(0.1 + np.cumsum(rng.normal(0, 0.05, 40)) + rng.normal(0, 0.2, 40))
    data = pd.DataFrame({"y": level + rng.normal(0, 0.3, 40)})
    parts = st.LevelTrend(order=2, innovations_order=[0, 1], name="trend") + st.MeasurementError(
        name="error"
    )
    space = parts.build(name="series", verbose=False)
    with pm.Model(coords=space.coords) as model:
        pm.Deterministic("P0", pt.eye(space.k_states) * 5.0, dims=space.param_dims["P0"])
        pm.Normal("initial_trend", 0.0, 2.0, dims=space.param_dims["initial_trend"])
        pm.HalfNormal("sigma_trend", 1.0, dims=space.param_dims["sigma_trend"])
        pm.HalfNormal("sigma_error", 1.0)
        space.build_statespace_graph(data)

    def uses(posterior: xr.DataTree, folder: Path) -> np.ndarray:
        drawn = space.sample_conditional_posterior(posterior, random_seed=1, progressbar=False)
        name = next(name for name in drawn.data_vars if name.startswith("smoothed"))
        return drawn[name].mean(("chain", "draw")).to_numpy()

    return Client(model, uses)


def extras_marginalised() -> Client:
    """A mixture of two normals, its labels summed out."""
    import pymc_extras as pmx

    rng = np.random.default_rng(9)
    y = np.where(rng.uniform(size=100) < 0.3, rng.normal(-2, 0.7, 100), rng.normal(2, 0.7, 100))
    with pm.Model() as labelled:
        share = pm.Beta("share", 2, 2)
        mu = pm.Normal("mu", [-1.0, 1.0], 2.0)
        sd = pm.HalfNormal("sd", 1.0)
        label = pm.Bernoulli("label", share, shape=100)
        pm.Normal("y", pt.switch(label, mu[1], mu[0]), sd, observed=y)
    model = pmx.marginalize(labelled, ["label"])

    def uses(posterior: xr.DataTree, folder: Path) -> np.ndarray:
        drawn = pmx.recover_marginals(posterior, model=model, random_seed=1)
        return drawn.posterior["label"].mean(("chain", "draw")).to_numpy()

    return Client(model, uses)


def extras_r2d2() -> Client:
    """A regression on eight predictors of which two matter."""
    from pymc_extras.distributions import R2D2M2CP

    rng = np.random.default_rng(10)
    x = rng.normal(size=(100, 8))
    y = x[:, 0] - 0.5 * x[:, 1] + rng.normal(size=100)
    with pm.Model(coords={"predictor": range(8)}) as model:
        sd = pm.HalfNormal("sd", 1.0)
        _, beta = R2D2M2CP("beta", sd, x.std(axis=0), dims="predictor", r2=0.5, r2_std=0.2)
        mu = pm.Deterministic("mu", x @ beta)
        pm.Normal("y", mu, sd, observed=y)

    def uses(posterior: xr.DataTree, folder: Path) -> np.ndarray:
        with model:
            drawn = pm.sample_posterior_predictive(posterior, progressbar=False, random_seed=1)
        return drawn.posterior_predictive["y"].mean(("chain", "draw")).to_numpy()

    return Client(model, uses)


CLIENTS = {
    function.__name__: function
    for function in (
        bambi_linear,
        bambi_sleepstudy,
        bambi_categorical,
        bambi_hsgp,
        bambi_ordinal,
        marketing_mmm,
        marketing_beta_geo,
        marketing_pareto_nbd,
        marketing_gamma_gamma,
        hssm_ddm,
        extras_statespace,
        extras_marginalised,
        extras_r2d2,
    )
}
