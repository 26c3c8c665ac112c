"""`HeadNorm` in fixed shapes: torch's own."""

from ovround.models.verb_head_norm import compute

__all__ = ["compute"]
