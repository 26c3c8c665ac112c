"""The name that llama.cpp has for a tokenizer.json's pre-tokeniser, found by its regular expressions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ovround.checkpoint.gguf.tokenizer.pre_tokenizers import GPT2, OF_ARCHITECTURE, PRE_TOKENIZERS, SUFFIX
from ovround.errors import UsageError

_SPELLINGS = (  # of one and the same expression
    ("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", SUFFIX),
    ("(?i:'s|'t|'re|'ve|'m|'d|'ll)", SUFFIX),
    ("\r", r"\r"),
    ("\n", r"\n"),
    (r"\p{N}{1}|", r"\p{N}|"),
    (r"\p{N}{1,1}", r"\p{N}"),
)


def recognise(normalizer: Any, pre_tokenizer: Any, ignore_merges: bool, architecture: str) -> str:
    """The name for `tokenizer.ggml.pre`; UsageError for a pre-tokeniser that llama.cpp does not have.

    The arguments are objects of tokenizer.json. Of several names with one meaning, the architecture's own comes first. A name
    that differs in normalisation alone will do, since llama.cpp does not normalise.
    """
    nfc, pieces = _nfc(normalizer), _pieces(pre_tokenizer)
    known = {name: _canonical(rule.steps) for name, rule in PRE_TOKENIZERS.items()}
    found = [name for name, steps in known.items() if steps == pieces]
    if not found:
        raise UsageError(
            f"format gguf: llama.cpp has no pre-tokeniser for this tokenizer ({_shown(pre_tokenizer)})",
            hint="--format openvino or onnx",
        )
    own = OF_ARCHITECTURE.get(architecture)

    def distance(name: str) -> tuple[bool, bool, bool]:
        rule = PRE_TOKENIZERS[name]
        return rule.ignore_merges != ignore_merges, rule.nfc != nfc, name != own

    return min(found, key=distance)


def _nfc(normalizer: Any) -> bool:
    """Whether text is normalised; UsageError for another normaliser than none and NFC."""
    steps = list(_flat(normalizer, "normalizers"))
    if any(step.get("type") != "NFC" for step in steps):
        raise UsageError(
            f"format gguf: llama.cpp has no such normaliser before byte-level BPE ({_shown(normalizer)})",
            hint="--format openvino or onnx",
        )
    return bool(steps)


def _pieces(pre_tokenizer: Any) -> list[str]:
    return _canonical(_flat(pre_tokenizer, "pretokenizers"))


def _canonical(steps: Iterable[Mapping[str, Any]]) -> list[str]:
    """The steps as one list of expressions; what is no expression stands as its own JSON."""
    found = []
    for step in steps:
        kind = step.get("type")
        if kind == "ByteLevel" and not step.get("add_prefix_space"):
            found += [_regex(GPT2), "bytes"] if step.get("use_regex", True) else ["bytes"]
        elif kind == "Digits":
            found.append(_regex(r"\p{N}" if step.get("individual_digits") else r"\p{N}+"))
        elif kind == "Split" and _isolates(step) and "Regex" in (pattern := step.get("pattern") or {}):
            found.append(_regex(str(pattern["Regex"])))
        else:
            found.append(_shown(step))
    return found


def _isolates(step: Mapping[str, Any]) -> bool:
    """Whether a match becomes a piece: isolated, or the only thing that is kept, as of expressions that match everything."""
    return (step.get("behavior"), step.get("invert")) in (("Isolated", False), ("Removed", True))


def _regex(text: str) -> str:
    for spelling, usual in _SPELLINGS:
        text = text.replace(spelling, usual)
    return "r:" + re.sub(r"\|\\s\+$", "", text)  # isolated anyway


def _flat(part: Any, key: str) -> Iterable[Mapping[str, Any]]:
    if not isinstance(part, dict):
        return
    if part.get("type") == "Sequence":
        for step in part.get(key) or ():
            yield from _flat(step, key)
    else:
        yield part


def _shown(part: Any) -> str:
    return json.dumps(part, ensure_ascii=False, sort_keys=True)[:300]
