"""The tokenizer inside a GGUF file: tokens of each kind of vocabulary against the tokenizer that it was written of."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from mutations import SCALE, WRONG
from small_vocabularies import (
    SENTENCES,
    bpe_metadata,
    byte_level,
    sentencepiece_metadata,
    split,
    unigram,
    unigram_metadata,
    wordpiece,
    wordpiece_metadata,
    words,
)
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

from ovround.checkpoint.gguf.tokenizer import tokenizer_files, vocabulary_metadata
from ovround.checkpoint.gguf.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from ovround.errors import CheckpointError, UsageError
from ovround.runtime.text import tokenizer as runtime

_SUFFIX, _SPACES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_SUFFIX}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_DIGITS = pre_tokenizers.Digits(individual_digits=True)
_DEEPSEEK3 = [
    pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
    pre_tokenizers.Split(Regex("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), "isolated"),
    *split(
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"""
        r"|\s+(?!\S)|\s+"
    ),
]
PUBLISHED: dict[str, Any] = {  # pre-tokeniser and normaliser of a well-known tokenizer.json, by llama.cpp's name
    "llama-bpe": (split(_LLAMA3), None),
    "qwen2": (split(_LLAMA3.replace("{1,3}", "")), normalizers.NFC()),
    "tekken": (split(_TEKKEN), None),
    "smollm": ([_DIGITS, words()], None),
    "command-r": ([_DIGITS, words()], normalizers.NFC()),
    "gpt-2": ([words()], None),
    "olmo": ([words()], normalizers.NFC()),
    "deepseek-v3": (_DEEPSEEK3, None),
    "falcon": (
        [
            pre_tokenizers.Punctuation("contiguous"),
            words(),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
        ],
        None,
    ),
    "bloom": (split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"), None),
}


def _written(folder: Path, metadata: dict[str, Any], model_type: str = "llama") -> runtime.Tokenizer:
    """What the runtime reads of the files."""
    for name, content in tokenizer_files(metadata).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return runtime.Tokenizer(folder)


def _assert_equal(ours: runtime.Tokenizer, original: Tokenizer) -> None:
    for text in SENTENCES:
        for special in (True, False):
            ids = original.encode(text, add_special_tokens=special).ids
            assert ours.encode(text, add_special_tokens=special) == ids, (text, special)
        assert ours.decode(ids) == original.decode(ids), text


@pytest.mark.parametrize("name", PUBLISHED)
def test_tokens_of_byte_level_vocabularies(name: str, tmp_path: Path) -> None:
    steps, normalizer = PUBLISHED[name]
    original = byte_level(steps, normalizer, ignore_merges=PRE_TOKENIZERS[name].ignore_merges)
    _assert_equal(_written(tmp_path, bpe_metadata(original, name)), original)


@pytest.mark.parametrize("name", PUBLISHED)
def test_pre_tokenisers_are_recognised_by_their_expressions(name: str) -> None:
    steps, normalizer = PUBLISHED[name]
    original = byte_level(steps, normalizer, ignore_merges=PRE_TOKENIZERS[name].ignore_merges)
    roles = {"bos": "<s>", "eos": "</s>"}
    found = vocabulary_metadata(json.loads(original.to_str()), roles, original.get_vocab_size(), "unknown")
    expected = {**bpe_metadata(original, name), "tokenizer.ggml.add_eos_token": False}
    expected.pop("general.architecture")
    assert found == expected


def test_every_name_of_llama_cpp_gives_a_tokenizer(tmp_path: Path) -> None:
    original = byte_level([words()])
    for name in PRE_TOKENIZERS:
        content = tokenizer_files(bpe_metadata(original, name))["tokenizer.json"].decode()
        ids = Tokenizer.from_str(content).encode("It's 12345 caf\u00e9\n\n \u65e5\u672c\u8a9e").ids
        assert Tokenizer.from_str(content).decode(ids) == "It's 12345 caf\u00e9\n\n \u65e5\u672c\u8a9e", name


def test_tokens_of_wordpiece_and_unigram(tmp_path: Path) -> None:
    original = wordpiece()
    _assert_equal(_written(tmp_path / "wordpiece", wordpiece_metadata(original), "bert"), original)
    original = unigram()
    _assert_equal(_written(tmp_path / "unigram", unigram_metadata(original), "t5"), original)


@pytest.mark.parametrize(
    ("architecture", "prefix", "kind"),
    [("llama", None, "llama"), ("gemma3", False, "gemma"), ("internlm2", True, "sentencepiece")],
)
def test_tokens_of_sentencepiece_vocabularies(
    architecture: str, prefix: bool | None, kind: str, tmp_path: Path
) -> None:
    """The originals are transformers' own classes, and for other families SentencePiece's dummy prefix."""
    from transformers import GemmaTokenizer, LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    flags = {} if prefix is None else {"tokenizer.ggml.add_space_prefix": prefix}
    metadata = sentencepiece_metadata(architecture, **flags)
    tokens, scores = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.scores"]
    ids = {token: index for index, token in enumerate(tokens)}
    pieces = dict(list(zip(tokens, scores, strict=True))[261:])
    made = GemmaTokenizer if kind == "gemma" else LlamaTokenizer
    names = dict(zip(("unk_token", "bos_token", "eos_token"), tokens, strict=False))
    original = made(vocab=ids, merges=generate_merges(ids, pieces), **names).backend_tokenizer
    if kind == "sentencepiece":
        replaced = normalizers.Replace(" ", "\u2581")
        original.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), replaced])
        original.pre_tokenizer = None
    original.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    ours = _written(tmp_path, metadata, "llama")
    for text in SENTENCES:
        expected = original.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special_tokens=False) == expected, text
        assert ours.encode(text) == [1, *expected], text
        assert ours.decode(expected) == original.decode(expected), text


