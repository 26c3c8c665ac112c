"""The same ids, texts and chats as transformers; and what a damaged or missing file says."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

from ovround.errors import ArtifactError, GenerationError, UsageError
from ovround.runtime.text.tokenizer import Tokenizer

SNIPPETS = [
    "Hello world", "  two", "   ", "\n", "\t", "日本", "☕", "é", "e\u0301", "<s>", "</s>", "<unk>", "<|user|>", " <s> ", "\u2581",
    "don't", " a", "b", "123", "𝄞", "\u200d", "<0xE2>", "[INST]", "x</s>y", "İ", "\r\n", ".", " ,", "Ω",
]  # fmt: skip
CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "Hi, 你好!\n"},
    {"role": "assistant", "content": " yes ", "tool_calls": None},
    {"role": "user", "content": "<b>&"},
]


def auto_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def assert_parity(folder: Path, count: int = 1000) -> None:
    theirs, ours, rng = auto_tokenizer(folder), Tokenizer(folder), random.Random(4)
    assert ours.special_tokens == theirs.special_tokens_map
    for _ in range(count):
        text = "".join(rng.choices(SNIPPETS, k=rng.randint(0, 6)))
        ids = ours.encode(text)
        assert ids == theirs(text).input_ids, repr(text)
        assert ours.encode(text, add_special_tokens=False) == theirs(text, add_special_tokens=False).input_ids
        noise = [rng.randrange(theirs.vocab_size) for _ in range(rng.randint(0, 20))]
        for some in (ids, noise):
            assert ours.decode(some) == theirs.decode(some, skip_special_tokens=True)
            assert ours.decode(some, skip_special_tokens=False) == theirs.decode(some)


def changed(source: Path, folder: Path, name: str, **fields: Any) -> Path:
    """A copy of a tokenizer's folder with some fields of one file replaced, or removed where None."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"), copy_function=shutil.copyfile)
    path = folder / name
    values = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder


def test_trained_tokenizers_agree_with_transformers(trained_model: Path) -> None:
    assert_parity(trained_model)


def test_tiny_tokenizer_agrees_with_transformers(tiny: tuple[Path, Any]) -> None:
    assert_parity(tiny[0])


@pytest.mark.parametrize("declared", ["GPT2Tokenizer", "GPT2TokenizerFast", "LlamaTokenizer"])
def test_classes_that_transformers_rebuilds(tiny: tuple[Path, Any], tmp_path: Path, declared: str) -> None:
    # Digits, as in SmolLM's file: transformers' GPT2Tokenizer drops them, and LlamaTokenizer leaves a byte-level file alone.
    parts = json.loads((tiny[0] / "tokenizer.json").read_text())
    digits = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, parts["pre_tokenizer"]],
    }
    first = changed(tiny[0], tmp_path / "a", "tokenizer.json", pre_tokenizer=digits)
    assert_parity(changed(first, tmp_path / "b", "tokenizer_config.json", tokenizer_class=declared), 300)


@pytest.mark.parametrize("legacy", [True, False, None])
@pytest.mark.parametrize("prefix", [True, False, None])
def test_sentencepiece_variants(trained_model: Path, tmp_path: Path, legacy: bool | None, prefix: bool | None) -> None:
    config = json.loads((trained_model / "tokenizer_config.json").read_text())
    if config.get("tokenizer_class") != "LlamaTokenizer":
        pytest.skip("no SentencePiece tokenizer")
    fields = {"legacy": legacy, "add_prefix_space": prefix}
    assert_parity(changed(trained_model, tmp_path / "a", "tokenizer_config.json", **fields), 300)


