"""The verb `known_ids` on HPU: as in torch, whose shapes are fixed here."""

from ovround.models.verb_known_ids import compute

__all__ = ["compute"]