@pytest.mark.parametrize("flags", [{}, {"add_space_prefix": True}, {"add_space_prefix": False}])
def test_sentencepiece_vocabularies_come_back(flags: dict[str, bool]) -> None:
    metadata = sentencepiece_metadata("llama", **{f"tokenizer.ggml.{name}": value for name, value in flags.items()})
    parts = json.loads(tokenizer_files(metadata)["tokenizer.json"])
    roles = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
    found = vocabulary_metadata(parts, roles, len(metadata["tokenizer.ggml.tokens"]) + 2, "llama")
    assert found["tokenizer.ggml.tokens"][-1].startswith("[PAD")
    again = json.loads(tokenizer_files({"general.architecture": "llama", **found})["tokenizer.json"])
    assert again == parts


def test_vocabularies_that_llama_cpp_cannot_compute_are_refused() -> None:
    other = json.loads(byte_level(split(r"\w+|\W+")).to_str())
    with pytest.raises(UsageError, match="no pre-tokeniser"):
        vocabulary_metadata(other, {}, 600, "llama")
    metadata = sentencepiece_metadata("llama")
    parts = json.loads(tokenizer_files(metadata)["tokenizer.json"])
    parts["model"]["merges"] = parts["model"]["merges"][1:]
    with pytest.raises(UsageError, match="1 merges of this tokenizer are not SentencePiece's"):
        vocabulary_metadata(parts, {}, 700, "llama")


