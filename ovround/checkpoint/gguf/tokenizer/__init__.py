"""The tokenizer and chat template inside a GGUF file, as the files that a model folder has, and the other way."""

from ovround.checkpoint.gguf.tokenizer.files import tokenizer_files
from ovround.checkpoint.gguf.tokenizer.writing import vocabulary_metadata

__all__ = ["tokenizer_files", "vocabulary_metadata"]
