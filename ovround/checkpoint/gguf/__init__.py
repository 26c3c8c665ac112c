"""Reads GGUF files, llama.cpp's format: architectures, header, tensor types, configuration, and the checkpoint they make."""

from ovround.checkpoint.gguf.checkpoint import GgufCheckpoint, GgufFloats
from ovround.checkpoint.gguf.opening import find_gguf, open_gguf

__all__ = ["GgufCheckpoint", "GgufFloats", "find_gguf", "open_gguf"]