def test_flags_and_end_tokens(tmp_path: Path) -> None:
    original = byte_level([words()])
    metadata = bpe_metadata(original, "llama-bpe")
    del metadata["tokenizer.ggml.add_bos_token"]  # llama.cpp then adds it for this pre-tokeniser
    ours = _written(tmp_path, metadata | {"tokenizer.ggml.add_eos_token": True})
    assert ours.encode("a") == [1, *ours.encode("a", add_special_tokens=False), 2]
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"bos_token_id": 1, "eos_token_id": [2, 4]}
    assert ours.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_a_template_that_begins_with_bos_gives_one(tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
    more = {"tokenizer.chat_template": template, "tokenizer.chat_template.tool_use": "tools"}
    original = byte_level([words()])
    ours = _written(tmp_path, bpe_metadata(original, "gpt-2") | more | {"tokenizer.ggml.add_bos_token": True})
    assert ours.encode_chat([{"role": "user", "content": "a"}]) == [1, *ours.encode("a", add_special_tokens=False)]
    assert (tmp_path / "additional_chat_templates/tool_use.jinja").read_text() == "tools"


def test_padding_rows_and_padding_tokens() -> None:
    """Rows without a token are none; an ordinary token that pads stays ordinary."""
    original = byte_level([words()])
    metadata = bpe_metadata(original, "gpt-2", **{"tokenizer.ggml.padding_token_id": 5})
    count = original.get_vocab_size()
    metadata["tokenizer.ggml.tokens"] += [f"[PAD{count}]", ""]
    metadata["tokenizer.ggml.token_type"] += [5, 1]
    parts = json.loads(tokenizer_files(metadata)["tokenizer.json"])
    assert f"[PAD{count}]" not in parts["model"]["vocab"]
    assert f"[EMPTY_{count + 1}]" in parts["model"]["vocab"]
    assert [token["id"] for token in parts["added_tokens"]] == [0, 1, 2, 3, 4]


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"tokenizer.ggml.model": "rwkv"}, "`rwkv`; gpt2"),
    ({"tokenizer.ggml.model": 7}, "a text is needed"),
    ({"tokenizer.ggml.model": None}, "has no `tokenizer.ggml.model`"),
    ({"tokenizer.ggml.pre": "no-such"}, "`no-such`; known are"),
    ({"tokenizer.ggml.tokens": ["a", "a"]}, "'a' twice, as 0 and 1"),
    ({"tokenizer.ggml.tokens": 5}, "a list is needed"),
    ({"tokenizer.ggml.tokens": []}, "has no `tokenizer.ggml.tokens`"),
    ({"tokenizer.ggml.token_type": [1]}, "1 entries for"),
    ({"tokenizer.ggml.merges": ["t zz"]}, "'zz' is no token"),
    ({"tokenizer.ggml.merges": ["tz"]}, "two parts"),
    ({"tokenizer.ggml.merges": None}, "has no `tokenizer.ggml.merges`"),
    ({"tokenizer.ggml.eos_token_id": 10**6}, r"there are \d+ tokens"),
    ({"tokenizer.ggml.eos_token_id": True}, "tokens"),
    ({"tokenizer.ggml.add_bos_token": "yes"}, "true or false"),
    ({"tokenizer.chat_template": 5}, "a text of at most"),
    ({"tokenizer.chat_template.../x": "a"}, "a plain name"),
    ({"tokenizer.chat_template": "{{ \ud800 }}"}, "UTF-8"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_contradictions_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        tokenizer_files(bpe_metadata(byte_level([words()]), "gpt-2") | change)


def test_damaged_sentencepiece_vocabularies_are_named() -> None:
    metadata = sentencepiece_metadata("llama")
    changed = list(metadata["tokenizer.ggml.tokens"])
    changed[9] = "<0x-1>"
    scores = [float("nan"), *metadata["tokenizer.ggml.scores"][1:]]
    long = [*metadata["tokenizer.ggml.tokens"], "a" * 30000]
    longer = {"tokenizer.ggml.tokens": long, "tokenizer.ggml.scores": [*metadata["tokenizer.ggml.scores"], -1.0]}
    for change in (
        {"tokenizer.ggml.tokens": changed},
        {"tokenizer.ggml.scores": scores},
        {"tokenizer.ggml.scores": None},
        longer | {"tokenizer.ggml.token_type": [*metadata["tokenizer.ggml.token_type"], 1]},
    ):
        with pytest.raises(CheckpointError):
            tokenizer_files(metadata | change)


def test_damaged_metadata_gives_an_error_or_a_tokenizer() -> None:
    """Nothing but CheckpointError is raised, and the library takes whatever is written."""
    originals = [
        bpe_metadata(byte_level([words()]), "gpt-2"), sentencepiece_metadata("llama"), wordpiece_metadata(wordpiece()),
        unigram_metadata(unigram()) | {"tokenizer.ggml.precompiled_charsmap": [4, 0, 0, 0, *[0] * 8]},
    ]  # fmt: skip
    accepted = refused = 0
    for number in range(400 * SCALE):
        chance = random.Random(number)
        metadata = dict(originals[number % len(originals)])
        key = chance.choice(sorted(metadata))
        value = metadata[key]
        if isinstance(value, list) and chance.random() < 0.7:
            value = list(value)
            for _ in range(chance.choice((1, 1, 20))):
                at = chance.randrange(len(value))
                value[at] = chance.choice((*WRONG, value[chance.randrange(len(value))], chance.randrange(-2, 300)))
            metadata[key] = value[: chance.choice((None, None, -1, 3))]
        else:
            metadata[key] = chance.choice((*WRONG, chance.randrange(-2, 300)))
        try:
            content = tokenizer_files(metadata)["tokenizer.json"].decode()
        except CheckpointError:
            refused += 1
            continue
        accepted += 1
        Tokenizer.from_str(content).encode("Hello wor\u212bld 12\n<s>")
    assert accepted > 20
    assert refused > 100
