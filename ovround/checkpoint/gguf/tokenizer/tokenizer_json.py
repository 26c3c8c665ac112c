"""tokenizer.json of a GGUF file's vocabulary: byte-level BPE, SentencePiece, WordPiece or Unigram.

The `tokenizers` library computes it. transformers builds tokenizers from GGUF files too, but knows 23 of llama.cpp's 86
pre-tokenisers, and splits text as GPT-2 does for all others without a word. It leaves out Unicode normalisation, and
spells DeepSeek's special tokens in bytes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import Any

from ovround.checkpoint.gguf.tokenizer.charsmap import check_charsmap
from ovround.checkpoint.gguf.tokenizer.merges import merges_of_scores
from ovround.checkpoint.gguf.tokenizer.pre_tokenizers import OF_ARCHITECTURE, PRE_TOKENIZERS, PreTokenizer
from ovround.checkpoint.gguf.tokenizer.vocabulary import BESIDE, TokenType, Vocabulary
from ovround.errors import CheckpointError

Parts = dict[str, Any]
"""tokenizer.json, or an object within it."""

_SPACE = "\u2581"  # SentencePiece's visible space
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_PADDING = re.compile(r"\[PAD\d+\]")
_SPECIAL_LOOK = re.compile(r"<.+>|\[.+\]|<\|.*|</s>|<s>")
_LLAMA3_TOKENS = range(128000, 129000)
_KNOWN = "gpt2 (byte-level BPE), llama (SentencePiece), gemma4, bert (WordPiece) and t5 (Unigram)"


def tokenizer_json(vocabulary: Vocabulary) -> Parts:
    """The parts of tokenizer.json; raises CheckpointError for a vocabulary that cannot be read, or contradicts itself."""
    build = _BUILDERS.get(vocabulary.model)
    if build is None:
        raise CheckpointError(
            f"the vocabulary of the GGUF file is `{vocabulary.model:.40}`; {_KNOWN} can be read", hint=BESIDE
        )
    parts: Parts = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": _added_tokens(vocabulary)}
    return parts | build(vocabulary)


def pre_tokenizer(vocabulary: Vocabulary) -> PreTokenizer:
    """What `tokenizer.ggml.pre` names; for an older file without it, what its architecture is tokenised with."""
    name = vocabulary.pre
    if name is None or (name == "default" and vocabulary.architecture in OF_ARCHITECTURE):
        llama3 = vocabulary.architecture == "llama" and len(vocabulary.tokens) in _LLAMA3_TOKENS
        name = "llama-bpe" if llama3 else OF_ARCHITECTURE.get(vocabulary.architecture, "default")
    if name not in PRE_TOKENIZERS:
        raise CheckpointError(
            f"the pre-tokeniser of the GGUF file is `{name:.40}`; known are {', '.join(sorted(PRE_TOKENIZERS))}",
            hint=BESIDE,
        )
    return PRE_TOKENIZERS[name]


def adds_bos(vocabulary: Vocabulary) -> bool:
    """Whether a text begins with the BOS token: the file's flag, else what llama.cpp takes for granted."""
    default = {"llama": True, "gpt2": vocabulary.model == "gpt2" and pre_tokenizer(vocabulary).add_bos}
    return "bos" in vocabulary.ids and vocabulary.flags.get("add_bos_token", default.get(vocabulary.model, False))


def adds_eos(vocabulary: Vocabulary) -> bool:
    """Whether a text ends with the EOS token."""
    return "eos" in vocabulary.ids and vocabulary.flags.get("add_eos_token", vocabulary.model == "t5")


def special_ids(vocabulary: Vocabulary) -> set[int]:
    """Ids that decoded text leaves out: control tokens, the unknown token, and special roles.

    A role can name an ordinary token: some files pad with `!`. Such a token stays ordinary where the file states types.
    """
    kinds = (TokenType.CONTROL, TokenType.UNKNOWN)
    special = {index for index, kind in enumerate(vocabulary.types) if kind in kinds}
    typed = vocabulary.typed and bool(special)
    named = {
        index for index in vocabulary.ids.values() if not typed or _SPECIAL_LOOK.fullmatch(vocabulary.tokens[index])
    }
    return special | named


def _added_tokens(vocabulary: Vocabulary) -> list[Parts]:
    """Tokens that are found in a text before it is split: special ones and the user's own, in the order of their ids."""
    special = special_ids(vocabulary)
    own = {index for index, kind in enumerate(vocabulary.types) if kind == TokenType.USER_DEFINED}
    strips = _strips_right(vocabulary, special)
    tokens = _visible(vocabulary.tokens) if vocabulary.model == "llama" else vocabulary.tokens
    return [
        {
            "id": index, "content": tokens[index], "single_word": False, "lstrip": False,
            "rstrip": index in strips, "normalized": False, "special": index in special,
        }
        for index in sorted(special | own)
    ]  # fmt: skip


