"""The verb `altup` on HPU: as in torch, whose shapes are fixed here."""

from ovround.models.verb_altup import compute

__all__ = ["compute"]
