"""The folder of a model that a user names: a local path, `demo` for the model that ships with ovround, or a hub name."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from ovround.artifact.manifest import MANIFEST
from ovround.checkpoint.files.weight_files import has_safetensors
from ovround.checkpoint.gguf.hub_file import download_gguf, gguf_models, tags
from ovround.checkpoint.hub import download, repository_files
from ovround.checkpoint.local_path import local_model
from ovround.errors import CheckpointError

DEMO = "demo"
DEMO_FOLDER = Path(__file__).resolve().parent.parent / "demo_model"
_HUB_NAME = re.compile(r"(?:hf\.co/|huggingface\.co/)?([\w.-]+/[\w.-]+)(?::([\w.-]+))?(?:@([\w./-]+))?")
_WANTED = [
    "*.safetensors", "*.json", "*.jinja", "tokenizer.model", "tiktoken.model", "spiece.model", "*.tiktoken", "merges.txt",
    "vocab.txt", "LICENSE*", "NOTICE*", "README.md",
]  # fmt: skip

_TWICE = ["consolidated*", "original/*"]  # the same weights in another layout
_PICKLED = ["pytorch_model*.bin", "*g.bin"]  # transformers' names, and AutoGPTQ's, which end in the group size


def locate(model: str) -> Path:
    """The folder of `model`, or a GGUF file; a hub name is downloaded to the hub's own cache.

    Hub names are `org/name`, `org/name@revision`, and of a GGUF file `org/name:Q4_K_M`, with `hf.co/` before them or not.
    Raises CheckpointError when it is neither, or when the download fails.
    """
    path = Path(model).expanduser()
    found = local_model(path) if path.exists() else None
    if found is not None:
        return found
    if model == DEMO:
        return DEMO_FOLDER
    match = _HUB_NAME.fullmatch(model)
    if path.exists() or match is None:
        raise CheckpointError(
            f"`{model}` is no {'file of a model' if path.is_file() else 'folder and no hub name'}",
            hint="give a model folder, a GGUF file, a hub name such as org/model, or `demo`",
        )
    name, tag, revision = match.groups()
    if tag is not None:
        return download_gguf(name, tag, revision)
    folder = download(name, revision, _WANTED, _TWICE)
    if has_safetensors(folder):
        return folder
    files = repository_files(name, revision)
    models = gguf_models(files)
    if models and not any(fnmatch(file, pattern) for file in files for pattern in _PICKLED):
        raise CheckpointError(
            f"`{name}` has GGUF files alone: {', '.join(tags(models))}", hint=f"name one: {name}:{tags(models)[0]}"
        )
    return download(name, revision, [*_WANTED, *_PICKLED])


def is_ir(folder: Path) -> bool:
    """Whether `folder` is an OpenVINO IR that somebody else exported."""
    return (folder / "openvino_model.xml").is_file() and not (folder / MANIFEST).is_file()
