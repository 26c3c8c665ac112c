"""`Xielu` in fixed shapes: torch's own."""

from ovround.models.verb_xielu import compute

__all__ = ["compute"]
