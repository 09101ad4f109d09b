"""Linear regressions, from easy to nearly collinear."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm


def blr(data: Mapping[str, Any]) -> pm.Model:
    r"""Linear regression with vague priors.

    .. math::

        \beta_k \sim \mathcal N(0, 10^2), \quad \sigma \sim \mathrm{HalfNormal}(10), \qquad
        y_i \sim \mathcal N(x_i^\top \beta, \sigma^2)

    Parameters
    ----------
    data : mapping
        ``y``, ``X`` (rows by ``D`` predictors), ``D``.

    Returns
    -------
    pymc.Model
        Free variables ``beta`` (5) and ``sigma``.
    """
    with pm.Model() as model:
        beta = pm.Normal("beta", 0.0, 10.0, shape=data["D"])
        sigma = pm.HalfNormal("sigma", 10.0)
        pm.Normal("y", np.asarray(data["X"]) @ beta, sigma, observed=data["y"])
    return model


def kidscore_interaction(data: Mapping[str, Any]) -> pm.Model:
    r"""Test scores of children on their mothers' school, IQ and the product of the two.

    .. math::

        p(\beta) \propto 1, \quad \sigma \sim \mathrm{HalfCauchy}(2.5), \qquad
        \mathit{score}_i \sim \mathcal N(\beta_1 + \beta_2\, \mathit{hs}_i + \beta_3\, \mathit{iq}_i
        + \beta_4\, \mathit{hs}_i\, \mathit{iq}_i,\; \sigma^2)

    Parameters
    ----------
    data : mapping
        ``kid_score``, ``mom_hs`` (0 or 1), ``mom_iq``.

    Returns
    -------
    pymc.Model
        Free variables ``beta`` (4) and ``sigma``.

    References
    ----------
    Gelman, A. and Hill, J. (2006). Data Analysis Using Regression and Multilevel/Hierarchical
    Models, chapter 3.
    """
    hs, iq = np.asarray(data["mom_hs"], float), np.asarray(data["mom_iq"])
    x = np.column_stack([np.ones_like(hs), hs, iq, hs * iq])
    with pm.Model() as model:
        beta = pm.Flat("beta", shape=4)
        sigma = pm.HalfCauchy("sigma", 2.5)
        pm.Normal("kid_score", x @ beta, sigma, observed=data["kid_score"])
    return model


def earn_height(data: Mapping[str, Any]) -> pm.Model:
    r"""Earnings in dollars on height in inches, all on their raw scales.

    .. math::

        p(\beta, \sigma) \propto 1, \qquad
        \mathit{earn}_i \sim \mathcal N(\beta_1 + \beta_2\, \mathit{height}_i, \sigma^2)

    Parameters
    ----------
    data : mapping
        ``earn``, ``height``.

    Returns
    -------
    pymc.Model
        Free variables ``beta`` (2) and ``sigma``.

    References
    ----------
    Gelman, A. and Hill, J. (2006). Data Analysis Using Regression and Multilevel/Hierarchical
    Models, chapter 4.
    """
    height = np.asarray(data["height"], float)
    return _flat_regression("earn", np.asarray(data["earn"], float), height)


def logmesquite_logvash(data: Mapping[str, Any]) -> pm.Model:
    r"""Leaf weight of mesquite bushes on their volume, area, shape, height and group.

    .. math::

        p(\beta, \sigma) \propto 1, \qquad
        \log \mathit{weight}_i \sim \mathcal N(\beta_1 + \beta_2 \log v_i + \beta_3 \log a_i
        + \beta_4 \log s_i + \beta_5 \log h_i + \beta_6\, \mathit{group}_i,\; \sigma^2)

    with diameters :math:`d_1, d_2`, canopy height :math:`c`, area :math:`a = d_1 d_2`, volume
    :math:`v = a c`, shape :math:`s = d_1 / d_2` and total height :math:`h`.

    Parameters
    ----------
    data : mapping
        ``weight``, ``diam1``, ``diam2``, ``canopy_height``, ``total_height``, ``group``.

    Returns
    -------
    pymc.Model
        Free variables ``beta`` (6) and ``sigma``.

    References
    ----------
    Gelman, A. and Hill, J. (2006). Data Analysis Using Regression and Multilevel/Hierarchical
    Models, chapter 4.
    """
    diam1, diam2, canopy, total = (
        np.log(np.asarray(data[name]))
        for name in ("diam1", "diam2", "canopy_height", "total_height")
    )
    area, group = diam1 + diam2, np.asarray(data["group"], float)
    return _flat_regression(
        "log_weight", np.log(data["weight"]), area + canopy, area, diam1 - diam2, total, group
    )


def nes(data: Mapping[str, Any]) -> pm.Model:
    r"""Party identification of American voters in 1972 on ideology and demography.

    .. math::

        p(\beta, \sigma) \propto 1, \qquad
        \mathit{partyid}_i \sim \mathcal N(\beta_1 + x_i^\top \beta_{2:9}, \sigma^2)

    where :math:`x_i` holds ideology, race, indicators of the ages 30-44, 45-64 and 65 up,
    education, gender and income, in this order, as coded in the data.

    Parameters
    ----------
    data : mapping
        ``partyid7``, ``real_ideo``, ``race_adj``, ``age_discrete`` (1 to 4), ``educ1``,
        ``gender``, ``income``.

    Returns
    -------
    pymc.Model
        Free variables ``beta`` (9) and ``sigma``.

    References
    ----------
    Gelman, A. and Hill, J. (2006). Data Analysis Using Regression and Multilevel/Hierarchical
    Models, chapter 4.
    """
    ideology, race, age, education, gender, income = (
        np.asarray(data[name], float)
        for name in ("real_ideo", "race_adj", "age_discrete", "educ1", "gender", "income")
    )
    ages = [(age == group).astype(float) for group in (2, 3, 4)]
    return _flat_regression(
        "partyid7",
        np.asarray(data["partyid7"], float),
        *(ideology, race, *ages, education, gender, income),
    )


def _flat_regression(name: str, y: np.ndarray, *columns: np.ndarray) -> pm.Model:
    """Regress `y` on an intercept and `columns`; flat in the coefficients and in sigma."""
    x = np.column_stack([np.ones_like(y), *columns])
    with pm.Model() as model:
        beta = pm.Flat("beta", shape=x.shape[1])
        sigma = pm.HalfFlat("sigma")
        pm.Normal(name, x @ beta, sigma, observed=y)
    return model


def diamonds(data: Mapping[str, Any]) -> pm.Model:
    r"""Log prices of diamonds on 24 strongly collinear predictors.

    .. math::

        b_k \sim \mathcal N(0, 1), \quad a \sim t_3(8, 10), \quad
        \sigma \sim t_3^+(0, 10), \qquad
        y_i \sim \mathcal N(a + (x_i - \bar x)^\top b, \sigma^2)

    The first column of ``X`` is constant and stands for the intercept :math:`a`.

    Parameters
    ----------
    data : mapping
        ``Y``, ``X`` (rows by 25).

    Returns
    -------
    pymc.Model
        Free variables ``b`` (24), ``Intercept`` and ``sigma``.

    References
    ----------
    Bales, B., Pourzanjani, A., Vehtari, A. and Petzold, L. (2019). Selecting the metric in
    Hamiltonian Monte Carlo. arXiv:1905.11916.
    """
    x = np.asarray(data["X"])[:, 1:]
    x = x - x.mean(axis=0)
    with pm.Model() as model:
        b = pm.Normal("b", 0.0, 1.0, shape=x.shape[1])
        intercept = pm.StudentT("Intercept", nu=3.0, mu=8.0, sigma=10.0)
        sigma = pm.HalfStudentT("sigma", nu=3.0, sigma=10.0)
        pm.Normal("Y", intercept + x @ b, sigma, observed=data["Y"])
    return model
