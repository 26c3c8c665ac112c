"""What a local path stands for when somebody names it as a model: the folder, a file of it, a hub cache, a training run.

People name what they see: the weights file instead of its folder, the folder of the hub's cache instead of its snapshot, a
blob of ollama's store, which is a GGUF file without an ending. Those are unambiguous and are read. A folder without config.json
is refused with what it is.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from ovround.artifact.manifest import MANIFEST
from ovround.checkpoint.files.weight_files import ADAPTER
from ovround.errors import CheckpointError

GGUF_MAGIC = b"GGUF"
_OLD_MAGICS = (b"lmgg", b"tjgg", b"fmgg", b"algg", b"ggml", b"ggjt", b"ggmf", b"ggla")
_OF_A_FOLDER = re.compile(r"config\.json|.*\.safetensors(\.index\.json)?|pytorch_model.*\.bin(\.index\.json)?")
_PLACE = re.compile("[:@]")  # begins what is not the repository of a hub name
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz", ".pkl", ".msgpack")
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


def no_model(path: Path) -> CheckpointError:
    """The error for a file that is there and is no model."""
    kind = path.suffix.lower()
    beside = (path.parent / _CONFIG).is_file() or (path.parent / MANIFEST).is_file()
    hint = "give a model folder, a GGUF file, a hub name such as org/model, or `demo`"
    if kind in _ARCHIVES:
        hint = "unpack it, and give the folder with the model's config.json"
    elif kind in (".onnx", ".xml", ".data") and beside:
        hint = f"give its folder: {path.parent}"
    elif kind in (".onnx", ".xml", ".tflite", ".mlmodel", ".h5"):
        hint = "it is converted for another program: give the folder or hub name of the model that it was made from"
    elif kind in _WEIGHTS:
        hint = "weights alone do not say what they are: give the folder with its config.json, or the model's hub name"
    return CheckpointError(f"`{path}` is no file of a model", hint=hint)


def no_path(text: str) -> CheckpointError:
    """The error for a path that is not there."""
    return CheckpointError(
        f"`{text}` is not there",
        hint=similar_path(text) or "give a model folder, a GGUF file, a hub name such as org/model, or `demo`",
    )


def similar_path(text: str) -> str | None:
    """A hint with a path beside the place of `text` whose name is close; None where there is none."""
    path = Path(text).expanduser()
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.is_dir() or entry.suffix == ".gguf"]
    except OSError:
        return None
    close = difflib.get_close_matches(path.name, names, 1)
    return f"did you mean `{text[: len(text.rstrip('/')) - len(path.name)]}{close[0]}`?" if close else None


def is_path(text: str) -> bool:
    """Whether `text` can only be a path, there or not."""
    return (
        text in (".", "..")
        or text.startswith(("/", "./", "../", "~"))
        or "\\" in text
        or _PLACE.split(text)[0].rstrip("/").count("/") > 1
    )


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
