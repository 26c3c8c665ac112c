"""What a model is converted from, told apart from every other source without reading it whole.

A hub name stands for a commit, which never changes. A folder or file stands for its files: their names, sizes and times of
change, the contents of small files, and samples of large ones. That takes milliseconds for any size, where a sha256 of
everything takes a second for each gigabyte at every start. Files of other weights differ in their samples even where sizes and
times are equal, as in images that are built reproducibly.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ovround.errors import CheckpointError

_READ = {".safetensors", ".gguf", ".bin", ".pt", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".xml"}
_WHOLE_BYTES = 1 << 20
_SAMPLES, _SAMPLE_BYTES = 16, 1 << 14
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf")


@dataclass(frozen=True, slots=True)
class Source:
    """A located model: its folder or GGUF file, and the text that tells it from every other."""

    path: Path
    identity: str


def local_source(path: Path) -> Source:
    """The source of a folder or file that a user named; raises CheckpointError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        for file in _files(path):
            status = file.stat()
            digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            _add_contents(digest, file, status.st_size)
        digest.update(_base_identity(path).encode())
    except OSError as error:
        raise CheckpointError(f"`{path}` cannot be read: {error}") from error
    return Source(path, f"files {digest.hexdigest()}")


def _base_identity(path: Path) -> str:
    """What tells the base model of an adapter's folder from others, for what runs depends on it too; else empty."""
    from ovround.checkpoint.lora.adapter import base_model, is_adapter, open_adapter  # a hub name needs no such library

    if not (path.is_dir() and is_adapter(path)):
        return ""
    base = Path(base_model(open_adapter(path))).expanduser()
    return local_source(base).identity if base.is_dir() else str(base)


def hub_source(path: Path) -> Source:
    """The source of what the hub's cache holds at `path`: `.../models--org--name/snapshots/COMMIT[/file]`."""
    parts = path.parts
    at = len(parts) - 1 - parts[::-1].index("snapshots") if "snapshots" in parts[:-1] else 0
    return Source(path, f"hub {'/'.join(parts[at - 1 :])}") if at else local_source(path)


def _files(path: Path) -> Iterator[Path]:
    """The files that a conversion may read; of a GGUF file all its parts, and the configuration beside it."""
    if path.is_file():
        first = _PART.sub("", path.name)
        yield from sorted({path, *(file for file in path.parent.glob("*.gguf") if _PART.sub("", file.name) == first)})
        yield from (file for file in sorted(path.parent.glob("*.json")) if file.is_file())
        return
    for file in sorted([*path.iterdir(), *path.glob("additional_chat_templates/*.jinja")]):
        if file.suffix in _READ and not file.name.startswith(".") and file.is_file():
            yield file


def _add_contents(digest: hashlib._Hash, path: Path, size: int) -> None:
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            digest.update(file.read())
            return
        for sample in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1), os.SEEK_SET)
            digest.update(file.read(_SAMPLE_BYTES))
