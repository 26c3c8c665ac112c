"""Reads source checkpoints lazily, tensor by tensor; one format a file."""

from ovround.checkpoint.files.json_object import read_json
from ovround.checkpoint.gguf import GgufCheckpoint, GgufFloats
from ovround.checkpoint.hf import Checkpoint, open_checkpoint
from ovround.checkpoint.locate import is_ir, locate
from ovround.checkpoint.mapped import mapped, mapped_packed
from ovround.checkpoint.quantised import PackedCheckpoint, QuantisedCheckpoint, open_source

__all__ = [
    "Checkpoint",
    "GgufCheckpoint",
    "GgufFloats",
    "PackedCheckpoint",
    "QuantisedCheckpoint",
    "is_ir",
    "locate",
    "mapped",
    "mapped_packed",
    "open_checkpoint",
    "open_source",
    "read_json",
]
