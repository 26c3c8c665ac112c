"""Names of models on the hub, as they are typed and as a browser shows them."""

from __future__ import annotations

import pytest

from ovround.checkpoint.gguf.hub_file import parts_of_tag
from ovround.checkpoint.hub import HubName
from ovround.checkpoint.locate import plain_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("https://huggingface.co/org/tiny", "org/tiny"),
        ("http://www.huggingface.co/org/tiny/", "org/tiny"),
        ("huggingface.co/org/tiny", "org/tiny"),
        ("hf.co/org/tiny", "org/tiny"),
        ("hf.co/org/tiny-GGUF:Q4_K_M", "org/tiny-GGUF:Q4_K_M"),
        ("hf://org/tiny", "org/tiny"),
        ("org/tiny/", "org/tiny"),
        ("https://huggingface.co/org/tiny/tree/main", "org/tiny"),
        ("https://huggingface.co/org/tiny/tree/v1.0", "org/tiny@v1.0"),
        ("https://huggingface.co/org/tiny/tree/refs%2Fpr%2F1", "org/tiny@refs/pr/1"),
        ("https://huggingface.co/org/tiny/blob/main/config.json", "org/tiny"),
        ("https://huggingface.co/org/tiny/discussions/3", "org/tiny"),
        ("https://huggingface.co/org/tiny?library=transformers#usage", "org/tiny"),
        ("https://huggingface.co/org/x-GGUF/blob/main/x-Q8_0.gguf", "org/x-GGUF:x-Q8_0.gguf"),
        ("https://huggingface.co/org/x-GGUF/resolve/main/q/x-Q8_0.gguf?download=true", "org/x-GGUF:q/x-Q8_0.gguf"),
        ("https://huggingface.co/org/x-GGUF?show_file_info=x-Q8_0.gguf", "org/x-GGUF:x-Q8_0.gguf"),
        ("org/x-GGUF:q/x-Q8_0.gguf@v1", "org/x-GGUF:q/x-Q8_0.gguf@v1"),
    ],
)
def test_the_address_of_a_page_is_a_name(text: str, name: str) -> None:
    assert plain_name(text) == name
    parsed = HubName.parse(text)
    assert parsed is not None
    assert (parsed.text, HubName.parse(name)) == (name, parsed)


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/datasets/org/x", "https://huggingface.co/spaces/org/x", "https://huggingface.co/org", "./org",
        "https://example.com/org/tiny", "gpt2", "../org/tiny", "/org/tiny", ".cache/tiny", "org/", "hf.co",
    ],
)  # fmt: skip
def test_what_is_no_name(text: str) -> None:
    assert HubName.parse(text) is None


def test_the_addresses_of_a_mirror_are_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert HubName.parse("https://hf-mirror.example/org/tiny") is None
    monkeypatch.setenv("HF_ENDPOINT", "https://hf-mirror.example")
    assert HubName.parse("https://hf-mirror.example/org/tiny/tree/v1") == HubName("org/tiny", None, "v1")


def test_part_of_a_split_file_by_its_address() -> None:
    files = [f"Q8_0/x-Q8_0-0000{part}-of-00002.gguf" for part in (1, 2)]
    assert parts_of_tag(["x-Q4_0.gguf", *files], "org/x", files[1]) == files
