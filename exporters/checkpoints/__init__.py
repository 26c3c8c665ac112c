"""Quantised Hugging Face folders, which transformers and other engines load; one format a file."""

from ovround.exporters.checkpoints.folder import CheckpointExporter, check_format
from ovround.exporters.checkpoints.formats import open_format

__all__ = ["CheckpointExporter", "check_format", "open_format"]
