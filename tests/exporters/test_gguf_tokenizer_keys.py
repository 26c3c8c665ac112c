"""A folder's tokenizer and chat templates as keys of a GGUF file, and back."""

from __future__ import annotations

import json
from pathlib import Path

from checkpoint_writer import TEMPLATE, VOCAB_SIZE, write_checkpoint

from ovround.checkpoint.gguf.tokenizer import tokenizer_files
from ovround.exporters.gguf.tokenizer import tokenizer_metadata
from ovround.runtime.text.tokenizer import Tokenizer

_TEXTS = ("once upon a time", " 12  cats\n\n", "<|user|>hi</s>", "caf\u00e9 \U0001f642")


def test_tokens_and_templates_come_back(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    (source / "chat_template.jinja").write_text(TEMPLATE)  # beside named ones tokenizer_config.json's is not read
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    metadata = tokenizer_metadata(source, VOCAB_SIZE, "llama")
    assert len(metadata["tokenizer.ggml.tokens"]) == len(metadata["tokenizer.ggml.token_type"]) == VOCAB_SIZE
    assert metadata["tokenizer.chat_templates"] == ["tool_use"]
    back = tmp_path / "back"
    (back / "additional_chat_templates").mkdir(parents=True)
    for name, content in tokenizer_files({"general.architecture": "llama", **metadata}).items():
        (back / name).write_bytes(content)
    (back / "config.json").write_text(json.dumps({"model_type": "llama"}))
    ours, original = Tokenizer(back), Tokenizer(source)
    for text in _TEXTS:
        assert ours.encode(text) == original.encode(text)
        assert ours.decode(ours.encode(text)) == original.decode(original.encode(text))
    message = [{"role": "user", "content": "hi"}]
    assert ours.encode_chat(message) == original.encode_chat(message)
    assert (back / "additional_chat_templates" / "tool_use.jinja").read_text() == "{{ tools }}"


def test_files_of_templates_rule_over_the_configuration(tmp_path: Path) -> None:
    """As in transformers, and in our runtime on the same folder: its default, in tokenizer_config.json, is not read."""
    source = write_checkpoint(tmp_path / "source")
    assert tokenizer_metadata(source, VOCAB_SIZE, "llama")["tokenizer.chat_template"] == TEMPLATE
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    metadata = tokenizer_metadata(source, VOCAB_SIZE, "llama")
    assert metadata["tokenizer.chat_templates"] == ["tool_use"]
    assert "tokenizer.chat_template" not in metadata
