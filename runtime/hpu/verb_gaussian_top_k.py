"""The verb `gaussian_top_k` on HPU: as in torch, whose shapes are fixed here."""

from ovround.models.verb_gaussian_top_k import compute

__all__ = ["compute"]