def test_truncation_and_padding_of_the_file_are_ignored(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    folder = changed(tiny[0], tmp_path / "a", "tokenizer.json", truncation=cut)
    assert len(Tokenizer(folder).encode("once upon a time")) > 2


def test_a_chat_is_rendered_as_transformers_renders_it(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}\n"
        "  {%- if loop.index0 > 8 %}{% break %}{% endif %}\n"
        "    {% generation %}[{{ m['role'] }}] {{ m.content | trim }}{{ m | tojson(indent=1) }}{% endgeneration %}\n"
        "{% endfor %}{{ tools is none }}{{ bos_token }}{{ {'a': 'é<'} | tojson }}{{ extra }}{{ 'x' if m is defined }}\n"
        "{% if add_generation_prompt %}go{% endif %}"
    )
    folder = changed(tiny[0], tmp_path / "a", "tokenizer_config.json", chat_template=template)
    for prompt in (True, False):
        expected = auto_tokenizer(folder).apply_chat_template(
            CHAT, tokenize=False, add_generation_prompt=prompt, extra={"k": [1, 2.5, None]}
        )
        variables = {"extra": {"k": [1, 2.5, None]}}
        ours = Tokenizer(folder)
        assert ours.render_chat(CHAT, add_generation_prompt=prompt, variables=variables) == expected
    assert ours.encode_chat(CHAT, variables=variables) == ours.encode(
        ours.render_chat(CHAT, variables=variables), add_special_tokens=False
    )


def test_places_of_templates(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "list"}]
    folder = changed(tiny[0], tmp_path / "a", "tokenizer_config.json", chat_template=named)
    assert Tokenizer(folder).render_chat(CHAT) == "list"
    (folder / "chat_template.jinja").write_text("file")
    assert Tokenizer(folder).render_chat(CHAT) == "file"
    last = changed(tiny[0], tmp_path / "b", "tokenizer_config.json", chat_template=None)
    (last / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert Tokenizer(last).render_chat(CHAT) == "json"


def test_without_a_template_the_way_out_is_named(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    folder = changed(tiny[0], tmp_path / "a", "tokenizer_config.json", chat_template=None)
    with pytest.raises(GenerationError, match="no chat template") as caught:
        Tokenizer(folder).render_chat(CHAT)
    assert "ovround run" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('only users') }}", "only users"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ ''.__class__.__mro__ }}{{ missing.deeper }}", "refuses"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "refuses"),
        ("{{ messages + 1 }}", "refuses"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses"),
    ],
)
def test_templates_that_refuse_or_reach_out(
    tiny: tuple[Path, Any], tmp_path: Path, template: str, message: str
) -> None:
    folder = changed(tiny[0], tmp_path / "a", "tokenizer_config.json", chat_template=template)
    with pytest.raises(GenerationError, match=message):
        Tokenizer(folder).render_chat(CHAT)


def test_a_broken_template_is_the_folder_s_fault(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    folder = changed(tiny[0], tmp_path / "a", "tokenizer_config.json", chat_template="{% for %}")
    with pytest.raises(ArtifactError, match="chat template"):
        Tokenizer(folder).render_chat(CHAT)


@pytest.mark.parametrize("messages", [[], "hello", [{"content": "x"}], ["x"], [{"role": "user", "content": object()}]])
def test_messages_that_are_none(tiny: tuple[Path, Any], messages: Any) -> None:
    with pytest.raises(UsageError):
        Tokenizer(tiny[0]).render_chat(messages)


def test_variables_cannot_replace_the_messages(tiny: tuple[Path, Any]) -> None:
    with pytest.raises(UsageError, match="messages"):
        Tokenizer(tiny[0]).render_chat(CHAT, variables={"messages": []})


def test_text_that_is_no_text(tiny: tuple[Path, Any]) -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        Tokenizer(tiny[0]).encode("a\ud800")


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"model": 3}', "[" * 100_000])
def test_a_damaged_tokenizer_file_is_named(tiny: tuple[Path, Any], tmp_path: Path, text: str | None) -> None:
    folder = tmp_path / "a"
    shutil.copytree(tiny[0], folder)
    (folder / "tokenizer.json").unlink()
    if text is not None:
        (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        Tokenizer(folder)
