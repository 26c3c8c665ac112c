"""Anthropic's Messages API: its client's calls, and the events of recorded answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from client_types import examples
from pydantic import TypeAdapter, ValidationError
from recorded_answer import recorded_pieces, tokenizer

from ovround.errors import EngineError
from ovround.runtime.server.chat_syntax import read_chat_syntax
from ovround.runtime.server.error_response import failure_of
from ovround.runtime.server.failure import Failure
from ovround.runtime.server.field_support import FieldError
from ovround.runtime.server.messages_api.chat import chat_request
from ovround.runtime.server.messages_api.message import MessageFormat
from ovround.runtime.server.messages_api.request import MessagesRequest
from ovround.runtime.server.request_error import describe
from ovround.runtime.server.responses import CollectedAnswer
from ovround.runtime.server.serving_chat import OpenedChat
from ovround.runtime.server.unknown_fields import UnknownFields

anthropic = pytest.importorskip("anthropic")
EVENT: TypeAdapter[Any] = TypeAdapter(anthropic.types.RawMessageStreamEvent)
MESSAGE: TypeAdapter[Any] = TypeAdapter(anthropic.types.Message)
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"]}
TOOLS: Any = [{"name": name, "description": "d", "input_schema": SCHEMA} for name in ("first", "second")]
TEMPLATE = "<tool_call></think>{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
CALL = '<tool_call>{"name": "first", "arguments": {"n": 1}}</tool_call>'
QUESTION: Any = [{"role": "user", "content": "How do I open a file?"}]


def check(body: dict[str, Any], *, strict: bool = False) -> MessagesRequest:
    request = MessagesRequest.model_validate({"max_tokens": 5, **body})
    UnknownFields(strict=strict).check(request)
    return request


def refusal(body: dict[str, Any]) -> str | None:
    """The words of an error; None for a body that is accepted."""
    try:
        chat_request(check(body))
    except FieldError as error:
        failure = failure_of(error).in_words_of("/v1/messages")
        assert failure.body("/v1/messages")["error"]["type"] == "invalid_request_error"
        return failure.message
    except ValidationError as error:
        return describe(error.errors(), {"max_tokens": 5, **body})[0]
    return None


@pytest.fixture
def reader(tmp_path: Path) -> Any:
    return tokenizer(tmp_path, TEMPLATE)


def streamed(reader: Any, text: str, reason: Any = "stop", *, fills_context: bool = False) -> tuple[list[Any], Any]:
    """The events of a recorded answer as the client's types, and the whole message of the same."""
    schemas: Any = {tool["name"]: SCHEMA for tool in TOOLS}
    syntax = read_chat_syntax(reader).answer_syntax(reader, [], schemas)
    opened = OpenedChat([], syntax, 5, fills_context)
    stream, whole = (MessageFormat("msg_1", "m", opened) for _ in range(2))
    collected, events = CollectedAnswer(), list(stream.opening())
    for piece in recorded_pieces(reader, syntax, text, reason):
        collected.take(piece)
        events += stream.events(0, piece)
    assert collected.last is not None
    events += stream.closing([collected.last])
    data: list[Any] = [json.loads(event["data"]) for event in events if isinstance(event, dict)]
    assert [event["event"] for event in events if isinstance(event, dict)] == [one["type"] for one in data]
    return [EVENT.validate_python(one) for one in data], MESSAGE.validate_python(whole.whole([collected]))


def blocks_of(events: list[Any]) -> list[dict[str, Any]]:
    """The content that a client puts together."""
    blocks: list[dict[str, Any]] = []
    for event in events:
        if event.type == "content_block_start":
            assert event.index == len(blocks)
            blocks.append(event.content_block.model_dump(exclude_unset=True))
            pieces = ""
        elif event.type == "content_block_delta":
            delta = event.delta
            if delta.type == "input_json_delta":
                pieces += delta.partial_json
            else:
                key = delta.type.removesuffix("_delta")
                blocks[-1][key] += getattr(delta, key)
        elif event.type == "content_block_stop" and blocks[-1]["type"] == "tool_use":
            blocks[-1]["input"] = json.loads(pieces)
    return blocks


def test_the_events_of_a_recorded_answer(reader: Any) -> None:
    text = f"<think>Hm. \U0001f642</think>\n\nSo.\n{CALL}{CALL.replace('first', 'second')}"
    events, whole = streamed(reader, text)
    assert [events[0].type, events[-2].type, events[-1].type] == ["message_start", "message_delta", "message_stop"]
    assert events[0].message.usage.input_tokens == 5
    assert (events[-2].delta.stop_reason, events[-2].usage.input_tokens) == ("tool_use", 3)
    assert events[-2].usage.cache_read_input_tokens == 2
    blocks = blocks_of(events)
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
    assert (blocks[0]["thinking"], blocks[1]["text"]) == ("Hm. \U0001f642", "So.")
    assert [(block["name"], block["input"]) for block in blocks[2:]] == [("first", {"n": 1}), ("second", {"n": 1})]
    dumped = [block.model_dump(exclude_unset=True) for block in whole.content]
    for block in blocks + dumped:
        block.pop("id", None)
    assert dumped == blocks
    assert (whole.stop_reason, whole.usage) == (
        "tool_use",
        anthropic.types.Usage.model_validate(events[-2].usage.model_dump()),
    )


