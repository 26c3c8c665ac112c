"""Reads source checkpoints lazily, tensor by tensor; one format a file."""

from ovround.checkpoint.hf import Checkpoint, open_checkpoint, read_json
from ovround.checkpoint.locate import is_ir, locate
from ovround.checkpoint.mapped import mapped

__all__ = ["Checkpoint", "is_ir", "locate", "mapped", "open_checkpoint", "read_json"]
