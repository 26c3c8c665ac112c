"""The files of a checkpoint that every target carries along unchanged: configuration, tokenizer, chat template, licence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

MODEL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
)  # fmt: skip


def copy_model_files(source: Path, folder: Path) -> None:
    """Copy those of `MODEL_FILES` that `source` has, contents only: a link of a hub cache becomes a file.

    What config.json says of the source's own quantisation is left out: it is not that of the folder.
    """
    for name in MODEL_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" in config:
        write_config(folder, {key: value for key, value in config.items() if key != "quantization_config"})


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write `config` as config.json of `folder`."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
