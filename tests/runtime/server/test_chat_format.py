"""Recorded answers as chat messages, whole and streamed; markers that are special tokens; tools that a template does not show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from recorded_answer import recorded_pieces, tokenizer

from ovround.errors import UsageError
from ovround.runtime.decoding.sampling import SamplingOptions
from ovround.runtime.server.chat_syntax import ChatSyntax, encode_chat, read_chat_syntax
from ovround.runtime.server.choice_format import ChatFormat
from ovround.runtime.server.engine_messages import EngineRequest, request_from_json, request_to_json
from ovround.runtime.server.responses import CollectedAnswer
from ovround.runtime.server.settings import ServerSettings
from ovround.runtime.text.tokenizer import Tokenizer

PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer"}}}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name in ("first", "second")
]
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
PLAIN = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
HARMONY = "{{ tools }}<|start|>{# <|channel|><|message|> #}" + PLAIN
THINKING = PLAIN + "{% if add_generation_prompt %}<think>\n{% endif %}"
CALLS = '<tool_call>{"name": "first", "arguments": {"n": 1}}</tool_call>\n<tool_call>{"name": "second", "arguments": {"n": 2}}</tool_call>'  # noqa: E501


def answers(
    reader: Tokenizer, syntax: ChatSyntax, text: str, reason: Any = "stop", prompt: str = "", **more: Any
) -> Any:
    """A recorded answer as a whole message, and its stream put together as clients do."""
    how = syntax.answer_syntax(reader, reader.encode(prompt), more.pop("tools", SCHEMAS), **more)
    chat, collected = ChatFormat(reader, how), CollectedAnswer()
    chunks = []
    for piece in recorded_pieces(reader, how, text, reason):
        collected.take(piece)
        chunks += chat.chunks(0, piece)
    message: Any = {"content": "", "reasoning_content": "", "calls": []}
    for chunk in chunks:
        for key, value in chunk["delta"].items():
            if key != "tool_calls":
                message[key] += value
                continue
            (call,) = value
            if "id" in call:
                message["calls"].append(["", ""])
                assert call["index"] == len(message["calls"]) - 1
            message["calls"][call["index"]][0] += call["function"].get("name", "")
            message["calls"][call["index"]][1] += call["function"]["arguments"]
    return chat.whole(0, collected), message, chunks[-1]["finish_reason"]


def calls(choice: Any) -> list[list[str]]:
    given = choice["message"].get("tool_calls", [])
    return [[call["function"]["name"], call["function"]["arguments"]] for call in given]


def test_whole_and_streamed_messages_are_the_same(tmp_path: Path) -> None:
    reader = tokenizer(tmp_path, "<tool_call></think>" + PLAIN)
    syntax = read_chat_syntax(reader)
    assert syntax.format.name == "hermes"
    choice, streamed, reason = answers(reader, syntax, f"<think>Hm.</think>\n\nSo.\n{CALLS}<|im_end|>")
    assert choice["message"]["content"] == streamed["content"] == "So."
    assert choice["message"]["reasoning_content"] == streamed["reasoning_content"] == "Hm."
    assert calls(choice) == streamed["calls"] == [["first", '{"n": 1}'], ["second", '{"n": 2}']]
    assert choice["finish_reason"] == reason == "tool_calls"
    assert len({call["id"] for call in choice["message"]["tool_calls"]}) == 2
    choice, streamed, reason = answers(reader, syntax, CALLS, parallel=False)
    assert calls(choice) == streamed["calls"] == [["first", '{"n": 1}']]
    assert choice["message"]["content"] is None


def test_a_call_that_is_cut_says_so(tmp_path: Path) -> None:
    reader = tokenizer(tmp_path, "<tool_call>" + PLAIN)
    for forced, text in ((False, f"So. {CALLS[:-14]}"), (True, '{"name": "first", "arguments": {"n": 1')):
        choice, streamed, reason = answers(reader, read_chat_syntax(reader), text, "length", forced=forced)
        assert choice["finish_reason"] == reason == "length"
        assert choice["message"]["content"] in ("So.", "", None)
        for _, arguments in calls(choice):
            json.loads(arguments)
        assert len(streamed["calls"]) == len(calls(choice)) + 1
    choice, _, reason = answers(reader, read_chat_syntax(reader), CALLS, "length")
    assert choice["finish_reason"] == reason == "tool_calls"  # all calls are complete


def test_markers_that_are_special_tokens_are_read_and_not_shown(tmp_path: Path) -> None:
    reader = tokenizer(tmp_path, HARMONY)
    syntax = read_chat_syntax(reader)
    text = (
        "<|channel|>analysis<|message|>Hm. 🙂<|end|><|start|>assistant<|channel|>final<|message|>four<|end|><|start|>assistant"
        '<|channel|>commentary to=functions.first <|constrain|>json<|message|>{"n": 4}<|call|><|im_end|>'
    )
    choice, streamed, _ = answers(reader, syntax, text)
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("four", "Hm. 🙂")
    assert calls(choice) == streamed["calls"] == [["first", '{"n": 4}']]
    choice, streamed, reason = answers(
        reader, syntax, text.split("<|end|><|start|>assistant<|channel|>comm")[0], tools={}
    )
    assert choice["message"]["content"] == streamed["content"] == "four"
    assert choice["finish_reason"] == reason == "stop"
    named = read_chat_syntax(reader, "mistral")
    choice, streamed, _ = answers(reader, named, '[TOOL_CALLS]first{"n": 4}<|im_end|>')
    assert calls(choice) == streamed["calls"] == [["first", '{"n": 4}']]
    assert "--tool-parser" in named.describe()


def test_the_options_reach_another_process(tmp_path: Path) -> None:
    options = SamplingOptions(shown_tokens=((256, "<|channel|>"),))
    request = EngineRequest(1, [2], options, 3, [4])
    assert request_from_json(json.loads(json.dumps(request_to_json(request)))) == request


def test_reasoning_that_the_prompt_has_opened(tmp_path: Path) -> None:
    reader = tokenizer(tmp_path, THINKING)
    syntax = read_chat_syntax(reader)
    prompt = reader.render_chat([{"role": "user", "content": "x"}])
    choice, streamed, _ = answers(reader, syntax, "Hm.\n</think>\nFour.", prompt=prompt, tools={})
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("Hm.", "Four.")
    assert (streamed["reasoning_content"], streamed["content"]) == ("Hm.", "Four.")
    assert "reasoning_content" not in answers(reader, syntax, "Four.", tools={})[0]["message"]
    choice, streamed, _ = answers(reader, syntax, '{"a": 1}', prompt=prompt, constrained=True)
    assert choice["message"]["content"] == streamed["content"] == '{"a": 1}'


@pytest.mark.parametrize("template", [PLAIN, NO_SYSTEM])
def test_a_template_without_tools_gets_them_in_a_message(template: str, tmp_path: Path) -> None:
    reader = tokenizer(tmp_path, template)
    assert "does not show tools" in read_chat_syntax(reader).describe()
    chat: list[dict[str, Any]] = [
        {"role": "user", "content": "How many?"},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "first", "arguments": {"n": 7}}}]},
        {"role": "tool", "content": "seven", "tool_call_id": "a"}, {"role": "tool", "content": "eight", "tool_call_id": "b"},
    ]  # fmt: skip
    prompt = reader.decode(encode_chat(reader, chat, {"tools": TOOLS}))
    assert prompt.startswith("user: How many?\n\nYou may" if template == NO_SYSTEM else "system: You may")
    assert '"name": "second"' in prompt
    assert 'assistant: <tool_call>\n{"name": "first", "arguments": {"n": 7}}\n</tool_call>' in prompt
    assert "user: <tool_response>\nseven\n</tool_response>\n<tool_response>\neight\n</tool_response>" in prompt
    assert encode_chat(reader, chat[:1], {}) == reader.encode("user: How many?\n")
    assert chat[0] == {"role": "user", "content": "How many?"}  # the client's messages stay as they are


def test_a_template_with_tools_gets_them_itself(tmp_path: Path) -> None:
    reader = tokenizer(tmp_path, "{{ tools | tojson }}<tool_call>" + PLAIN)
    prompt = reader.decode(encode_chat(reader, [{"role": "user", "content": "x"}], {"tools": TOOLS}))
    assert prompt.startswith('[{"type": "function"')
    assert "You may call" not in prompt


def test_a_parser_that_there_is_not() -> None:
    with pytest.raises(UsageError, match=r"`hermse`; allowed: .*hermes"):
        ServerSettings("demo", tool_parser="hermse")
