"""The error for a folder without config.json, which says what the folder is as far as that can be told."""

from __future__ import annotations

from pathlib import Path

from ovround.errors import CheckpointError

CONFIG = "config.json"
_MODEL_FILES = (CONFIG, "openvino_model.xml", "model.onnx")
_EXAMPLE = "HuggingFaceTB/SmolLM2-135M-Instruct"


def missing_config(folder: Path) -> CheckpointError:
    """The error to raise."""
    inner = sorted({path.parent for name in _MODEL_FILES for path in folder.glob(f"*/{name}")})
    if inner:
        return CheckpointError(
            f"`{folder}` has no {CONFIG}, {len(inner)} folder(s) within it have one", hint=f"name one: {inner[0]}"
        )
    empty = folder.is_dir() and not any(folder.iterdir())
    return CheckpointError(
        f"`{folder}` is empty" if empty else f"`{folder}` has no {CONFIG}",
        hint=f"a model's folder has {CONFIG} and weights; a name on the hub, such as {_EXAMPLE}, is downloaded",
    )
