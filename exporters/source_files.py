"""The files of a checkpoint that every format copies unchanged: configuration, tokenizer, chat template, licence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ovround.checkpoint.text_part import text_config
from ovround.errors import CheckpointError

MODEL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
)  # fmt: skip
TEMPLATES = "additional_chat_templates"


def model_files(source: Path) -> list[str]:
    """The names of those files that `source` has: of `MODEL_FILES`, and its named chat templates."""
    named = sorted(f"{TEMPLATES}/{path.name}" for path in (source / TEMPLATES).glob("*.jinja"))
    return [name for name in (*MODEL_FILES, *named) if (source / name).is_file()]


def check_links(source: Path) -> None:
    """Raise CheckpointError for one of `model_files` that is a link out of `source`: the copy would reveal a foreign file.

    Links within a hub cache, from snapshots/REVISION/FILE to blobs/HASH, are allowed.
    """
    folder = source.resolve()
    allowed = [folder, folder.parents[1] / "blobs"] if folder.parent.name == "snapshots" else [folder]
    for name in model_files(source):
        resolved = (folder / name).resolve()
        if resolved != folder / name and not any(parent in resolved.parents for parent in allowed):
            raise CheckpointError(
                f"`{source / name}` is a link out of its folder, to `{resolved}`",
                hint="copy the file there, or remove the link",
            )


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
