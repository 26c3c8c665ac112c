"""Single digits and GPT-2's words in one expression, for OpenVINO's tokenizer.

Many tokenizers (SmolLM, StarCoder, Granite) cut digits off before GPT-2's expression sees the rest. openvino_tokenizers lets that
expression look beyond the cut, so that two blanks before a digit become two tokens, not one. One expression leaves nothing to look at.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

_DIGITS = {"type": "Digits", "individual_digits": True}
_JOINED = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"


def join_digit_splitting(backend: Tokenizer) -> None:
    """Replace single digits and GPT-2's words by one expression that gives the same pieces; leave others as they are."""
    if backend.pre_tokenizer is None:
        return
    stated: dict[str, Any] = json.loads(backend.pre_tokenizer.__getstate__())
    steps = stated.get("pretokenizers") or []
    if len(steps) != 2 or steps[0] != _DIGITS or steps[1].get("type") != "ByteLevel":
        return
    if steps[1].get("use_regex", True) and not steps[1].get("add_prefix_space"):
        split = Split(Regex(_JOINED), "isolated")
        backend.pre_tokenizer = Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
