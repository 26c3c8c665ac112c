"""The verb `scale_by` on HPU: as in torch, whose shapes are fixed here."""

from ovround.models.verb_scale_by import compute

__all__ = ["compute"]
