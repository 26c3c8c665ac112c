"""`grouped_norm` in fixed shapes: as in torch."""

from __future__ import annotations

from ovround.models.verb_grouped_norm import compute

__all__ = ["compute"]
