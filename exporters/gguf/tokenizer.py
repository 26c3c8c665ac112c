"""The tokenizer and chat templates of a model folder as keys of a GGUF file.

transformers builds the tokenizer, since it does not always take the whole of tokenizer.json: what is written is what the model
was tuned with, and what openvino_genai gets.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ovround.checkpoint.files.small_files import TEMPLATE_FILES, TEMPLATES
from ovround.checkpoint.gguf.tokenizer import vocabulary_metadata
from ovround.errors import CheckpointError
from ovround.exporters.tokenizer_source import show_tokenizer

_ROLES = ("bos", "eos", "unk", "sep", "pad", "mask")


def tokenizer_metadata(source: Path, rows: int, architecture: str) -> dict[str, Any]:
    """Keys and values: one token, one type, and where needed one score for each of `rows` rows of the embedding.

    Numbers are whole (uint32; int32 in `token_type`), floats (float32), booleans and texts. `architecture` is llama.cpp's name.
    Raises UsageError for a tokenizer that llama.cpp cannot compute, CheckpointError for one that transformers cannot read.
    """
    with tempfile.TemporaryDirectory() as scratch:
        shown = Path(scratch) / "tokenizer"
        show_tokenizer(source, shown)
        try:
            tokenizer = AutoTokenizer.from_pretrained(shown, local_files_only=True, trust_remote_code=False)
            parts = json.loads(tokenizer.backend_tokenizer.to_str())
        except Exception as error:  # tokenizers raises nothing narrower than this
            raise CheckpointError(f"transformers cannot read the tokenizer of `{source}`: {error}") from error
    roles = {role: str(token) for role in _ROLES if (token := getattr(tokenizer, f"{role}_token", None)) is not None}
    templates = _templates(getattr(tokenizer, "chat_template", None), source)
    return vocabulary_metadata(parts, roles, rows, architecture) | templates


def _templates(stated: Any, source: Path) -> dict[str, Any]:
    """The chat template, and further ones, under their names with a list of these.

    `stated` are those that transformers has read. As there, files of further templates rule over tokenizer_config.json.
    """
    files = {path.stem: path.read_text(encoding="utf-8") for path in sorted((source / TEMPLATES).glob("*.jinja"))}
    named = {"default": stated} if isinstance(stated, str) else dict(stated) if isinstance(stated, dict) else {}
    if files and not (source / TEMPLATE_FILES[0]).is_file():
        named = {}
    named |= files
    main = {"tokenizer.chat_template": named.pop("default")} if "default" in named else {}
    further = {f"tokenizer.chat_template.{name}": text for name, text in named.items()}
    return main | further | ({"tokenizer.chat_templates": sorted(named)} if named else {})
