"""Reading of tokenizer.json as in transformers 5, so that token ids are the same here, in calibration and in genai.

transformers does not always use the whole file. For a `tokenizer_class` with its own constructor, AutoTokenizer keeps the
file's vocabulary, merges and post-processor, but sets normaliser, pre-tokeniser and decoder itself
(`TokenizersBackend.convert_to_native_format`). This module rebuilds the two such classes that Llama checkpoints name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from ovround.errors import ArtifactError
from ovround.runtime.json_object import read_object

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_SPACE = "\u2581"  # SentencePiece's visible space


def load_backend(folder: Path) -> Backend:
    """The tokenizer of `folder`, without truncation and padding; raises ArtifactError if it is missing or damaged."""
    path = folder / "tokenizer.json"
    parts = read_object(path)
    config = read_object(folder / "tokenizer_config.json", optional=True)
    rebuilt = _rebuild(parts, config, read_object(folder / "config.json", optional=True).get("model_type"))
    parts["added_tokens"] = _added_tokens(parts, config, rebuilt)
    parts["truncation"] = parts["padding"] = None
    try:
        return Backend.from_str(json.dumps(parts))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ArtifactError(f"`{path}` is no tokenizer: {error}", hint="copy the whole folder again") from error


def special_tokens(folder: Path) -> dict[str, str]:
    """The named special tokens (`bos_token`, ...) of tokenizer_config.json, else of special_tokens_map.json."""
    config = read_object(folder / "tokenizer_config.json", optional=True)
    if "added_tokens_decoder" not in config:  # transformers reads special_tokens_map.json only for older folders
        config |= read_object(folder / "special_tokens_map.json", optional=True)
    named = {name: config[name] for name in SPECIAL_TOKENS if config.get(name)}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in named.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _rebuild(parts: dict[str, Any], config: dict[str, Any], model_type: Any) -> bool:
    """Change `parts` like the declared class does; returns whether it changed them."""
    declared = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    model = parts.get("model")
    if model_type != "llama" or not isinstance(model, dict) or model.get("type") != "BPE":
        return False
    plain = {"dropout": None, "unk_token": None, "ignore_merges": False}
    if declared == "LlamaTokenizer" and '"ByteLevel"' not in json.dumps(parts):
        parts["model"] = {**model, **plain, "fuse_unk": True, "byte_fallback": True}
        parts |= _sentencepiece(config)
        return True
    if declared == "GPT2Tokenizer":
        parts["model"] = {**model, **plain, "fuse_unk": False, "byte_fallback": False}
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        prefix = bool(config.get("add_prefix_space"))
        parts |= {"normalizer": None, "pre_tokenizer": {**level, "add_prefix_space": prefix}, "decoder": level}
        return True
    return False


def _sentencepiece(config: dict[str, Any]) -> dict[str, Any]:
    """Normaliser, pre-tokeniser and decoder of transformers' LlamaTokenizer."""
    prefix = config.get("add_prefix_space") in (None, True)
    scheme = "never" if not prefix else "always" if config.get("legacy") else "first"
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    metaspace = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": False}
    return {"normalizer": None, "pre_tokenizer": metaspace, "decoder": {"type": "Sequence", "decoders": steps}}


def _added_tokens(parts: dict[str, Any], config: dict[str, Any], rebuilt: bool) -> list[dict[str, Any]]:
    """The file's added tokens, overridden by those of tokenizer_config.json; a rebuilt class uses only the latter."""
    try:
        stated = {int(key): {"id": int(key), **token} for key, token in config.get("added_tokens_decoder", {}).items()}
        in_file = {int(token["id"]): token for token in parts.get("added_tokens", [])}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the added tokens of the tokenizer cannot be read: {error!r}") from error
    merged = stated if rebuilt and stated else in_file | stated
    return [merged[key] for key in sorted(merged)]
