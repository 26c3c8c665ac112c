"""What a local path stands for when somebody names it as a model: the folder, a file of it, a hub cache, a training run.

People name what they see: the weights file instead of its folder, the folder of the hub's cache instead of its snapshot, a
blob of ollama's store, which is a GGUF file without an ending. Those are unambiguous and are read. A folder without config.json
is refused with what it is.
"""

from __future__ import annotations

import re
from pathlib import Path

from ovround.checkpoint.files.weight_files import ADAPTER
from ovround.errors import CheckpointError

GGUF_MAGIC = b"GGUF"
_OLD_MAGICS = (b"lmgg", b"tjgg", b"fmgg", b"algg", b"ggml", b"ggjt", b"ggmf", b"ggla")
_OF_A_FOLDER = re.compile(r"config\.json|.*\.safetensors(\.index\.json)?|pytorch_model.*\.bin(\.index\.json)?")
_CONFIG, _ADAPTER_CONFIG = "config.json", "adapter_config.json"


def local_model(path: Path) -> Path | None:
    """The model folder or GGUF file that `path`, which exists, stands for; None for a file of no model.

    Raises CheckpointError for what is certainly no model folder, saying what it is.
    """
    if path.is_dir():
        snapshot = _snapshot(path)
        if snapshot is not None:
            return snapshot
        _refuse_other_layouts(path)
        return path
    if not path.is_file():
        return None
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == GGUF_MAGIC or path.suffix == ".gguf":
        return path
    if magic in _OLD_MAGICS:
        raise CheckpointError(
            f"`{path}` is of the format that llama.cpp had before GGUF (August 2023)",
            hint="download the model as a GGUF file, or its original checkpoint",
        )
    beside = path.parent / (_ADAPTER_CONFIG if path.name == ADAPTER else _CONFIG)
    return path.parent if beside.is_file() and _OF_A_FOLDER.fullmatch(path.name) else None


def _snapshot(folder: Path) -> Path | None:
    """The snapshot that a folder `models--org--name` of the hub's cache has for its main branch, or the only one."""
    if not folder.name.startswith("models--") or not (folder / "snapshots").is_dir():
        return None
    main = folder / "refs" / "main"
    if main.is_file():
        snapshot = folder / "snapshots" / main.read_text(encoding="utf-8").strip()
        if snapshot.is_dir() and snapshot.parent == folder / "snapshots":
            return snapshot
    found = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    if len(found) == 1:
        return found[0]
    raise CheckpointError(
        f"`{folder}` is a folder of the hub's cache with {len(found)} snapshots",
        hint=f"name one: {found[0]}" if found else "download the model again",
    )


def _refuse_other_layouts(folder: Path) -> None:
    if (folder / _CONFIG).is_file() or (folder / _ADAPTER_CONFIG).is_file():
        return
    if (folder / "params.json").is_file():
        whose = "Meta" if any(folder.glob("consolidated.*.pth")) else "Mistral"
        raise CheckpointError(
            f"`{folder}` is in {whose}'s own layout (params.json), not in Hugging Face's",
            hint="the model's page on the hub has config.json and model.safetensors too, or names who has them",
        )
    saved = [path for path in folder.glob("checkpoint-*") if (path / _CONFIG).is_file()]
    saved += [path for path in folder.glob("checkpoint-*") if (path / _ADAPTER_CONFIG).is_file()]
    if saved:
        newest = max(saved, key=_step)
        raise CheckpointError(
            f"`{folder}` is the folder of a training run with {len(saved)} checkpoint(s)",
            hint=f"name one of them; the newest is {newest}",
        )


def _step(path: Path) -> int:
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1
