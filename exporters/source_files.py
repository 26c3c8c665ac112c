"""The files of a checkpoint that every target carries along unchanged: configuration, tokenizer, chat template, licence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

MODEL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
)  # fmt: skip


def copy_model_files(source: Path, folder: Path, context_length: int) -> None:
    """Copy those of `MODEL_FILES` that `source` has, contents only: a link of a hub cache becomes a file.

    A config.json that does not say how long a text may be, or says it under a name of its family, gets `context_length`.
    """
    for name in MODEL_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    config = folder / "config.json"
    stated = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else None
    if stated is not None and stated.get("max_position_embeddings") != context_length:
        config.write_text(json.dumps({**stated, "context_length": context_length}, indent=2) + "\n", encoding="utf-8")
