"""Figures over results, and pictures that move. matplotlib and plotly load with the first."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pymc_vi_ext.plots.accuracy import plot_accuracy
from pymc_vi_ext.plots.density import plot_density
from pymc_vi_ext.plots.elbo import block_means, plot_elbo
from pymc_vi_ext.plots.forest import plot_forest
from pymc_vi_ext.plots.kde import plot_kde
from pymc_vi_ext.plots.pair import plot_pair

if TYPE_CHECKING:
    from pymc_vi_ext.plots.explore import Explorer, Optimum, explore_kl
    from pymc_vi_ext.plots.moving import animate
    from pymc_vi_ext.plots.recorder import Recorder, first_transitions

__all__ = [
    "Explorer",
    "Optimum",
    "Recorder",
    "animate",
    "block_means",
    "explore_kl",
    "first_transitions",
    "plot_accuracy",
    "plot_density",
    "plot_elbo",
    "plot_forest",
    "plot_kde",
    "plot_pair",
]

# They fit, or know toy models, which figures of finished results do not need.
_LATER = {
    "Explorer": "explore",
    "Optimum": "explore",
    "Recorder": "recorder",
    "animate": "moving",
    "explore_kl": "explore",
    "first_transitions": "recorder",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
