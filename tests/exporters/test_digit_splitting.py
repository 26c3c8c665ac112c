"""One expression for single digits and GPT-2's words: the same pieces, and openvino_genai's tokens."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from small_vocabularies import byte_level, words
from tokenizers import pre_tokenizers

from ovround.exporters.openvino.digit_splitting import join_digit_splitting
from ovround.exporters.openvino.tokenizer import write_tokenizer

_CHARACTERS = " \n\t12\u00bd\u00b2a'strevml.d,\u00e9\u03a9\u65e5\U0001f642\u00a0\u3000\u0663\u2167"


def _steps() -> list[object]:
    return [pre_tokenizers.Digits(individual_digits=True), words()]


def test_pieces_are_the_same() -> None:
    apart, joined = byte_level(_steps()), byte_level(_steps())
    join_digit_splitting(joined)
    assert "Digits" not in joined.pre_tokenizer.__getstate__().decode()
    for number in range(2000):
        chance = random.Random(number)
        text = "".join(chance.choice(_CHARACTERS) for _ in range(chance.randrange(1, 14)))
        assert joined.pre_tokenizer.pre_tokenize_str(text) == apart.pre_tokenizer.pre_tokenize_str(text), text


def test_genai_splits_blanks_before_digits_alike(tmp_path: Path) -> None:
    genai = pytest.importorskip("openvino_genai")
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir()
    folder.mkdir()
    original = byte_level(_steps())
    original.save(str(source / "tokenizer.json"))
    (source / "config.json").write_text('{"model_type": "llama"}')
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}')
    write_tokenizer(source, folder)
    tokenizer = genai.Tokenizer(str(folder))
    for text in ("x  12 y", "a   3", "\n\n 4 5", "it's 12345", "  two  spaces"):
        ids = tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
        assert ids == original.encode(text, add_special_tokens=False).ids, text
