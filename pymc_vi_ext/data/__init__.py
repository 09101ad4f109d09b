"""Data larger than memory: batches that are read while a fit goes on."""

from pymc_vi_ext.data.batches import Batches
from pymc_vi_ext.data.sources import Source

__all__ = ["Batches", "Source"]