def _strips_right(vocabulary: Vocabulary, special: set[int]) -> set[int]:
    """Phi-3's special tokens take the blanks behind them. No key of the file says so; llama.cpp goes by the model, too."""
    if vocabulary.architecture != "phi3" or vocabulary.model != "llama" or "<|assistant|>" not in vocabulary.tokens:
        return set()
    return {index for index in special if vocabulary.tokens[index] not in ("<unk>", "<s>", "<|endoftext|>")}


def _ids(vocabulary: Vocabulary, tokens: Iterable[str]) -> dict[str, int]:
    """Ids by token, without the rows that only pad the embedding."""
    return {
        token: index
        for index, token in enumerate(tokens)
        if not (vocabulary.types[index] == TokenType.UNUSED and _PADDING.fullmatch(token))
    }


def _check_merges(ids: dict[str, int], merges: Iterable[tuple[str, str]]) -> None:
    """Raise CheckpointError for a merge of or into something that is no token."""
    for index, (left, right) in enumerate(merges):
        for part in (left, right, left + right):
            if part not in ids:
                raise CheckpointError(
                    f"merge {index} of the GGUF file, {left!r:.40} with {right!r:.40}: {part!r:.60} is no token",
                    hint=BESIDE,
                )


def _bpe(ids: dict[str, int], merges: Iterable[tuple[str, str]]) -> Parts:
    return {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": ids,
        "merges": [list(pair) for pair in merges],
    }  # fmt: skip


def _byte_level(vocabulary: Vocabulary) -> Parts:
    rule = pre_tokenizer(vocabulary)
    if vocabulary.merges is None:
        raise CheckpointError(
            "the GGUF file has no `tokenizer.ggml.merges`, which a gpt2 vocabulary needs", hint=BESIDE
        )
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    ids = _ids(vocabulary, vocabulary.tokens)
    _check_merges(ids, vocabulary.merges)
    model = _bpe(ids, vocabulary.merges) | {"ignore_merges": rule.ignore_merges}
    around = _around(vocabulary)
    return {
        "normalizer": {"type": "NFC"} if rule.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(rule.steps)}
        if len(rule.steps) > 1
        else rule.steps[0],
        "post_processor": {"type": "Sequence", "processors": [level, around]} if around else level,
        "decoder": {**level, "trim_offsets": True},
        "model": model,
    }


def _sentencepiece(vocabulary: Vocabulary) -> Parts:
    """BPE over characters, with bytes for those that are no token; merges come from the scores."""
    tokens = _visible(vocabulary.tokens)
    ids = _ids(vocabulary, tokens)
    merges: Iterable[tuple[str, str]]
    if vocabulary.merges is not None:
        merges = vocabulary.merges
        _check_merges(ids, merges)
    else:
        merges = merges_of_scores(*_mergeable(vocabulary, tokens, ids))
    for index, kind in enumerate(vocabulary.types):
        if kind == TokenType.BYTE and not _BYTE.fullmatch(tokens[index]):
            raise CheckpointError(
                f"token {index} of the GGUF file stands for a byte, but is {tokens[index]!r:.60}", hint=BESIDE
            )
    unknown = vocabulary.token("unk")
    model = _bpe(ids, merges) | {"byte_fallback": True, "fuse_unk": True, "unk_token": unknown}
    return {**_spaces(vocabulary), "post_processor": _around(vocabulary), "model": model}


def _gemma4(vocabulary: Vocabulary) -> Parts:
    if vocabulary.merges is None:
        raise CheckpointError(
            "the GGUF file has no `tokenizer.ggml.merges`, which a gemma4 vocabulary needs", hint=BESIDE
        )
    return _sentencepiece(vocabulary)


