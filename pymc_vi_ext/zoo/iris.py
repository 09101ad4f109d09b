"""Multinomial logistic regression on Fisher's iris data."""

import numpy as np
import pymc as pm


def iris() -> pm.Model:
    r"""Species of 150 irises from four standardised measurements.

    .. math::

        a_k \sim \mathcal N(0, 5^2), \quad B_{jk} \sim \mathcal N(0, 2^2), \qquad
        y_i \sim \mathrm{Categorical}(\mathrm{softmax}(a + x_i^\top B))

    All three classes have an intercept and a slope per measurement; the priors identify them.

    Returns
    -------
    pymc.Model
        Free variables ``intercept`` (species) and ``slope`` (measurement, species).

    Raises
    ------
    ImportError
        Without scikit-learn, which brings the data.

    References
    ----------
    Fisher, R. A. (1936). The use of multiple measurements in taxonomic problems.
    Annals of Eugenics 7, 179-188.

    Examples
    --------
    >>> from pymc_vi_ext import zoo
    >>> zoo.build("iris").coords["species"]
    ('setosa', 'versicolor', 'virginica')
    """
    try:
        from sklearn.datasets import load_iris
    except ImportError as error:
        raise ImportError(
            "The iris model takes its data from scikit-learn: pip install 'pymc-vi-ext[flows]'."
        ) from error
    data = load_iris()
    predictors = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    coords = {
        "flower": np.arange(len(predictors)),
        "measurement": [name.removesuffix(" (cm)") for name in data.feature_names],
        "species": [str(name) for name in data.target_names],
    }
    with pm.Model(coords=coords) as model:
        x = pm.Data("x", predictors, dims=("flower", "measurement"))
        intercept = pm.Normal("intercept", 0.0, 5.0, dims="species")
        slope = pm.Normal("slope", 0.0, 2.0, dims=("measurement", "species"))
        pm.Categorical("y", logit_p=intercept + x @ slope, observed=data.target, dims="flower")
    return model
