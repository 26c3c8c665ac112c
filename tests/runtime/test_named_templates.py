"""Named chat templates: carried over by every format, chosen as transformers chooses; tools that a template hides are an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_writer import tiny_config, write_checkpoint
from transformers import AutoTokenizer

from ovround.conversion.convert import convert
from ovround.errors import CheckpointError, GenerationError
from ovround.options.convert_options import ConvertOptions
from ovround.runtime import LLM
from ovround.runtime.text.tokenizer import Tokenizer

PLAIN = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
WITH_TOOLS = "{{ tools | tojson }}\n" + PLAIN
CHAT = [{"role": "user", "content": "the cat"}]
TOOLS = [{"type": "function", "function": {"name": "sit", "parameters": {"type": "object", "properties": {}}}}]
Files = dict[str, str]
LAYOUTS: dict[str, tuple[Any, Files]] = {  # of tokenizer_config.json, and files of their own
    "a list": ([{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": WITH_TOOLS}], {}),
    "a list without default": ([{"name": "tool_use", "template": WITH_TOOLS}, {"name": "rag", "template": "R"}], {}),
    "files": (None, {"chat_template.jinja": PLAIN, "additional_chat_templates/tool_use.jinja": WITH_TOOLS}),
    "files beside a list": (
        [{"name": "default", "template": "old"}, {"name": "tool_use", "template": "old"}],
        {"chat_template.jinja": PLAIN, "additional_chat_templates/tool_use.jinja": WITH_TOOLS},
    ),
    "no default file": ("in tokenizer_config", {"additional_chat_templates/tool_use.jinja": WITH_TOOLS}),
    "one that knows tools": ("{% if tools %}{{ tools | tojson }}{% endif %}" + PLAIN, {}),
}


def checkpoint(folder: Path, stated: Any, files: Files) -> Path:
    write_checkpoint(folder, tiny_config())
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("chat_template")
    path.write_text(json.dumps(settings if stated is None else {**settings, "chat_template": stated}))
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def outcome(call: Callable[[], Any]) -> str:
    """The prompt, or `refused`."""
    try:
        return str(call())
    except (GenerationError, ValueError):
        return "refused"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_the_template_is_the_one_of_transformers(layout: str, tools: Any, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", *LAYOUTS[layout])
    reference = AutoTokenizer.from_pretrained(folder)
    theirs = outcome(
        lambda: reference.apply_chat_template(CHAT, tools=tools, tokenize=False, add_generation_prompt=True)
    )
    ours = outcome(lambda: Tokenizer(folder).render_chat(CHAT, variables={"tools": tools}))
    assert ours == theirs
    assert (ours == "refused") == (layout in ("a list without default", "no default file") and tools is None)


def test_no_default_is_said_with_what_there_is(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", *LAYOUTS["a list without default"])
    with pytest.raises(GenerationError, match="has the chat templates rag, tool_use, and no default one") as caught:
        Tokenizer(folder).render_chat(CHAT)
    assert caught.value.hint == "add chat_template.jinja to its folder, or give tools, which have a template"


@pytest.mark.parametrize("layout", ["files", "a list"])
def test_every_format_carries_them_over(layout: str, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model", *LAYOUTS[layout])
    expected = Tokenizer(source).render_chat(CHAT, variables={"tools": TOOLS})
    options = ConvertOptions(formats=("openvino", "onnx", "auto_round"), recipe="rtn")
    folders = convert(source, tmp_path / "out", options).folders
    for folder in folders:
        assert Tokenizer(folder).render_chat(CHAT, variables={"tools": TOOLS}) == expected
        assert Tokenizer(folder).render_chat(CHAT) == "the cat\n"
    genai: Any = pytest.importorskip("openvino_genai")
    assert genai.Tokenizer(folders[0]).apply_chat_template(CHAT, add_generation_prompt=True) == "the cat\n"


def test_a_named_template_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model", None, {"chat_template.jinja": PLAIN})
    (tmp_path / "secret.jinja").write_text("secret")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").symlink_to(tmp_path / "secret.jinja")
    with pytest.raises(CheckpointError, match="is a link out of its folder"):
        convert(source, tmp_path / "out", ConvertOptions(recipe="rtn"))


def test_tools_that_the_template_hides_are_an_error(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "model", PLAIN, {})
    message = "the model's chat template does not show it the tools"
    with pytest.raises(GenerationError, match=message):
        Tokenizer(source).render_chat(CHAT, variables={"tools": TOOLS})
    assert Tokenizer(source).render_chat(CHAT, variables={"tools": []}) == "the cat\n"
    folder = convert(source, tmp_path / "out", ConvertOptions(recipe="rtn")).folders[0]
    with LLM(folder) as llm:
        for call in (llm.chat, llm.stream_chat):
            with pytest.raises(GenerationError, match=message):
                call(CHAT, max_new_tokens=2, template_variables={"tools": TOOLS})
        assert llm.chat(CHAT, max_new_tokens=2).token_ids
