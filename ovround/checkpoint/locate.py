"""The folder of a model that a user names: a local path, `demo` for the model that ships with ovround, or a hub name."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from ovround.artifact.manifest import MANIFEST
from ovround.errors import CheckpointError, MissingExtraError

DEMO = "demo"
DEMO_FOLDER = Path(__file__).resolve().parent.parent / "demo_model"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
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
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingExtraError("huggingface_hub", "convert")
    return _download(model)


def _download(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = model.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"`{model}` is no local folder, and the hub did not give it: {reason}",
            hint="check the name and the network, or give a local folder",
        ) from error


def is_ir(folder: Path) -> bool:
    """Whether `folder` is an OpenVINO IR that somebody else exported."""
    return (folder / "openvino_model.xml").is_file() and not (folder / MANIFEST).is_file()
