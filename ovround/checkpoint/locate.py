"""The folder of a model that a user names: a local path, `demo` for the model that ships with ovround, or a hub name."""

from __future__ import annotations

import re
from pathlib import Path

from ovround.artifact.manifest import MANIFEST
from ovround.checkpoint.gguf.hub_file import download_gguf, gguf_models, tags
from ovround.checkpoint.hub import download, repository_files
from ovround.errors import CheckpointError

DEMO = "demo"
DEMO_FOLDER = Path(__file__).resolve().parent.parent / "demo_model"
_HUB_NAME = re.compile(r"(?:hf\.co/|huggingface\.co/)?([\w.-]+/[\w.-]+)(?::([\w.-]+))?(?:@([\w./-]+))?")
_WANTED = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "tokenizer.model",
    "tiktoken.model",
    "spiece.model",
    "*.tiktoken",
    "merges.txt",
    "vocab.txt",
    "LICENSE*",
    "NOTICE*",
    "README.md",
]


def locate(model: str) -> Path:
    """The folder of `model`, or a GGUF file; a hub name is downloaded to the hub's own cache.

    Hub names are `org/name`, `org/name@revision`, and of a GGUF file `org/name:Q4_K_M`, with `hf.co/` before them or not.
    Raises CheckpointError when it is neither, or when the download fails.
    """
    path = Path(model).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if model == DEMO:
        return DEMO_FOLDER
    match = _HUB_NAME.fullmatch(model)
    if path.exists() or match is None:
        raise CheckpointError(
            f"`{model}` is no folder and no hub name",
            hint="give a model folder, a hub name such as org/model, or `demo`",
        )
    name, tag, revision = match.groups()
    if tag is not None:
        return download_gguf(name, tag, revision)
    folder = download(name, revision, _WANTED)
    if folder.is_dir() and any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir()):
        return folder
    models = gguf_models(repository_files(name, revision))
    if models:
        raise CheckpointError(
            f"`{name}` has GGUF files alone: {', '.join(tags(models))}", hint=f"name one: {name}:{tags(models)[0]}"
        )
    return folder


def is_ir(folder: Path) -> bool:
    """Whether `folder` is an OpenVINO IR that somebody else exported."""
    return (folder / "openvino_model.xml").is_file() and not (folder / MANIFEST).is_file()
