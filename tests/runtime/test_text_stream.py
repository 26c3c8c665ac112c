"""Pieces add up to the decoded text, characters come whole, and no part of a stop string slips out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ovround.runtime.text.text_stream import StopStrings, StreamDecoder, TextStream
from ovround.runtime.text.tokenizer import Tokenizer

SCRIPTS = [
    "The quick brown fox.", "Größe, naïve, Ångström", "Съешь ещё этих булок", "いろはにほへと ちりぬるを", "中文字符与标点。",
    "한국어 텍스트", "עברית ועוד", "النص العربي", "हिन्दी पाठ", "ไทยภาษา",
    "👩‍👩‍👧‍👦 🏳️‍🌈 𝄞", "e\u0301 a\u0308", "a\u200db \ufffd c", "\t\r\n  x",
]  # fmt: skip


class Bytes:
    """A tokenizer of single bytes: id 0 is special, the others are the bytes of UTF-8."""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token for token in ids if token).decode("utf-8", errors="replace")

    def is_special(self, token_id: int) -> bool:
        return token_id == 0

    def is_byte(self, token_id: int) -> bool:
        return False


class Characters(Bytes):
    """A tokenizer of code points."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def is_special(self, token_id: int) -> bool:
        return False


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    stream = StreamDecoder(tokenizer)
    return [*(stream.push(token) for token in ids), stream.finish()]


@pytest.mark.parametrize("text", SCRIPTS)
def test_bytes_come_out_as_whole_characters(text: str) -> None:
    parts = pieces(Bytes(), list(text.encode()))
    assert "".join(parts) == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in part for part in parts)
        assert sum(map(bool, parts)) == len(text)  # a character a piece: nothing waits longer than it must


def test_bytes_that_are_no_text_come_out_as_decode_writes_them() -> None:
    rng = random.Random(3)
    for _ in range(500):
        ids = [rng.choice([0, 65, 0x80, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0xFF]) for _ in range(12)]
        assert "".join(pieces(Bytes(), ids)) == Bytes().decode(ids)


def test_the_tiny_tokenizer_streams_every_script(tiny: tuple[Path, Any]) -> None:
    tokenizer = Tokenizer(tiny[0])
    for text in SCRIPTS:
        ids = tokenizer.encode(text)
        assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids) == text


def test_real_tokenizers_stream_any_ids(trained_model: Path) -> None:
    tokenizer = Tokenizer(trained_model)
    rng = random.Random(1)
    texts = [tokenizer.encode("".join(rng.sample(SCRIPTS, 3))) for _ in range(30)]
    noise = [[rng.randrange(tokenizer.vocab_size) for _ in range(20)] for _ in range(300)]
    low = [[rng.randrange(min(300, tokenizer.vocab_size)) for _ in range(20)] for _ in range(300)]  # mostly byte tokens
    for ids in texts + noise + low:
        assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_stop_string_across_tokens_never_leaks() -> None:
    stream = TextStream(Bytes(), ["STOP"])
    out = [stream.push(token) for token in b"go STO, ST STOP more"]
    assert "".join(out) == "go STO, ST "
    assert stream.stop_string == "STOP"
    assert stream.finish() == ""


def test_what_looked_like_a_stop_string_comes_at_the_end() -> None:
    stream = TextStream(Bytes(), ["STOP"])
    assert "".join(stream.push(token) for token in b"a STO") == "a "
    assert stream.finish() == "STO"
    assert stream.stop_string is None


def test_an_unfinished_character_comes_at_the_end() -> None:
    stream = TextStream(Bytes(), ["x"])
    assert "".join(stream.push(token) for token in "a€".encode()[:-1]) == "a"
    assert stream.finish() == "\ufffd"


def test_stop_strings_against_the_obvious_way() -> None:
    rng = random.Random(2)
    for _ in range(3000):
        stops = ["".join(rng.choices("ab", k=rng.randint(1, 4))) for _ in range(rng.randint(1, 3))]
        text = "".join(rng.choices("abc", k=12))
        cuts = sorted(rng.sample(range(13), 4))
        chunks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, 12], strict=True)]
        matcher, out = StopStrings(stops), ""
        for chunk in chunks:
            out += matcher.push(chunk)
            assert not any(stop in out for stop in stops)
        out += matcher.finish()
        # Reading character by character, the first place where some stop string is complete.
        ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
        first = text[: ends[0]] if ends else text
        assert matcher.found == max((stop for stop in stops if ends and first.endswith(stop)), key=len, default=None)
        assert out == min((first.removesuffix(stop) for stop in stops), key=len)


def test_nothing_comes_after_a_stop_string() -> None:
    matcher = StopStrings(["b"])
    assert matcher.push("abc") == "a"
    assert matcher.push("ddd") == matcher.finish() == ""
    assert StopStrings([]).push("abc") == "abc"
