"""A JSON object from a file of a checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovround.checkpoint.files.missing_config import CONFIG, missing_config
from ovround.checkpoint.files.pointer import again
from ovround.errors import CheckpointError
from ovround.limits import LIMITS
from ovround.record import load_json


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; raises CheckpointError naming the file when it is none."""
    try:
        value = load_json(path, LIMITS.json_bytes)
    except FileNotFoundError:
        if path.name == CONFIG:
            raise missing_config(path.parent) from None
        raise CheckpointError(f"`{path.parent}` has no {path.name}", hint="download it again") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"`{path}` cannot be read: {error}", hint=again(path)) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"`{path}` holds no JSON object")
    return value
