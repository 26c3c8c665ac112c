"""Answers written out by hand, as the pieces that a server makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from ovround.runtime.decoding.completion import Piece, Usage
from ovround.runtime.decoding.sampling import SamplingOptions
from ovround.runtime.server.chat_syntax import with_shown_tokens
from ovround.runtime.text.text_stream import TextStream
from ovround.runtime.text.tokenizer import Tokenizer
from ovround.runtime.text.tool_formats.answer_parser import AnswerSyntax

SPECIAL = [
    "<|im_end|>",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "<|constrain|>",
    "[TOOL_CALLS]",
]


def tokenizer(folder: Path, template: str) -> Tokenizer:
    """Bytes as tokens, the special tokens of some formats, and the template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({character: key for key, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return Tokenizer(folder)


def recorded_pieces(reader: Tokenizer, syntax: AnswerSyntax | None, text: str, reason: Any = "stop") -> Iterator[Piece]:
    """A piece for each token of `text`, the last with `reason`."""
    shown = dict(with_shown_tokens(SamplingOptions(), syntax, reader).shown_tokens)
    stream = TextStream(reader, [], shown)
    ids = reader.encode(text, add_special_tokens=False)
    for token in ids[:-1]:
        yield Piece(stream.push(token), token)
    yield Piece(stream.push(ids[-1]) + stream.finish(), ids[-1], reason, Usage(5, len(ids), 2))
