"""The folder of a model that a user names: a local path, `demo` for the model that ships with ovround, or a hub name."""

from __future__ import annotations

import re
from pathlib import Path

from ovround.artifact.manifest import MANIFEST
from ovround.checkpoint.hub import download
from ovround.checkpoint.weight_files import has_safetensors
from ovround.errors import CheckpointError

DEMO = "demo"
DEMO_FOLDER = Path(__file__).resolve().parent.parent / "demo_model"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "LICENSE*", "NOTICE*", "README.md"]

_TWICE = ["consolidated*", "original/*"]  # the same weights in another layout
_PICKLED = ["pytorch_model*.bin", "*g.bin"]  # transformers' names, and AutoGPTQ's, which end in the group size


def locate(model: str) -> Path:
    """The folder of `model`, or a GGUF file; a hub name (`org/name` or `org/name@revision`) is downloaded to the hub's own cache.

    Raises CheckpointError when it is neither, or when the download fails.
    """
    path = Path(model).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if model == DEMO:
        return DEMO_FOLDER
    if path.exists() or not _HUB_NAME.fullmatch(model):
        raise CheckpointError(
            f"`{model}` is no folder and no hub name",
            hint="give a model folder, a hub name such as org/model, or `demo`",
        )
    name, _, revision = model.partition("@")
    folder = download(name, revision or None, _WANTED, _TWICE)
    if not has_safetensors(folder):
        folder = download(name, revision or None, [*_WANTED, *_PICKLED])
    return folder


def is_ir(folder: Path) -> bool:
    """Whether `folder` is an OpenVINO IR that somebody else exported."""
    return (folder / "openvino_model.xml").is_file() and not (folder / MANIFEST).is_file()
