"""A JSON object from a model folder, read as untrusted data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovround.errors import ArtifactError
from ovround.limits import LIMITS
from ovround.record import load_json

TOKENIZER = "tokenizer.json"


def read_object(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """The object in `path`, empty if the file is missing and `optional`; ArtifactError names the file."""
    if optional and not path.exists():
        return {}
    try:
        value = load_json(path, LIMITS.tokenizer_bytes if path.name == TOKENIZER else LIMITS.json_bytes)
    except FileNotFoundError:
        raise ArtifactError(f"`{path}` is missing", hint="convert again, or copy the whole folder again") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"`{path}` cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"`{path}` holds a {type(value).__name__}; an object is needed")
    return value
