"""The files of a checkpoint that every format copies unchanged: configuration, tokenizer, chat template, licence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ovround.checkpoint.files.small_files import model_files
from ovround.checkpoint.text_part import text_config


def copy_model_files(source: Path, folder: Path, context_length: int) -> None:
    """Copy the `model_files` of `source`; a link of a hub cache becomes a file.

    config.json becomes that of the text model where the source is multimodal. It loses the source's `quantization_config`,
    which does not describe the new folder. It gains `context_length` where it does not state that length as
    `max_position_embeddings`.
    """
    for name in model_files(source):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    config = folder / "config.json"
    if not config.is_file():
        return
    stated = json.loads(config.read_text(encoding="utf-8"))
    written = {key: value for key, value in text_config(stated).items() if key != "quantization_config"}
    if written.get("max_position_embeddings") != context_length:
        written["context_length"] = context_length
    if written != stated:
        write_config(folder, written)


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write `config` as config.json of `folder`."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
