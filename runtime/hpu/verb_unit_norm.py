"""The verb `unit_norm` on HPU: as in torch, whose shapes are fixed here."""

from ovround.models.verb_unit_norm import compute

__all__ = ["compute"]
