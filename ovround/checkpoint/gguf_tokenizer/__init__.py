"""The tokenizer and chat template inside a GGUF file, as the files that a model folder has."""

from ovround.checkpoint.gguf_tokenizer.files import tokenizer_files

__all__ = ["tokenizer_files"]