def _visible(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Tokens of blanks alone with visible ones: converters write the text that such a token stands for."""
    known = set(tokens)
    spelled = {token: _SPACE * len(token) for token in tokens if not token.strip(" ")}
    return tuple(spelled[token] if token in spelled and spelled[token] not in known else token for token in tokens)


def _mergeable(
    vocabulary: Vocabulary, tokens: tuple[str, ...], ids: dict[str, int]
) -> tuple[list[str], dict[str, int], dict[str, float]]:
    """Tokens that merges may make, ids of those that they may join, and scores.

    Gemma's own tokenizer is ordered by ids, since its scores do not tell the order of the tokens that were added by hand.
    """
    if vocabulary.scores is None:
        raise CheckpointError(
            "the GGUF file has no `tokenizer.ggml.scores`, which a llama vocabulary needs", hint=BESIDE
        )
    fixed = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE)
    parts = {token: index for token, index in ids.items() if vocabulary.types[index] not in fixed}
    by_id = _is_gemma(vocabulary)
    scores = {token: -float(index) if by_id else vocabulary.scores[index] for token, index in parts.items()}
    return list(parts), parts, scores


def _is_gemma(vocabulary: Vocabulary) -> bool:
    return vocabulary.architecture.startswith("gemma")


def _spaces(vocabulary: Vocabulary) -> Parts:
    """Normaliser, pre-tokeniser and decoder of a SentencePiece vocabulary.

    Without a blank in front of each text: as published for Gemma. With it, SentencePiece and llama.cpp put one before every
    text between special tokens. transformers does so too, except for its LlamaTokenizer, which reads most files of architecture
    `llama`: that leaves a blank at the beginning as it is. A file that does not state `add_space_prefix` is of a
    tokenizer_config.json without that key, for which LlamaTokenizer puts the blank before the first text alone. Mistral's files
    are of architecture `llama` too, but transformers reads their originals as SentencePiece does.
    """
    to_space = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    from_space = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    steps: list[Parts] = [to_space, {"type": "ByteFallback"}, {"type": "Fuse"}]
    prefix = vocabulary.model != "gemma4" and vocabulary.flags.get("add_space_prefix", not _is_gemma(vocabulary))
    if not prefix:
        cut = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
        return {"normalizer": from_space, "pre_tokenizer": cut, "decoder": {"type": "Sequence", "decoders": steps}}
    steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    decoder = {"type": "Sequence", "decoders": steps}
    if vocabulary.architecture == "llama" and not re.search("mi[sx]tral", vocabulary.name, re.IGNORECASE):
        scheme = "always" if "add_space_prefix" in vocabulary.flags else "first"
        space = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": False}
        return {"normalizer": None, "pre_tokenizer": space, "decoder": decoder}
    both = [{"type": "Prepend", "prepend": _SPACE}, from_space]
    return {"normalizer": {"type": "Sequence", "normalizers": both}, "pre_tokenizer": None, "decoder": decoder}


def _wordpiece(vocabulary: Vocabulary) -> Parts:
    """WordPiece; llama.cpp marks the beginning of a word where BERT marks its continuation, with ##."""
    special = special_ids(vocabulary)
    tokens = [token if index in special else _continuation(token) for index, token in enumerate(vocabulary.tokens)]
    ids = _ids(vocabulary, tokens)
    marks = [
        (tokens[vocabulary.ids[role]], vocabulary.ids[role]) for role in ("unk", "cls", "sep") if role in vocabulary.ids
    ]
    if len(marks) < 3 or any(ids.get(token) != index for token, index in marks):
        raise CheckpointError(
            "the bert vocabulary of the GGUF file has no [UNK], [CLS] or [SEP], or has one twice", hint=BESIDE
        )
    (unknown, _), first, last = marks
    lowercase = vocabulary.flags.get("normalizer.lowercase", True)
    return {
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
            "strip_accents": vocabulary.flags.get("normalizer.strip_accents", lowercase), "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _template(first, last),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    }  # fmt: skip


def _continuation(token: str) -> str:
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[1:] if token.startswith(_SPACE) and len(token) > 1 else f"##{token}"


def _unigram(vocabulary: Vocabulary) -> Parts:
    if vocabulary.scores is None or "unk" not in vocabulary.ids:
        raise CheckpointError("the t5 vocabulary of the GGUF file has no scores or no unknown token", hint=BESIDE)
    prefix = "always" if vocabulary.flags.get("add_space_prefix", True) else "never"
    space = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": prefix, "split": True}
    steps: list[Parts] = []
    if vocabulary.charsmap is not None:
        check_charsmap(vocabulary.charsmap)
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(vocabulary.charsmap).decode()})
    if vocabulary.flags.get("remove_extra_whitespaces", False):
        steps += [{"type": "Strip", "strip_left": True, "strip_right": True}]
        steps += [{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]
    scores = zip(vocabulary.tokens, vocabulary.scores, strict=True)
    return {
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "pre_tokenizer": space, "post_processor": _around(vocabulary), "decoder": space,
        "model": {
            "type": "Unigram", "unk_id": vocabulary.ids["unk"], "vocab": [list(pair) for pair in scores], "byte_fallback": False,
        },
    }  # fmt: skip


def _around(vocabulary: Vocabulary) -> Parts | None:
    """The post-processor that puts BOS before and EOS behind a text; None if it puts nothing."""
    first = (vocabulary.token("bos") or "", vocabulary.ids["bos"]) if adds_bos(vocabulary) else None
    last = (vocabulary.token("eos") or "", vocabulary.ids["eos"]) if adds_eos(vocabulary) else None
    return _template(first, last) if first or last else None


def _template(first: tuple[str, int] | None, last: tuple[str, int] | None) -> Parts:
    def around(sequence: str, kind: int) -> list[Parts]:
        marks = [{"SpecialToken": {"id": mark[0], "type_id": kind}} if mark else None for mark in (first, last)]
        middle = {"Sequence": {"id": sequence, "type_id": kind}}
        return [part for part in (marks[0], middle, marks[1]) if part is not None]

    tokens = dict(mark for mark in (first, last) if mark is not None)
    return {
        "type": "TemplateProcessing", "single": around("A", 0), "pair": [*around("A", 0), *around("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]} for token, index in tokens.items()},
    }  # fmt: skip


_BUILDERS = {"gpt2": _byte_level, "llama": _sentencepiece, "gemma4": _gemma4, "bert": _wordpiece, "t5": _unigram}
