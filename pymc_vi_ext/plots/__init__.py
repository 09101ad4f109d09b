"""Figures over the results of a comparison. matplotlib loads with the first figure."""

from pymc_vi_ext.plots.accuracy import plot_accuracy
from pymc_vi_ext.plots.elbo import block_means, plot_elbo
from pymc_vi_ext.plots.forest import plot_forest
from pymc_vi_ext.plots.kde import plot_kde
from pymc_vi_ext.plots.pair import plot_pair

__all__ = ["block_means", "plot_accuracy", "plot_elbo", "plot_forest", "plot_kde", "plot_pair"]
