"""What a tokenizer puts before a text, asked of itself, and windows that begin with it."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from ovround.errors import CalibrationError
from ovround.texts.windows import NO_PREFIX, Prefix, cut_windows, scored, text_prefix

WORDS = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "[gMASK]": 4, "<unk>": 5}
BOS = Prefix((0,), ("<s>",))


def tokenizer(template: str | None, unknown: bool = True) -> Tokenizer:
    words = models.WordLevel(WORDS, unk_token="<unk>" if unknown else None)
    result = Tokenizer(words)
    result.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    result.add_special_tokens(["<s>", "</s>", "[gMASK]"])
    if template is not None:
        special = [(token, WORDS[token]) for token in ("<s>", "</s>", "[gMASK]")]
        result.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return result


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, NO_PREFIX),
        ("$A", NO_PREFIX),
        ("<s> $A", BOS),
        ("<s> $A </s>", BOS),
        ("$A </s>", NO_PREFIX),  # what is appended comes before no text
        ("[gMASK] <s> $A", Prefix((4, 0), ("[gMASK]", "<s>"))),
    ],
)
def test_the_prefix_is_what_the_tokenizer_itself_puts_before_a_text(template: str | None, expected: Prefix) -> None:
    assert text_prefix(tokenizer(template)) == expected


def test_a_vocabulary_without_the_usual_letters_is_asked_in_its_own_words() -> None:
    words = Tokenizer(models.WordLevel({"<s>": 0, "\u0416": 1}))
    words.add_special_tokens(["<s>"])
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert text_prefix(words) == BOS
    assert text_prefix(Tokenizer(models.BPE())) == NO_PREFIX  # no text has a token


def test_windows_take_up_the_text_where_the_one_before_ends() -> None:
    text = np.arange(10, 21)
    assert cut_windows(text, 4, NO_PREFIX).tolist() == [[10, 11, 12, 13], [14, 15, 16, 17]]
    assert cut_windows(text, 4, BOS).tolist() == [[0, 10, 11, 12], [0, 13, 14, 15], [0, 16, 17, 18]]
    assert cut_windows(text[:2], 4, BOS).shape == (0, 4)


def test_a_document_that_begins_a_window_has_one_prefix() -> None:
    documents = np.array([0, 10, 11, 12, 0, 13, 14, 0, 15])
    assert cut_windows(documents, 4, BOS).tolist() == [[0, 10, 11, 12], [0, 13, 14, 0]]


def test_a_window_without_room_for_text_is_refused() -> None:
    with pytest.raises(CalibrationError, match="windows of 1 tokens have no room for text") as caught:
        cut_windows(np.arange(9), 1, BOS)
    assert caught.value.hint == "at least 2 tokens"


def test_the_prefix_is_not_scored_wherever_it_stands() -> None:
    assert scored(np.array([[10, 0, 11]]), BOS).tolist() == [[True, False, True]]
    assert scored(np.array([[10, 0, 11]]), NO_PREFIX).all()
