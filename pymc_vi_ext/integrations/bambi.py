"""Bambi's models: fits whose results its ``predict`` and ``interpret`` read.

Bambi centres predictors. The ``Intercept`` of its PyMC model is that of the centred ones, and what
``bambi.Model.fit`` returns has been moved to that of the data. A posterior that was not moved is
taken by ``bambi.Model.predict`` without a word, and gives wrong predictions.
"""

from __future__ import annotations

from typing import Any

from pymc.variational.opvi import Approximation
from xarray import DataTree

from pymc_vi_ext import fitting, results
from pymc_vi_ext.upstream import cleaned_by_bambi


def fit(
    model: Any,
    *,
    draws: int = 1_000,
    omit_offsets: bool = True,
    include_response_params: bool = False,
    random_seed: int | None = None,
    **options: Any,
) -> tuple[DataTree, Approximation]:
    """Fit a Bambi model.

    Parameters
    ----------
    model : bambi.Model
        Built, if it is not.
    draws : int
    omit_offsets, include_response_params : bool
        As of ``bambi.Model.fit``.
    random_seed : int, optional
    **options
        Of :func:`pymc_vi_ext.fit`.

    Returns
    -------
    DataTree
        What ``bambi.Model.fit`` returns, with one chain of draws.
    Approximation
        With ``hist`` and ``report``.

    Examples
    --------
    >>> import bambi, numpy as np, pandas as pd
    >>> from pymc_vi_ext.integrations.bambi import fit
    >>> x = np.linspace(10, 20, 50)
    >>> frame = pd.DataFrame({"x": x, "y": 3 + 2 * x + np.sin(40 * x)})
    >>> model = bambi.Model("y ~ x", frame)
    >>> tree, approx = fit(model, random_seed=1, progressbar=False)
    >>> model.predict(tree)
    >>> float(abs(tree.posterior["mu"].mean(("chain", "draw")) - (3 + 2 * x)).max()) < 1
    True
    """
    if not model.built:
        model.build()
    approx = fitting.fit(model=model.backend.model, random_seed=random_seed, **options)
    tree = to_datatree(
        model,
        approx,
        draws,
        omit_offsets=omit_offsets,
        include_response_params=include_response_params,
        random_seed=random_seed,
    )
    return tree, approx


def to_datatree(
    model: Any,
    approx: Approximation,
    draws: int = 1_000,
    *,
    omit_offsets: bool = True,
    include_response_params: bool = False,
    random_seed: int | None = None,
) -> DataTree:
    """Draw from an approximation of a Bambi model what ``bambi.Model.fit`` would return.

    Parameters
    ----------
    model : bambi.Model
    approx : Approximation
        Of ``model.backend.model``.
    draws : int
    omit_offsets, include_response_params : bool
        As of ``bambi.Model.fit``.
    random_seed : int, optional

    Returns
    -------
    DataTree
        As of :func:`pymc_vi_ext.to_datatree`, with the intercepts of the data as they are.

    Raises
    ------
    ValueError
        If the approximation is of another model.

    Examples
    --------
    >>> import bambi, numpy as np, pandas as pd, pymc_vi_ext as vix
    >>> from pymc_vi_ext.integrations.bambi import to_datatree
    >>> x = np.linspace(10, 20, 50)
    >>> frame = pd.DataFrame({"x": x, "y": 3 + 2 * x + np.sin(40 * x)})
    >>> model = bambi.Model("y ~ x", frame)
    >>> model.build()
    >>> laplace = vix.fit(method="laplace", model=model.backend.model, progressbar=False)
    >>> tree = to_datatree(model, laplace, random_seed=1)
    >>> abs(float(tree.posterior["Intercept"].mean()) - 3) < 1
    True
    """
    if not model.built or approx.model is not model.backend.model:
        raise ValueError(
            "The approximation is not of this Bambi model: fit `model.backend.model`, and build "
            "the model no second time."
        )
    tree = results.to_datatree(approx, draws, random_seed)
    # Bambi computes these itself when it predicts.
    of_response = {v.name for v in approx.model.deterministics} & set(
        model.family.likelihood.params
    )
    tree["posterior"] = tree["posterior"].to_dataset().drop_vars(of_response)
    model.backend.fit = True
    cleaned: DataTree = cleaned_by_bambi(model.backend, tree, omit_offsets, include_response_params)
    return cleaned
