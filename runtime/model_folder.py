"""The folder that engines load for whatever names a model."""

from __future__ import annotations

import sys
from pathlib import Path

from ovround.artifact.manifest import ENGINE_FORMATS, MANIFEST
from ovround.runtime.engines import HPU_DEVICES, ONNX_FILE, OPENVINO_FILE


def model_folder(model: str | Path, device: str = "CPU") -> Path:
    """`model` itself where engines load it, or say what it is; else its conversion by `ovround.cached_model`.

    A checkpoint folder, a GGUF file or a hub name is converted once, by rounding, which needs the extra `convert` and says on
    standard error what it does. An HPU runs a checkpoint as it is. Raises OvroundError for a model that cannot be converted.
    """
    path = Path(model).expanduser()
    if path.is_dir() and _is_loaded_as_it_is(path, device):
        return path
    from ovround.conversion.cache import (
        cached_model,  # the toolchain: an application that embeds the runtime gives a folder
    )

    return cached_model(model, on_message=_say)


def _is_loaded_as_it_is(folder: Path, device: str) -> bool:
    if device.lower() in HPU_DEVICES:
        return True
    if any((folder / name).is_file() for name in (OPENVINO_FILE, ONNX_FILE, MANIFEST)):
        return True
    return any((folder / name / MANIFEST).is_file() for name in ENGINE_FORMATS)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
