"""The files and keys of a checkpoint from which transformers may build a tokenizer.

transformers acts on keys that no tokenizer needs. `auto_map` names Python files to run, `*_internal` keys have chosen
implementations (CVE-2026-4372), nested keys have turned `trust_remote_code` on (CVE-2026-5241). So it sees a copy of the
checkpoint that has only the files and keys listed here.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from ovround.checkpoint import read_json
from ovround.errors import CheckpointError

_FILES = (
    "tokenizer.json", "tokenizer.model", "tiktoken.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt",
    "chat_template.jinja",
)  # fmt: skip
_OBJECTS = {
    # these choose the class of the tokenizer
    "config.json": ("model_type", "model_name", "tokenizer_class", "transformers_version"),
    "tokenizer_config.json": (
        "add_bos_token", "add_eos_token", "add_prefix_space", "added_tokens_decoder", "additional_special_tokens",
        "bos_token", "byte_fallback", "chat_template", "clean_up_tokenization_spaces", "cls_token", "do_lower_case",
        "eos_token", "errors", "extra_special_tokens", "fix_mistral_regex", "legacy", "mask_token",
        "model_input_names", "model_max_length", "pad_token", "padding_side", "sep_token",
        "spaces_between_special_tokens", "split_special_tokens", "strip_accents", "tokenize_chinese_chars",
        "tokenizer_class", "trim_offsets", "truncation_side", "unk_token", "use_default_system_prompt",
    ),
    "special_tokens_map.json": (
        "additional_special_tokens", "bos_token", "cls_token", "eos_token", "mask_token", "pad_token", "sep_token",
        "unk_token",
    ),
    "chat_template.json": ("chat_template",),
}  # fmt: skip
_NAMES = ("model_type", "model_name", "tokenizer_class", "transformers_version")
_NAME = re.compile(r"[\w.+-]{1,100}")


def show_tokenizer(source: Path, folder: Path) -> None:
    """Fill `folder` with the files of `source` that a tokenizer needs; raises CheckpointError for an invalid name."""
    folder.mkdir()
    for name in (*_FILES, *(path.name for path in source.glob("*.tiktoken"))):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    for name, keys in _OBJECTS.items():
        if not (source / name).is_file():
            continue
        stated = read_json(source / name)
        kept = {key: stated[key] for key in keys if stated.get(key) is not None}
        _check_names(source / name, kept)
        (folder / name).write_text(json.dumps(kept), encoding="utf-8")
    if (source / "added_tokens.json").is_file():
        added = read_json(source / "added_tokens.json")
        (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")


def _check_names(path: Path, kept: dict[str, Any]) -> None:
    for key in _NAMES:
        value = kept.get(key)
        if value is not None and not (isinstance(value, str) and _NAME.fullmatch(value)):
            raise CheckpointError(f"`{path}`: {key} is {value!r:.60}; a name is needed")
