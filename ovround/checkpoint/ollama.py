"""Models that ollama has downloaded, by the names that it gives them: `llama3`, `llama3:8b`. Each is a GGUF file in its store."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ovround.checkpoint.files.json_object import read_json
from ovround.errors import CheckpointError

_NAME = re.compile(r"([\w.-]+)(?::([\w.-]+))?")
_MODEL, _ADAPTER = "application/vnd.ollama.image.model", "application/vnd.ollama.image.adapter"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def is_ollama_name(text: str) -> bool:
    """Whether `text` can only be a name of ollama's: a word and a tag, without an organisation."""
    match = _NAME.fullmatch(text)
    return match is not None and match[2] is not None


def ollama_file(text: str) -> Path | None:
    """The GGUF file of a model in ollama's store; None where `text` names none.

    Raises CheckpointError for a model with an adapter, which would be left out.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    manifest = _store() / "manifests" / "registry.ollama.ai" / "library" / match[1] / (match[2] or "latest")
    if not manifest.is_file():
        return None
    layers = read_json(manifest).get("layers")
    found = [
        (layer.get("mediaType"), _DIGEST.fullmatch(str(layer.get("digest"))))
        for layer in (layers if isinstance(layers, list) else [])
        if isinstance(layer, dict)
    ]
    if any(kind == _ADAPTER for kind, _ in found):
        raise CheckpointError(f"ollama's `{text}` is a model with an adapter", hint="give the model and --adapter")
    digest = next((digest for kind, digest in found if kind == _MODEL and digest), None)
    path = None if digest is None else _store() / "blobs" / f"sha256-{digest[1]}"
    return path if path is not None and path.is_file() else None


def _store() -> Path:
    stated = os.environ.get("OLLAMA_MODELS")
    return Path(stated).expanduser() if stated else Path.home() / ".ollama" / "models"
