"""``fit``: names and defaults to objects."""

import inspect

from collections.abc import Mapping, Sequence
from typing import Any

import pymc as pm

from pymc.progress_bar import default_progress_theme
from pymc.variational.inference import Inference
from pymc.variational.opvi import Approximation

from pymc_vi_ext.errors import UnknownNameError
from pymc_vi_ext.inference import METHODS
from pymc_vi_ext.loop import Callback, fit_inference


def fit(
    n: int = 10_000,
    method: str | Inference = "advi",
    model: pm.Model | None = None,
    random_seed: int | None = None,
    start: Mapping[str, Any] | None = None,
    start_sigma: Mapping[str, Any] | None = None,
    inf_kwargs: Mapping[str, Any] | None = None,
    *,
    backend: str | None = "auto",
    callbacks: Sequence[Callback] | None = None,
    convergence: None = None,
    obj_n_mc: int | None = None,
    obj_optimizer: Any = None,
    learning_rate: float | None = None,
    progressbar: bool = True,
    progressbar_theme: Any = default_progress_theme,
    score: bool = True,
    include_transformed: bool = False,
    **pm_fit_kwargs: Any,
) -> Approximation:
    """Fit a variational approximation; takes the place of :func:`pymc.fit`.

    Parameters
    ----------
    n : int
        Number of steps.
    method : str or pymc.Inference
        ``"advi"``, ``"fullrank_advi"``, ``"svgd"``, ``"asvgd"`` in any case, or an inference
        object, PyMC's own (a ``KLqp`` over groups, say) included.
    model : pymc.Model, optional
        By default the one on the context.
    random_seed : int, optional
        The same seed gives the same losses on the same backend.
    start : mapping of str to array, optional
        Starting point by name of the variables, on the model's space.
    start_sigma : mapping of str to array, optional
        Starting standard deviations on the unconstrained space; for ``"advi"`` only.
    inf_kwargs : mapping, optional
        For the constructor of the method, ``{"n_particles": 1000}`` for ``"svgd"`` for instance.
    backend : {"auto", "jax", "numba", "c"}
        "auto" takes JAX, and numba, with a warning that names the Op, where JAX lacks one.
    callbacks : sequence of callable, optional
        Called as ``callback(approx, losses, i)`` after step ``i`` (from 1). One with an attribute
        `every` is called every that many steps, and the engine takes those in one call.
        ``raise StopIteration(reason)`` ends the fit.
    convergence : None
        The fit takes exactly `n` steps, unless a callback stops it.
    obj_n_mc : int, optional
        Draws a step for the gradient: by default 1, for ``"asvgd"`` 500.
    obj_optimizer : callable, optional
        Any of PyMC's optimizers. By default Adam with a learning rate that falls over the `n`
        steps; the result is then the average of the iterates of the second half
        (:class:`pymc_vi_ext.optimizers.AnnealedAdam`).
    learning_rate : float, optional
        First rate of the default optimizer, 0.05 if not given.
    progressbar : bool
        Whether to show loss, steps per second and time left.
    progressbar_theme : rich.theme.Theme, optional
    score : bool
        Whether to record the loss. ``"svgd"`` and ``"asvgd"`` have none.
    include_transformed : bool
        As in :func:`pymc.fit`.
    **pm_fit_kwargs
        The other options of :func:`pymc.fit`: `more_replacements`, `more_updates`,
        `total_grad_norm_constraint`, `compile_kwargs` ...

    Returns
    -------
    Approximation
        PyMC's own, with two attributes more: ``hist``, the loss of each step (the negative ELBO,
        in nats), and ``report``, a :class:`~pymc_vi_ext.results.FitReport`. After Ctrl-C it is the
        approximation so far.

    Raises
    ------
    UnknownNameError
        If there is no such method or backend; a ValueError and a KeyError.
    TypeError
        If the model has no free variables, or `method` is neither a name nor an inference.
    ParametrizationError
        If a free variable is discrete.
    UnsupportedOpError
        With ``backend="jax"``, if the model has an Op that JAX cannot run.
    FloatingPointError
        If the loss becomes NaN. Like any exception out of a callback it carries the approximation
        so far as ``approx``.

    Examples
    --------
    >>> import pymc as pm
    >>> import pymc_vi_ext as vix
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 0.0, 1.0)
    ...     pm.Normal("y", mu, 1.0, observed=[0.7, 1.5, 1.0])
    ...     approx = vix.fit(5000, random_seed=1, progressbar=False)
    y
    >>> len(approx.hist), approx.report.stop_reason.value
    (5000, 'completed')
    >>> round(float(approx.mean.eval()[0]), 1), round(float(approx.std.eval()[0]), 1)
    (0.8, 0.5)
    """
    inference = _inference(method, model, random_seed, start, start_sigma, inf_kwargs)
    if convergence is not None:
        raise ValueError(
            f"There is no stopping rule {convergence!r}: with `convergence=None` the fit takes `n` "
            "steps, and a callback that raises StopIteration ends it earlier."
        )
    if obj_n_mc is not None:
        if not obj_n_mc >= 1:
            raise ValueError(f"`obj_n_mc` counts draws a step, at least 1, not {obj_n_mc!r}.")
        pm_fit_kwargs["obj_n_mc"] = obj_n_mc
    elif default := inspect.signature(inference.fit).parameters.get("obj_n_mc"):
        # Methods of PyMC's that want many draws say so in the signature of their own `fit`.
        pm_fit_kwargs["obj_n_mc"] = default.default
    return fit_inference(
        inference,
        n,
        score=None if score else False,
        callbacks=callbacks,
        progressbar=progressbar,
        progressbar_theme=progressbar_theme,
        backend=backend,
        include_transformed=include_transformed,
        obj_optimizer=obj_optimizer,
        learning_rate=learning_rate,
        random_seed=random_seed if isinstance(method, Inference) else None,
        **pm_fit_kwargs,
    )


def _inference(
    method: str | Inference,
    model: pm.Model | None,
    random_seed: int | None,
    start: Mapping[str, Any] | None,
    start_sigma: Mapping[str, Any] | None,
    inf_kwargs: Mapping[str, Any] | None,
) -> Inference:
    given = {"start": start, "start_sigma": start_sigma, **(inf_kwargs or {})}
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(method, Inference):
        if given:
            raise ValueError(
                f"{', '.join(given)}: options for building a method by name; the "
                f"{type(method).__name__} given is built already, pass them to it."
            )
        return method
    if not isinstance(method, str):
        raise TypeError(
            f"`method` is a name ({', '.join(METHODS)}) or an inference object, not {method!r}."
        )
    name = method.lower()
    if name not in METHODS:
        raise UnknownNameError("method", method, METHODS)
    if start_sigma is not None and name != "advi":
        raise NotImplementedError('`start_sigma` is for method "advi" only.')
    return METHODS[name](model=model, random_seed=random_seed, **given)
