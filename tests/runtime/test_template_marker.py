"""A prompt that is rendered already is told by the marks of the model's template, and a user's own words are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovround.runtime.text.chat_template import ChatTemplate
from ovround.runtime.text.template_marker import PROBE, template_marker

TEMPLATES = Path(__file__).resolve().parents[1] / "chat_templates"
SPECIAL = ("<s>", "</s>")


@pytest.mark.parametrize(
    ("name", "special", "begin", "end"),
    [
        ("zephyr", SPECIAL, "<|user|>", "<|assistant|>"),  # which are no special tokens
        ("llama2", SPECIAL, "[INST]", "[/INST]"),
        ("chatml", (*SPECIAL, "<|im_start|>", "<|im_end|>"), "<|im_start|>", "<|im_start|>assistant"),
    ],
)
def test_the_marks_of_a_template(name: str, special: tuple[str, ...], begin: str, end: str) -> None:
    template = ChatTemplate((TEMPLATES / f"{name}.jinja").read_text(), {"bos_token": "<s>", "eos_token": "</s>"})
    rendered = template.render([{"role": "user", "content": PROBE}])
    prompt = template.render([{"role": "user", "content": "What is a list?"}])
    assert template_marker(prompt, special, rendered) != ""
    assert template_marker(f"\n{prompt.removeprefix('<s>')}", special, rendered) == begin
    assert template_marker(f"A chat.\nWhat is a list? {end}\n", special, rendered) == end
    for text in ("What is a list?", f"What does {begin} mean?", "user manual, please", "", " \n", "assistant"):
        assert template_marker(text, special, rendered) == ""


def test_a_header_of_plain_words_is_no_mark() -> None:
    rendered = f"<s>user\n\nuser {PROBE}\nassistant"
    assert template_marker("user 7 is gone", SPECIAL, rendered) == ""
    assert template_marker("ask my assistant", SPECIAL, rendered) == ""
    assert template_marker("USER: hello", SPECIAL, f"A chat.\n\nUSER: {PROBE} ASSISTANT:") == "USER:"


def test_without_a_template_only_special_tokens_count() -> None:
    assert template_marker(" <s>Once", ("<s>", "<s>Once", " "), "") == "<s>Once"
    assert template_marker("Once <s>", SPECIAL, "") == ""
