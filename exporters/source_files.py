"""The files of a checkpoint that every target carries along unchanged: configuration, tokenizer, chat template, licence."""

from __future__ import annotations

import shutil
from pathlib import Path

MODEL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
)  # fmt: skip


def copy_model_files(source: Path, folder: Path) -> None:
    """Copy those of `MODEL_FILES` that `source` has, contents only: a link of a hub cache becomes a file."""
    for name in MODEL_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
