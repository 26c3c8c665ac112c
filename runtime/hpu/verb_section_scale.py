"""`section_scale` in fixed shapes: as in torch."""

from __future__ import annotations

from ovround.models.verb_section_scale import compute

__all__ = ["compute"]
