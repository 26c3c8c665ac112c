"""The other way: a tokenizer.json as `tokenizer.ggml.*`, in the words of llama.cpp's converter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE

from ovround.checkpoint.gguf.tokenizer.merges import merges_of_scores
from ovround.checkpoint.gguf.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from ovround.checkpoint.gguf.tokenizer.recognition import recognise
from ovround.checkpoint.gguf.tokenizer.vocabulary import IDS, TokenType
from ovround.errors import UsageError

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_LOOKS_SPECIAL = re.compile(r"<pad>|<mask>|<2mass>|\[@BOS@\]|<\|.*\|>|<\uff5c.*\uff5c>|<unused.*>", re.DOTALL)
_ADDED = -1000.0  # score of a token that was added to a SentencePiece vocabulary
_HINT = "--format openvino or onnx"


def vocabulary_metadata(
    parts: Mapping[str, Any], roles: Mapping[str, str], rows: int, architecture: str
) -> dict[str, Any]:
    """Keys and values for the tokenizer with these `parts` of tokenizer.json, one token for each of `rows` embedding rows.

    `roles` are the special tokens by name (`bos`, `eos`, `unk`, `sep`, `pad`, `mask`), as texts. Raises UsageError for a
    tokenizer that llama.cpp cannot compute.
    """
    model = parts["model"]
    ids = (
        {**model["vocab"], **{token["content"]: token["id"] for token in parts["added_tokens"]}}
        if _is_bpe(model)
        else {}
    )
    if not ids:
        raise UsageError(f"format gguf: a tokenizer of type {model.get('type')} is not written; BPE is", hint=_HINT)
    tokens, types = _tokens(parts, ids, rows)
    if _has_bytes(parts):
        name = recognise(parts["normalizer"], parts["pre_tokenizer"], model["ignore_merges"], architecture)
        if PRE_TOKENIZERS[name].ignore_merges != bool(model["ignore_merges"]):
            _check_reached(model, name)
        keys: dict[str, Any] = {"model": "gpt2", "pre": name}
        keys |= {"tokens": tokens, "token_type": types, "merges": [_merge(pair) for pair in _pairs(model)]}
    else:
        keys = {"model": "llama", "pre": "default", **_prefix(parts)}
        tokens, types = _sentencepiece_types(parts, tokens, types)
        keys |= {"tokens": tokens, "scores": _scores(parts, tokens, types), "token_type": types}
    first, last = _around(parts)
    named = {role: ids[token] for role, token in roles.items() if ids.get(token, rows) < rows and role in IDS}
    if first is not None:
        named["bos"] = ids[first]
    if last is not None:
        named["eos"] = ids[last]
    keys |= {"add_bos_token": first is not None, "add_eos_token": last is not None}
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()} | {
        f"tokenizer.ggml.{IDS[role]}": index for role, index in named.items()
    }


def _is_bpe(model: Mapping[str, Any]) -> bool:
    plain = (
        not model.get("continuing_subword_prefix") and not model.get("end_of_word_suffix") and not model.get("dropout")
    )
    return model.get("type") == "BPE" and plain


def _has_bytes(parts: Mapping[str, Any]) -> bool:
    return '"ByteLevel"' in str(parts["pre_tokenizer"]).replace("'", '"')


def _tokens(parts: Mapping[str, Any], ids: Mapping[str, int], rows: int) -> tuple[list[str], list[int]]:
    """Texts and types by id. A row without a token is [PADid]; tokens without a row cannot be written."""
    tokens = [f"[PAD{index}]" for index in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    for token, index in ids.items():
        if index < rows and token != tokens[index]:
            tokens[index], types[index] = token, TokenType.NORMAL
    for token in parts["added_tokens"]:
        if token["id"] < rows:
            special = token["special"] or _LOOKS_SPECIAL.fullmatch(token["content"])
            types[token["id"]] = int(TokenType.CONTROL if special else TokenType.USER_DEFINED)
    return tokens, [int(kind) for kind in types]


def _pairs(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (merge if isinstance(merge, list) else merge.split(" ", 1) for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def _merge(pair: tuple[str, str]) -> str:
    """Both parts with a blank between; one within a part is spelled as its byte, as llama.cpp's converter does."""
    return " ".join(part.replace(" ", "\u0120") for part in pair)


