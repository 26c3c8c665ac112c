"""Reads source checkpoints lazily, tensor by tensor; one format a file."""

from ovround.checkpoint.hf import Checkpoint, open_checkpoint, read_json
from ovround.checkpoint.locate import locate

__all__ = ["Checkpoint", "locate", "open_checkpoint", "read_json"]