def test_why_an_answer_ends(reader: Any) -> None:
    cases = [("So.", "stop", False, "end_turn"), ("So.", "length", False, "max_tokens"),
             ("So.", "length", True, "model_context_window_exceeded"), (f"So.\n{CALL[:-14]}", "length", False, "max_tokens"),
             (CALL, "length", False, "tool_use")]  # fmt: skip
    for text, reason, fills, expected in cases:
        events, whole = streamed(reader, text, reason, fills_context=fills)
        assert (events[-2].delta.stop_reason, whole.stop_reason) == (expected, expected)
        starts = sum(event.type == "content_block_start" for event in events)
        assert sum(event.type == "content_block_stop" for event in events) == starts
    assert [block.type for block in streamed(reader, f"So.\n{CALL[:-14]}", "length")[1].content] == ["text"]
    (event,) = MessageFormat("msg_1", "m", OpenedChat([], None, 5, False)).failure(failure_of(EngineError("it broke")))
    assert isinstance(event, dict)
    assert (event["event"], json.loads(event["data"])["error"]) == (
        "error",
        {"type": "api_error", "message": "it broke"},
    )


def test_blocks_become_messages() -> None:
    body = {
        "system": [{"type": "text", "text": "You help.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": "So."},
                {"type": "tool_use", "id": "t1", "name": "first", "input": {"n": 3}},
                {"type": "tool_use", "id": "t2", "name": "second", "input": {}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "1"}]},
                {"type": "tool_result", "tool_use_id": "t2", "is_error": True}, {"type": "text", "text": "And?"}]},
        ],
        "tools": TOOLS, "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "stop_sequences": ["END"],
        "thinking": {"type": "enabled", "budget_tokens": 2000}, "output_config": {"effort": "low"}, "top_k": 5,
    }  # fmt: skip
    chat = chat_request(check(body, strict=True))
    messages = [message.for_template() for message in chat.messages]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "tool", "user"]
    assert [messages[at]["content"] for at in (0, 1, 3, 4, 5)] == ["You help.", "hi", "1", "", "And?"]
    assert (messages[2]["reasoning_content"], messages[2]["content"]) == ("Hm.", "So.")
    calls = [(call["id"], call["function"]["arguments"]) for call in messages[2]["tool_calls"]]
    assert calls == [("t1", {"n": 3}), ("t2", {})]
    assert (chat.tool_choice, chat.parallel_tool_calls, chat.stop, chat.top_k) == ("required", False, ["END"], 5)
    assert chat.template_variables == {"enable_thinking": True, "reasoning_effort": "low"}
    assert chat.tools is not None
    assert chat.tools[0].for_template()["function"] == {"name": "first", "description": "d", "parameters": SCHEMA}


SERVED = {"text", "tool_use", "tool_result", "thinking", "redacted_thinking"}


def test_the_client_s_blocks_are_accepted_or_named() -> None:
    accepted = set()
    for block in examples(anthropic.types.ContentBlockParam):
        inner = {part["type"] for part in block.get("content") or [] if isinstance(part, dict) and "type" in part}
        words = refusal({"messages": [{"role": "user", "content": [block]}]})
        if block["type"] in SERVED and inner <= {"text"}:
            assert words is None, block
            check({"messages": [{"role": "user", "content": [block]}]}, strict=True)
            accepted.add(block["type"])
        else:
            assert words is not None
            assert "messages[0].content[0]" in words
    assert accepted == SERVED


NOT_SERVED = {"container", "tools", "tool_choice"}


def test_the_client_s_parameters_are_accepted_or_named() -> None:
    hints = get_type_hints(anthropic.types.message_create_params.MessageCreateParamsNonStreaming)
    refused = set()
    for name, kind in hints.items():
        if name in ("messages", "model"):
            continue
        for value in examples(kind):
            body = {"messages": QUESTION, "tools": [{"name": "{}", "input_schema": {}}], name: value}
            if (words := refusal(body)) is not None:
                assert name in words, (words, value)
                refused.add(name)
    assert refused <= NOT_SERVED


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"max_tokens": 0}, "`max_tokens` is 0"),
        ({"messages": [*QUESTION, {"role": "assistant", "content": "x"}]}, "`messages[1].role`"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "text only"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "tool", "name": "f"}}, "`f`, a tool that is not in tools"),
        ({"tool_choice": {"type": "tool"}}, "needs the tool's name"),
        ({"tools": TOOLS, "tool_choice": {"type": "any"}, "output_config": {"format": {"type": "json_schema", "schema": {}}}},
         "excludes output_config.format"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ],
)  # fmt: skip
def test_errors_are_in_the_client_s_words(body: dict[str, Any], words: str) -> None:
    assert words in str(refusal({"messages": QUESTION, **body}))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (404, "not_found_error"), (413, "request_too_large"),
     (429, "rate_limit_error"), (499, "invalid_request_error"), (500, "api_error"), (503, "overloaded_error"),
     (504, "timeout_error")],
)  # fmt: skip
def test_errors_have_the_protocol_s_form(status: int, kind: str) -> None:
    assert Failure(status, "x").body("/v1/messages/count_tokens") == {
        "type": "error",
        "error": {"type": kind, "message": "x"},
    }
    assert Failure(status, "x").body("/v1/responses")["error"]["message"] == "x"