def _check_reached(model: Mapping[str, Any], name: str) -> None:
    """Raise UsageError for a token that its merges do not make: only `ignore_merges` tells whether it is ever used."""
    alone = Tokenizer(BPE(dict(model["vocab"]), _pairs(model), fuse_unk=False))
    for token, index in model["vocab"].items():
        if alone.encode(token, add_special_tokens=False).ids != [index]:
            raise UsageError(
                f"format gguf: llama.cpp's pre-tokeniser `{name}` treats {token!r:.60} otherwise, a token that no merges make",
                hint=_HINT,
            )


def _prefix(parts: Mapping[str, Any]) -> dict[str, bool]:
    """Whether a blank is put in front of a text; UsageError for anything but SentencePiece's treatment of blanks.

    Where the blank comes before the first piece of a text alone, the flag is left out, which means the same to llama.cpp.
    """
    text = str(parts["normalizer"]) + str(parts["pre_tokenizer"])
    names = set(re.findall(r"'type': '(\w+)'", text))
    if not names <= {"Sequence", "Prepend", "Replace", "Metaspace", "Split"} or _SPACE not in text:
        raise UsageError(f"format gguf: llama.cpp has no such normaliser or pre-tokeniser ({text[:300]})", hint=_HINT)
    if not parts["model"]["byte_fallback"]:
        raise UsageError("format gguf: a SentencePiece tokenizer without tokens for bytes", hint=_HINT)
    if "'prepend_scheme': 'first'" in text:
        return {}
    return {"add_space_prefix": "Prepend" in names or "'prepend_scheme': 'always'" in text}


def _sentencepiece_types(parts: Mapping[str, Any], tokens: list[str], types: list[int]) -> tuple[list[str], list[int]]:
    """Tokens and types with bytes, the unknown token, and added runs of blanks as what they stand for."""
    unknown = parts["model"].get("unk_token") or "<unk>"
    tokens, types = list(tokens), list(types)
    for index, token in enumerate(tokens):
        if types[index] == TokenType.NORMAL and _BYTE.fullmatch(token):
            types[index] = int(TokenType.BYTE)
        elif token == unknown and types[index] == TokenType.NORMAL:
            types[index] = int(TokenType.UNKNOWN)
        elif types[index] == TokenType.USER_DEFINED:
            tokens[index] = token.replace(_SPACE, " ")
    return tokens, types


def _scores(parts: Mapping[str, Any], tokens: list[str], types: list[int]) -> list[float]:
    """Scores by which llama.cpp joins the same pairs; UsageError where the merges are no SentencePiece's.

    SentencePiece may build a token from any two of its parts. Merges of another making say which.
    """
    kinds = list(zip(tokens, types, strict=True))
    spelled = [token.replace(" ", _SPACE) if kind == TokenType.USER_DEFINED else token for token, kind in kinds]
    fixed = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE, TokenType.UNUSED)
    known = {token for token, kind in zip(spelled, types, strict=True) if kind not in fixed}
    own = {token for token, kind in zip(spelled, types, strict=True) if kind == TokenType.USER_DEFINED}
    pairs = [pair for pair in _pairs(parts["model"]) if {*pair, pair[0] + pair[1]} <= known]
    made = [token for token, _ in groupby(left + right for left, right in pairs) if token not in own]
    differing = len(made) - len(set(made))
    differing += len(set(pairs) ^ set(merges_of_scores(list(known), known, dict.fromkeys(known, 0.0))))
    if differing:
        raise UsageError(
            f"format gguf: {differing} merges of this tokenizer are not SentencePiece's, which joins any two tokens that make a "
            "third, in the order of the third",
            hint=_HINT,
        )
    order = dict.fromkeys([*made, *(token for token, kind in kinds if kind == TokenType.NORMAL)])
    ranks = {token: -float(rank) for rank, token in enumerate(order)}
    return [0.0 if kind == TokenType.BYTE else ranks.get(token, _ADDED) for token, kind in kinds]


def _around(parts: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The tokens that are put before and behind every text."""
    processor = parts.get("post_processor") or {}
    steps = processor.get("processors") or [processor]
    template = next((step for step in steps if step.get("type") == "TemplateProcessing"), None)
    if template is None:
        return None, None
    names = [next(iter(part.items())) for part in template["single"]]
    marks = [value["id"] if kind == "SpecialToken" else None for kind, value in names]
    at = next(index for index, (kind, _) in enumerate(names) if kind == "Sequence")
    if at > 1 or len(marks) - at > 2:
        raise UsageError("format gguf: llama.cpp puts at most one token before and one behind a text", hint=_HINT)
    return (marks[0] if at else None), (marks[-1] if len(marks) - at == 2 else None)
