"""Models that a command converted once, by rounding, and kept: from a name to a folder that engines run."""

from ovround.conversion.cache.search import cached_model, remove_if_damaged, runs_as_it_is
from ovround.conversion.cache.store import CachedModel, ModelCache, cache_folder

__all__ = ["CachedModel", "ModelCache", "cache_folder", "cached_model", "remove_if_damaged", "runs_as_it_is"]
