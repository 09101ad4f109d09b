"""Figures over the results of a comparison. matplotlib loads with the first figure."""

from pymc_vi_ext.plots.elbo import block_means, plot_elbo
from pymc_vi_ext.plots.kde import plot_kde

__all__ = ["block_means", "plot_elbo", "plot_kde"]
