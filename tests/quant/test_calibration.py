"""Calibration text: reading, cutting into samples, drawing, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ovround.artifact.manifest import SampleRecord
from ovround.errors import CalibrationError
from ovround.options.convert_options import ConvertOptions
from ovround.options.recipes import RECIPES
from ovround.options.tuning_options import TuningOptions
from ovround.quant.calibration.samples import DEFAULT_TEXT, Calibration, calibrate, held_out_samples, token_stream
from ovround.source_tokenizer import load_tokenizer
from ovround.texts import read_documents

WORDS = "one two three four five six seven eight nine ten "
VOCAB = 320


def calibration(
    folder: Path,
    *files: Path,
    nsamples: int | None = None,
    seqlen: int | None = None,
    seed: int = 0,
    context: int = 256,
    bos: bool = True,
) -> Calibration:
    options = ConvertOptions(
        calibration=files, nsamples=nsamples, seqlen=seqlen, seed=seed, tuning=TuningOptions(bos=bos)
    )
    return calibrate(load_tokenizer(folder), options, context, VOCAB)


@pytest.fixture
def tokenizer(tiny_source: Path) -> Tokenizer:
    return load_tokenizer(tiny_source)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, content: str) -> Path:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return write


def refusal(call: Callable[[], object]) -> tuple[str, str | None]:
    with pytest.raises(CalibrationError) as caught:
        call()
    return str(caught.value), caught.value.hint


def rows(samples: NDArray[np.int64]) -> set[tuple[int, ...]]:
    return {tuple(row) for row in samples.tolist()}


def test_samples_are_the_texts_own_cut_in_order_and_drawn_without_repetition(
    tiny_source: Path, tokenizer: Tokenizer, write: Callable[..., Path]
) -> None:
    numbered = " ".join(str(number) for number in range(2000))
    actual = calibration(tiny_source, write("text.txt", numbered), nsamples=40, seqlen=16, bos=False)
    stream = tokenizer.encode(numbered).ids
    cut = {tuple(stream[start : start + 16]) for start in range(0, len(stream) - 15, 16)}
    assert actual.samples.shape == (45, 16)
    assert actual.samples.dtype == np.int64
    assert len(rows(actual.samples)) == 45
    assert rows(actual.samples) <= cut
    assert actual.held_out == 5
    assert actual.record == SampleRecord(40, 5, 16)


def test_samples_begin_as_the_tokenizer_begins_a_text_and_lose_no_text(
    tiny_source: Path, tokenizer: Tokenizer, write: Callable[..., Path]
) -> None:
    numbered = " ".join(str(number) for number in range(2000))
    actual = calibration(tiny_source, write("text.txt", numbered), nsamples=40, seqlen=16)
    _, *text = tokenizer.encode(numbered).ids
    assert rows(actual.samples) <= {(1, *text[start : start + 15]) for start in range(0, len(text) - 14, 15)}
    assert actual.record == SampleRecord(40, 5, 16, ("<s>",))
    shares = [actual.part(rank, 2).samples for rank in range(2)]
    assert rows(np.concatenate(shares)) == rows(actual.samples)


def test_documents_are_tokenised_one_by_one_and_files_in_order(
    tokenizer: Tokenizer, write: Callable[..., Path]
) -> None:
    stories = write("a.jsonl", "\n".join(json.dumps({"text": text}) for text in ("one two", "", "three")) + "\n\n")
    plain = write("b.txt", "four\nfive")
    expected = [token for text in ("one two", "", "three", "four\nfive") for token in tokenizer.encode(text).ids]
    assert token_stream(tokenizer, [stories, plain], VOCAB).tolist() == expected
    assert expected.count(1) == 4, "each document begins with <s>"


@pytest.mark.parametrize("nsamples", [1, 2, 7, 8, 9, 16, 71, 72, 128, 512])
def test_one_window_in_eight_is_held_out_beside_the_wanted_ones(
    tiny_source: Path, write: Callable[..., Path], nsamples: int
) -> None:
    actual = calibration(tiny_source, write("text.txt", WORDS * 2000), nsamples=nsamples, seqlen=8)
    assert actual.held_out == max(1, nsamples // 8) == held_out_samples(nsamples)
    assert len(actual.samples) == nsamples + actual.held_out


def test_the_seed_decides_the_draw(tiny_source: Path, text_file: Path) -> None:
    first, again, other = (
        calibration(tiny_source, text_file, nsamples=16, seqlen=32, seed=seed).samples for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert rows(first) != rows(other)


def test_samples_have_256_tokens_by_default_or_as_many_as_the_context(tiny_source: Path, text_file: Path) -> None:
    assert calibration(tiny_source, text_file, nsamples=2, context=48).samples.shape[1] == 48
    assert calibration(tiny_source, text_file, nsamples=2, context=5000).samples.shape[1] == 256


def test_the_built_in_text_adapts_to_what_it_gives(tiny_source: Path, tokenizer: Tokenizer) -> None:
    tokens = len(token_stream(tokenizer, [DEFAULT_TEXT], VOCAB))
    wanted = RECIPES["default"].nsamples
    assert tokens // 2048 < wanted + held_out_samples(wanted), "long samples: fewer than the recipe wants"
    whole = (tokens - 1) // 2047  # each begins with <s>
    assert len(calibration(tiny_source, seqlen=2048, context=2048).samples) == whole
    assert len(calibration(tiny_source, context=64).samples) == wanted + held_out_samples(wanted)
    # A count that was asked for is never lowered in silence.
    message, _ = refusal(lambda: calibration(tiny_source, nsamples=wanted, seqlen=2048, context=2048))
    assert f"gives {whole} samples of 2048 tokens; {wanted + held_out_samples(wanted)} are needed" in message


def test_a_given_text_that_is_too_short_is_refused_with_what_would_do(
    tiny_source: Path, tokenizer: Tokenizer, write: Callable[..., Path]
) -> None:
    text = write("short.txt", WORDS * 10)
    samples = (len(tokenizer.encode(WORDS * 10).ids) - 1) // 31
    message, hint = refusal(lambda: calibration(tiny_source, text, seqlen=32))
    assert message == (
        f"the calibration text gives {samples} samples of 32 tokens; 144 are needed (128 to tune on, the rest held out)"
    )
    fitting = samples * 8 // 9
    assert hint == f"give more text, or --nsamples {fitting}, or a smaller --seqlen"
    assert len(calibration(tiny_source, text, seqlen=32, nsamples=fitting).samples) <= samples


@pytest.mark.parametrize("content", ["", "one two", WORDS])
def test_no_number_of_samples_is_suggested_where_none_would_do(
    tiny_source: Path, write: Callable[..., Path], content: str
) -> None:
    """One sample cannot be both tuned on and held out."""
    message, hint = refusal(lambda: calibration(tiny_source, write("short.txt", content), seqlen=40))
    assert "144 are needed" in message
    assert hint == "give more text, or a smaller --seqlen"


def test_samples_longer_than_the_context_are_refused(tiny_source: Path, text_file: Path) -> None:
    message, hint = refusal(lambda: calibration(tiny_source, text_file, seqlen=257))
    assert (message, hint) == ("seqlen is 257; the model has 256 positions", "--seqlen 256")


@pytest.mark.parametrize("context", [1, 7])
def test_a_context_too_short_to_predict_anything_is_refused(tiny_source: Path, text_file: Path, context: int) -> None:
    message, _ = refusal(lambda: calibration(tiny_source, text_file, nsamples=2, context=context))
    assert f"{context} positions" in message


def test_tokens_beyond_the_vocabulary_are_refused(tiny_source: Path, write: Callable[..., Path]) -> None:
    text = write("text.txt", "the end of the story " * 200)
    options = ConvertOptions(calibration=(text,), nsamples=2, seqlen=8)
    tokenizer = load_tokenizer(tiny_source)
    tokens = tokenizer.encode("the end of the story " * 200).ids
    assert len(calibrate(tokenizer, options, 256, max(tokens) + 1).samples) == 3
    message, hint = refusal(lambda: calibrate(tokenizer, options, 256, max(tokens)))
    assert message == f"the tokenizer gives token {max(tokens)}; the model has {max(tokens)}"
    assert hint == "the text holds a token that the model lacks, or tokenizer.json belongs to another model"


def texts_of(path: Path) -> list[str]:
    return [document.text for document in read_documents(path)]


def test_jsonl_lines_end_at_line_feeds_only(write: Callable[..., Path]) -> None:
    """JSON allows all other line separators inside a string, and web text contains them."""
    texts = ["one\u2028two", "three\u0085four", "five\x0bsix", "seven\u2029"]
    path = write("web.jsonl", "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts))
    assert texts_of(path) == texts
    crlf = write("crlf.jsonl", '{"text": "one"}\r\n{"text": "two"}\r\n')
    assert texts_of(crlf) == ["one", "two"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("not json", "is no JSON"),
        ('{"text": "cut', "is no JSON"),
        ('{"story": "x"}', "is not understood; its keys are story"),
        ('["text"]', "message 1 is 'text'"),
        ("7", "is 7, neither a text nor an object"),
        ('{"text": 7}', "`text` is 7, which is no string"),
        ('{"text": null}', "`text` is None, which is no string"),
        ('{"text": "\\ud800"}', "`text` cannot be written as UTF-8"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_a_bad_line_is_named(write: Callable[..., Path], line: str, what: str) -> None:
    path = write("bad.jsonl", '{"text": "good"}\n\n' + line + "\n")
    message, _ = refusal(lambda: texts_of(path))
    assert message.startswith(f"`{path}` line 3")
    assert what in message


def test_a_text_that_is_no_utf8_or_not_there_is_refused(tmp_path: Path) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("café".encode("latin-1"))
    message, hint = refusal(lambda: texts_of(latin))
    assert message.startswith(f"text file `{latin}` cannot be read: 'utf-8' codec can't decode byte 0xe9")
    assert hint is not None
    assert hint.startswith("UTF-8 is needed; formats by ending: .jsonl, ")
    message, _ = refusal(lambda: texts_of(tmp_path / "none.txt"))
    assert message == f"text file `{tmp_path / 'none.txt'}` does not exist"
    message, _ = refusal(lambda: texts_of(tmp_path))
    assert message.startswith(f"text file `{tmp_path}` cannot be read")


@pytest.mark.parametrize("name", ["stories260K", "TinyStories-656K", "stories3M", "tales-7m"])
def test_calibration_sees_the_ids_that_transformers_gives(shared: Path, name: str) -> None:
    """The runtime and genai give the same; the tokenizer.json of some checkpoints alone would give others."""
    from transformers import AutoTokenizer

    source = shared / "models" / name
    if not source.is_dir():
        pytest.skip(f"no model {name} in the shared folder")
    text = "Once upon a time, Lily  said:\n“12 cafés, please!”" + DEFAULT_TEXT.read_text(encoding="utf-8")[:3000]
    expected = AutoTokenizer.from_pretrained(source).encode(text)
    assert load_tokenizer(source).encode(text).ids == expected
