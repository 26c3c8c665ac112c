"""Small tokenizers of each kind, trained here, and what llama.cpp's converter writes of them into a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEXT = [
    "Once upon a time there was a little cat that didn't sit on the mat, and the end of the story was the end of the cat.",
    "In 2024 and 1999 we'll see  two spaces\n\n\tif x == 12345:\n        return 3.14  # they're HERE, I'LL say caf\u00e9",
    "\u65e5\u672c\u8a9e\u3068\u4e2d\u6587 and \u041f\u0440\u0438\u0432\u0435\u0442, \U0001f642!",
]
SENTENCES = [
    "Once upon a time", " leading space", "  two  spaces  inside  ", "trailing \n\n\nlines\t tab",
    "it's don't I'LL 12345 007 3.14",
    "cafe\u0301 caf\u00e9 \u212b", "\u65e5\u672c\u8a9e \U0001f642 <|im_start|>user\nhi<|im_end|>", "a<s>b </s> c<|im_end|>d", "",
    "   ",
    "Hello.World(foo_bar)+=1;", "\u2581x \u00a0 nbsp", "<s>hi", "x  12 y",
]  # fmt: skip


def byte_level(steps: list[Any], normalizer: Any = None, *, ignore_merges: bool = False) -> Tokenizer:
    """Byte-level BPE behind these pre-tokenisers."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=sorted(alphabet), special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def split(regex: str) -> list[Any]:
    """A regular expression, then bytes, as most published tokenizers have them."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return [pre_tokenizers.Split(Regex(regex), "isolated"), level]


def words() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def bpe_metadata(tokenizer: Tokenizer, pre: str, **more: Any) -> dict[str, Any]:
    """The keys of a byte-level vocabulary."""
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return {
        "general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": _tokens(tokenizer), "tokenizer.ggml.token_type": types(tokenizer),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges], "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.add_bos_token": False, **more,
    }  # fmt: skip


def sentencepiece_tokens() -> list[str]:
    """SentencePiece's order: special tokens, bytes, then what is joined, then characters."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    learned.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    pieces = sorted(learned.get_vocab(), key=learned.get_vocab().__getitem__)
    joined = [piece for piece in pieces if len(piece) > 1]
    characters = [piece for piece in pieces if len(piece) == 1]
    blanks = ["\u2581" * size for size in (2, 3, 4) if "\u2581" * size not in joined]
    return [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *blanks, *joined, *characters]


def sentencepiece_metadata(architecture: str, **more: Any) -> dict[str, Any]:
    tokens = sentencepiece_tokens()
    kinds = [2, *[3] * (len(SPECIAL) - 1), *[6] * 256, *[1] * (len(tokens) - 256 - len(SPECIAL))]
    return {
        "general.architecture": architecture, "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": [-float(index) for index in range(len(tokens))],
        "tokenizer.ggml.token_type": kinds, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0, **more,
    }  # fmt: skip


def wordpiece() -> Tokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token=special[1]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def wordpiece_metadata(tokenizer: Tokenizer) -> dict[str, Any]:
    """Words begin with a visible blank, and continuations lose their ##, as in llama.cpp's converter."""

    def phantom(token: str) -> str:
        if token.startswith("[") and token.endswith("]"):
            return token
        return token[2:] if token.startswith("##") else "\u2581" + token

    return {
        "general.architecture": "bert", "tokenizer.ggml.model": "bert", "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [phantom(token) for token in _tokens(tokenizer)],
        "tokenizer.ggml.token_type": types(tokenizer), "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2, "tokenizer.ggml.seperator_token_id": 3, "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.mask_token_id": 4,
    }  # fmt: skip


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token=special[2], show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def unigram_metadata(tokenizer: Tokenizer) -> dict[str, Any]:
    vocabulary = json.loads(tokenizer.to_str())["model"]["vocab"]
    return {
        "general.architecture": "t5", "tokenizer.ggml.model": "t5", "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [token for token, _ in vocabulary], "tokenizer.ggml.scores": [score for _, score in vocabulary],
        "tokenizer.ggml.token_type": types(tokenizer), "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 2, "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.remove_extra_whitespaces": True, "tokenizer.ggml.add_eos_token": True,
    }  # fmt: skip


def types(tokenizer: Tokenizer) -> list[int]:
    added: Mapping[int, AddedToken] = tokenizer.get_added_tokens_decoder()
    return [(3 if added[index].special else 4) if index in added else 1 for index in range(tokenizer.get_vocab_size())]


def _tokens(tokenizer: Tokenizer) -> list[str]:
    return [token or "" for token in map(tokenizer.id_to_token, range(tokenizer.get_vocab_size()))]