@pytest.fixture
def client(served: Any) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0, timeout=300) as client:
        yield client


def test_a_message_is_the_chat_s_answer(served: Any, client: Any) -> None:
    chat = [{"role": "system", "content": "Be brief."}, *QUESTION]
    expected = served.llm.chat(chat, max_new_tokens=16)
    options: Any = {"model": "demo", "messages": QUESTION, "system": "Be brief.", "max_tokens": 16}
    message = client.messages.create(**options)
    assert [block.text for block in message.content] == [expected.text]
    reason = {"stop": "end_turn", "length": "max_tokens"}[expected.finish_reason]
    assert message.stop_reason == reason
    used = message.usage
    assert (used.input_tokens + used.cache_read_input_tokens, used.output_tokens) == (
        expected.prompt_tokens,
        expected.usage.completion_tokens,
    )
    count = {key: options[key] for key in ("model", "messages", "system")}
    assert client.messages.count_tokens(**count).input_tokens == expected.prompt_tokens
    with client.messages.stream(**options) as stream:
        assert "".join(stream.text_stream) == expected.text
        final = stream.get_final_message()
    assert (final.content[0].text, final.stop_reason) == (expected.text, reason)
    assert final.usage.output_tokens == used.output_tokens
    assert client.messages.create(**{**options, "max_tokens": 1}).stop_reason == "max_tokens"
    stop = expected.text[1:4]
    stopped = client.messages.create(**options, stop_sequences=["never", stop])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    assert stopped.content[0].text == expected.text[: expected.text.find(stop)]
    again = [*QUESTION, {"role": "assistant", "content": message.content}, {"role": "user", "content": "And?"}]
    assert client.messages.create(**{**options, "messages": again}).usage.output_tokens > 0
    many = client.messages.create(**{**options, "max_tokens": 32_000})  # as agents ask
    assert many.stop_reason in ("end_turn", "model_context_window_exceeded")


def test_what_cannot_be_answered(client: Any) -> None:
    options: Any = {"model": "demo", "messages": QUESTION, "max_tokens": 4}
    with pytest.raises(anthropic.BadRequestError, match="messages") as caught:
        client.messages.create(**{**options, "messages": []})
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError, match="`claude`"):
        client.messages.create(**{**options, "model": "claude"})
    with pytest.raises(anthropic.BadRequestError, match="512"):
        client.messages.create(**{**options, "messages": [{"role": "user", "content": "x " * 600}]})


@pytest.mark.parametrize("served", ["onnx"], indirect=True)
def test_an_agent_s_two_steps(client: Any) -> None:
    options: Any = {"model": "demo", "max_tokens": 200, "tools": TOOLS}
    choice: Any = {"type": "tool", "name": "second"}
    message = client.messages.create(**options, messages=QUESTION, tool_choice=choice)
    with client.messages.stream(**options, messages=QUESTION, tool_choice=choice) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert kinds.count("input_json") > 1
    for answer in (message, streamed):
        (block,) = answer.content
        assert (answer.stop_reason, block.type, block.name) == ("tool_use", "tool_use", "second")
        assert 0 <= block.input["n"] <= 9
        result = {"type": "tool_result", "tool_use_id": block.id, "content": "1"}
        chat = [*QUESTION, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
        last = client.messages.create(**{**options, "max_tokens": 2}, messages=chat, tool_choice={"type": "none"})
        assert [one.type for one in last.content] == ["text"]


def test_the_key_and_the_form_of_its_refusal(serve_folder: Any, demo_folders: dict[str, Path]) -> None:
    body = {"messages": QUESTION, "max_tokens": 1}
    with serve_folder(demo_folders["onnx"], api_key="secret", strict=True) as served:
        status, reply, _ = served.request("POST", "/v1/messages", body, {"x-api-key": "wrong"})
        assert (status, reply["type"], reply["error"]["type"]) == (401, "error", "authentication_error")
        assert served.request("POST", "/v1/messages", body, {"x-api-key": "secret"})[0] == 200
        assert served.request("GET", "/v1/models", None, {"x-api-key": "secret"})[0] == 200
        status, reply, _ = served.request("POST", "/v1/messages", {**body, "mood": 1}, {"x-api-key": "secret"})
        assert (status, reply["error"]["type"]) == (400, "invalid_request_error")
        assert "`mood`" in reply["error"]["message"]
        status, reply, _ = served.request("GET", "/v1/messages/x", None, {"x-api-key": "secret"})
        assert (status, reply["error"]["type"]) == (404, "not_found_error")
