"""What the package's methods share: PyMC's ``fit`` and ``refine`` over the package's loop."""

from collections.abc import Sequence
from typing import Any

from pymc.model import Model, modelcontext
from pymc.progress_bar import default_progress_theme
from pymc.variational.inference import Inference
from pymc.variational.opvi import Approximation, ParametrizationError
from pymc.vartypes import discrete_types

from pymc_vi_ext.loop import Callback, fit_inference, refine_inference


class EngineFit(Inference):
    """Mixin for PyMC's methods: the same fit, run by the package's engines.

    Stands before the PyMC class among the bases.
    """

    seed: int | None = None

    def fit(
        self,
        n: int = 10_000,
        score: bool | None = None,
        callbacks: Sequence[Callback] | None = None,
        progressbar: bool = True,
        progressbar_theme: Any = default_progress_theme,
        *,
        backend: str | None = "auto",
        include_transformed: bool = False,
        **kwargs: Any,
    ) -> Approximation:
        """Fit from the present parameters; see :func:`pymc_vi_ext.fit` for the options.

        A second call with the same options compiles nothing.
        """
        return fit_inference(
            self,
            n,
            score=score,
            callbacks=callbacks,
            progressbar=progressbar,
            progressbar_theme=progressbar_theme,
            backend=backend,
            include_transformed=include_transformed,
            **kwargs,
        )

    def refine(
        self, n: int, progressbar: bool = True, progressbar_theme: Any = default_progress_theme
    ) -> None:
        """Take `n` more steps from where the last fit stopped: same program, same callbacks."""
        refine_inference(self, n, progressbar, progressbar_theme)


def continuous_model(model: Model | None, method: str) -> Model:
    """Return `model`, or the one on the context, if `method` can fit it.

    Raises
    ------
    TypeError
        If the model has no free variables.
    ParametrizationError
        If a free variable is discrete, naming it.
    """
    model = modelcontext(model)
    if not model.free_RVs:
        raise TypeError(
            f"{method} has nothing to fit: the model has no free variables (all are observed, or "
            "none was added)."
        )
    discrete = [rv.name for rv in model.free_RVs if rv.type.dtype in discrete_types]
    if discrete:
        raise ParametrizationError(
            f"{method} needs continuous variables, and {', '.join(discrete)} "
            f"{'is' if len(discrete) == 1 else 'are'} discrete: marginalise "
            "(pymc_extras.marginalize) or use pm.sample."
        )
    return model
