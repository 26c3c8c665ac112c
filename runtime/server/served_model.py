"""The model that a server answers for: its name, its tokenizer, and what clients may ask about it."""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ovround
from ovround.artifact.manifest import MANIFEST, read_manifest
from ovround.errors import OvroundError
from ovround.runtime.model_info import read_model_info
from ovround.runtime.server.chat_message import ChatMessage, template_messages
from ovround.runtime.server.responses import Head
from ovround.runtime.text.tokenizer import Tokenizer


class UnknownModelError(OvroundError):
    """A request names a model or an answer that this server does not have."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One folder under one name."""

    name: str
    folder: Path
    tokenizer: Tokenizer
    context_length: int
    end_token_ids: frozenset[int]
    vocab_size: int
    """Number of ids that prompts may have: those of tokenizer and model alike."""
    bits: float | None
    """Stored bits per weight; None for a folder without a manifest."""
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))

    def check_name(self, name: str | None) -> None:
        """Raise UnknownModelError for another model's name; None stands for this model."""
        if name not in (None, self.name):
            raise UnknownModelError(f"the model `{name}` is not served here; `{self.name}` is")

    def template_messages(self, messages: Sequence[ChatMessage], tools: object = None) -> list[dict[str, Any]]:
        """The messages for the chat template that a chat with `tools` takes."""
        return template_messages(messages, knows_developer=self.tokenizer.template_mentions("developer", tools))

    def head(self, prefix: str, kind: str) -> Head:
        """The common fields of a new answer's objects, with a new id."""
        return Head(f"{prefix}-{secrets.token_hex(12)}", kind, self.name, self.fingerprint)


def read_served_model(folder: Path, name: str) -> ServedModel:
    """The model in `folder`; raises ArtifactError for a folder without tokenizer or configuration."""
    tokenizer = Tokenizer(folder)
    info = read_model_info(folder)
    return ServedModel(
        name, folder, tokenizer, info.context_length, frozenset(info.end_token_ids or tokenizer.end_token_ids),
        min(tokenizer.id_count, info.vocab_size or tokenizer.id_count), _mean_bits(folder), fingerprint(folder),
    )  # fmt: skip


def fingerprint(folder: Path) -> str:
    """Hash of the weights and the runtime's version: answers of equal fingerprints are comparable."""
    digest = hashlib.sha256(ovround.__version__.encode())
    if (folder / MANIFEST).is_file():
        for name, file in sorted(read_manifest(folder).files.items()):
            digest.update(f"{name} {file.sha256}\n".encode())
    else:
        for path in sorted(folder.glob("*")):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return f"fp_{digest.hexdigest()[:16]}"


def _mean_bits(folder: Path) -> float | None:
    """Stored bits per weight over all weights of the manifest; None without one."""
    if not (folder / MANIFEST).is_file():
        return None
    weights: Any = read_manifest(folder).weights
    elements = sum(math.prod(weight.shape) for weight in weights)
    return 8 * sum(weight.size_bytes for weight in weights) / elements if elements else None
