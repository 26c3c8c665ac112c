"""What clients send: every message of OpenAI's client can be sent back, unknown fields are ignored, errors name the field."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from client_types import examples
from pydantic import ValidationError
from typing_extensions import get_type_hints  # pydantic's; the client declares its types with it
from waiting import wait_until

from ovround.runtime.server.chat_message import ChatMessage
from ovround.runtime.server.field_support import FieldError
from ovround.runtime.server.protocol import ChatRequest
from ovround.runtime.server.request_error import describe
from ovround.runtime.server.unknown_fields import UnknownFields
from ovround.runtime.text.chat_template import ChatTemplate

openai = pytest.importorskip("openai")
chat_types = openai.types.chat
USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "first", "arguments": '{"n": 3}'}}
NOT_TEXT = {"image_url", "input_audio", "file"}
"""The types of content parts that a text model cannot read."""


def check(body: dict[str, Any], *, strict: bool = False) -> ChatRequest:
    request = ChatRequest.model_validate(body)
    UnknownFields(strict=strict).check(request)
    return request


def refusal(body: dict[str, Any]) -> tuple[str, str | None]:
    """Message and param of the refused body."""
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate(body)
    return describe(caught.value.errors(), body)


def refused_field(body: dict[str, Any]) -> str | None:
    """The field that an error names; None for a body that is accepted."""
    try:
        check(body)
    except FieldError as error:
        return error.param
    except ValidationError as error:
        return describe(error.errors(), body)[1]
    return None


def part_types(message: dict[str, Any]) -> set[str]:
    content = message.get("content")
    return {part["type"] for part in content} if isinstance(content, list) else set()


MESSAGES = list(examples(chat_types.ChatCompletionMessageParam))


def test_the_client_s_message_types_are_accepted() -> None:
    """Each role, with every field; content as text and as parts; parts that a text model cannot read are named."""
    assert {message["role"] for message in MESSAGES} >= {"system", "developer", "user", "assistant", "tool", "function"}
    seen: set[str] = set()
    for message in MESSAGES:
        body = {"messages": [USER, {**message, "audio": None}]}
        unread = part_types(message) & NOT_TEXT
        seen |= unread
        if unread:
            text, param = refusal(body)
            assert param == "messages[1].content[0].type"
            assert json.dumps(min(unread)) in text
            assert "text only" in text
        else:
            rendered = check(body).messages[1].for_template()
            assert isinstance(rendered["content"], str) or (rendered["content"] is None and rendered["tool_calls"])
    assert seen == NOT_TEXT


@pytest.mark.parametrize("without_nulls", [True, False])
def test_the_client_s_responses_can_be_sent_back(without_nulls: bool) -> None:
    """`messages.append(message.model_dump())`, with every field that a response may have, and with none of them."""
    answers = list(examples(chat_types.ChatCompletionMessage))
    answers += [{"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "assistant", "content": "x"}]
    assert len(answers) > 3
    for answer in answers:
        message = chat_types.ChatCompletionMessage.model_validate(answer)
        dumped = message.model_dump(exclude_none=without_nulls)
        check({"messages": [USER, dumped, USER]}, strict=True)
    delta = chat_types.chat_completion_chunk.ChoiceDeltaToolCall.model_validate({"index": 0, **CALL})
    call = delta.model_dump(exclude_none=without_nulls)
    check({"messages": [USER, {"role": "assistant", "tool_calls": [call]}, USER]}, strict=True)


NOT_SERVED = {"audio", "functions", "function_call", "web_search_options", "modalities"}
NOT_SERVED |= {"tools[0].type", "tool_choice.type"}  # custom tools
NOT_SERVED |= {"tool_choice.allowed_tools.tools[0].type"}  # the example has an empty object there


def test_the_client_s_parameters_are_accepted_or_named() -> None:
    """A value of each parameter of the client's `create`; what cannot be done is a 400 with the parameter's name."""
    hints = get_type_hints(chat_types.completion_create_params.CompletionCreateParamsNonStreaming)
    needs = {
        "top_logprobs": {"logprobs": True},
        "tool_choice": {"tools": [{"type": "function", "function": {"name": "{}"}}]},
    }
    own = {"logit_bias": [{"5": 1}], "messages": [[USER]], "prompt_cache_options": [{}]}
    refused: set[str] = set()
    for name, kind in hints.items():
        for value in own.get(name, list(examples(kind))):
            body = {"messages": [USER], **needs.get(name, {}), name: value}
            param = refused_field(body)
            if param is not None:
                assert re.split(r"[.\[]", param)[0] == name, (param, body)
                refused.add(param)
    assert refused == NOT_SERVED


BODIES: dict[str, dict[str, Any]] = {
    "nulls": {"stream": None, "stream_options": None, "stop": None, "n": None, "tools": None, "ignore_eos": None,
              "functions": None, "function_call": None, "audio": None, "seed": None, "top_p": None},
    "stream options": {"stream_options": {"include_usage": None, "continuous_usage_stats": False}},
    "no limit": {"max_tokens": -1}, "whole floats": {"top_k": 40.0, "max_tokens": 4.0, "n": 1.0},
    "bookkeeping": {"user": "u", "metadata": {"a": 1}, "store": False, "service_tier": "auto",
                    "parallel_tool_calls": False, "modalities": ["text"], "verbosity": "low"},
    "other servers": {"cache_prompt": True, "keep_alive": "5m", "options": {"num_ctx": 4096}, "min_tokens": 0,
                      "skip_special_tokens": True, "add_generation_prompt": True, "continue_final_message": False},
    "tools": {"tools": [{"type": "function", "cache_control": {"type": "ephemeral"},
                         "function": {"name": "mcp:server/first", "parameters": None, "strict": None}}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {}, "id": 1}]}]},
    "an old call": {"messages": [USER, {"role": "assistant", "function_call": {"name": "first", "arguments": ""}},
                                 {"role": "function", "name": "first", "content": "1"}]},
    "reasoning": {"messages": [USER, {"role": "assistant", "content": "x", "reasoning": "y"}, USER]},
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_bodies_of_common_clients(name: str) -> None:
    check({"messages": [USER], **BODIES[name]})


def test_what_the_template_gets() -> None:
    def rendered(message: dict[str, Any], **options: Any) -> dict[str, Any]:
        return ChatMessage.model_validate(message).for_template(**options)

    called = rendered({"role": "assistant", "content": None, "tool_calls": [{**CALL, "index": 0}], "annotations": []})
    plain = {**CALL, "function": {"name": "first", "arguments": {"n": 3}}}
    assert called == {"role": "assistant", "content": None, "tool_calls": [plain]}
    assert rendered({"role": "assistant", "refusal": "no"}) == {"role": "assistant", "content": "no"}
    assert rendered({"role": "assistant", "audio": {"id": "a", "transcript": "said"}})["content"] == "said"
    assert rendered({"role": "assistant", "content": "x", "reasoning": "y"})["reasoning_content"] == "y"
    assert rendered({"role": "developer", "content": "x"})["role"] == "developer"
    assert rendered({"role": "developer", "content": "x"}, knows_developer=False)["role"] == "system"
    request = check(
        {"messages": [USER], "reasoning_effort": "none", "chat_template_kwargs": {"a": 1}, "max_tokens": -1}
    )
    assert request.template_variables == {"reasoning_effort": "none", "enable_thinking": False, "a": 1}
    assert request.max_new_tokens is None


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"temperature": "hot"}, "temperature", '`temperature` is "hot"; it should be a valid number'),
        ({"max_tokens": -5}, "max_tokens", "is -5; it should be greater than or equal to 1"),
        ({"stream": 1}, "stream", "is 1; it should be a valid boolean"),
        ({"tools": [{"type": "web"}]}, "tools[0].type", "\"web\"; it should be 'function'"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "is missing"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "is 5; it should be a valid string or a"),
        ({"messages": [{"role": "king"}]}, "messages[0].role", '"king"'),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages[0]", "audio has no transcript"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type", '"xml"; allowed'),
    ],
)  # fmt: skip
def test_errors_are_in_the_client_s_words(body: dict[str, Any], param: str, words: str) -> None:
    text, named = refusal({"messages": [USER], **body})
    assert named == param
    assert words in text


@pytest.mark.parametrize(
    "field",
    [
        {"structured_outputs": {"regex": "a"}}, {"guided_choice": ["a"]}, {"grammar": "root ::= x"}, {"min_tokens": 2},
        {"modalities": ["text", "audio"]}, {"continue_final_message": True}, {"functions": [{"name": "f"}]},
        {"skip_special_tokens": False}, {"echo": True},
    ],
)  # fmt: skip
def test_a_field_that_binds_the_answer_is_not_ignored(field: dict[str, Any]) -> None:
    with pytest.raises(FieldError, match="the answer would differ") as caught:
        check({"messages": [USER], **field})
    assert caught.value.param == next(iter(field))


def test_unknown_fields_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    policy = UnknownFields(strict=False)
    body = ChatRequest.model_validate({"messages": [{**USER, "mood\n": 1}] * 3, "mirostat": 2})
    with caplog.at_level(logging.WARNING, "ovround.server"):
        policy.check(body)
        policy.check(body)
        texts = [record.getMessage() for record in caplog.records]
        assert len(texts) == 2
        assert any("'mirostat'" in text for text in texts)
        assert any(r"'messages[].mood\n'" in text for text in texts)  # no line of the client's own
        for number in range(500):
            policy.check(ChatRequest.model_validate({"messages": [USER], f"field{number}": 1}))
        assert len(caplog.records) == 100


NONE_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' and m['content'] is none %}"
    "{% for c in m['tool_calls'] %}<CALL>{{ c['function']['name'] }}{% endfor %}"
    "{% else %}<{{ m['role'] }}>{{ m['content'] }}{% endif %}{% endfor %}"
)
CALLS_IT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m.content }}{% for c in m.tool_calls or [] %}C{% endfor %}{% endfor %}"
)
ADDS = CALLS_IT.replace("{{ m.content }}", "{{ '>' + m.content }}")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (NONE_TEMPLATE, "<user>None?<CALL>first<tool>1"),
        (CALLS_IT, "<user>None?<assistant>C<tool>1"),
        (ADDS, "<user>>None?<assistant>>C<tool>>1"),
    ],
    ids=["tells calls by it", "writes it", "refuses it"],
)
def test_a_message_without_content(template: str, expected: str) -> None:
    """A content of None is left out, as in transformers, unless the prompt would then lose the call or be refused."""
    messages = [
        {"role": "user", "content": "None?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "1"},
    ]
    assert ChatTemplate(template, {}).render(messages) == expected


@pytest.mark.parametrize("served", ["onnx"], indirect=True)
def test_a_second_turn(served: Any) -> None:
    """An agent's loop with OpenAI's client: answer, forced call, streamed call; each sent back as the client dumps it."""
    options: dict[str, Any] = {"model": "demo", "max_tokens": 60}
    tools: Any = [{"type": "function", "function": {"name": "first", "parameters": {
        "type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"],
        "additionalProperties": False}}}]  # fmt: skip
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        create = client.chat.completions.create
        answer = create(**options, messages=[USER]).choices[0].message
        call = create(**options, messages=[USER], tools=tools, tool_choice="required").choices[0].message
        chunks = create(**options, messages=[USER], tools=tools, tool_choice="required", stream=True)
        pieces = [chunk.choices[0].delta for chunk in chunks if chunk.choices[0].delta.tool_calls]
        deltas = pieces[0]  # the arguments come piece by piece, and a client sends them joined
        function = deltas.tool_calls[0].function
        function.arguments = "".join(piece.tool_calls[0].function.arguments or "" for piece in pieces)
        for message in (answer, call, deltas):
            for dumped in (message.model_dump(), message.model_dump(exclude_none=True), message):
                sent: list[Any] = [{"role": "developer", "content": "Be brief."}, USER, dumped]
                if message is deltas and dumped is not message:
                    sent[-1] = {**dumped, "role": "assistant"}
                elif message is deltas:
                    continue
                if message.tool_calls:
                    sent.append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "1"})
                again = create(**{**options, "max_tokens": 2}, messages=[*sent, USER], tools=tools)
                assert again.usage.completion_tokens >= 1
    body = {"messages": [{"role": "developer", "content": "x"}, USER]}
    expected = served.llm.tokenizer.render_chat([{"role": "system", "content": "x"}, USER])
    assert served.request("POST", "/apply-template", body)[1]["prompt"] == expected
    status, reply, _ = served.request("POST", "/v1/chat/completions", {"messages": [USER], "audio": {"voice": "a"}})
    assert (status, reply["error"]["param"], reply["error"]["code"]) == (400, "audio", "unsupported_parameter")
    status, reply, _ = served.request("POST", "/v1/chat/completions", b'{"messages": ')
    assert status == 400
    assert reply["error"]["message"].startswith("the body is not valid JSON")


@pytest.mark.parametrize("served", ["onnx"], indirect=True)
@pytest.mark.parametrize("stream", [False, True])
def test_the_access_log(served: Any, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    path = "/v1/chat/completions"
    with caplog.at_level(logging.INFO, "ovround.access"):
        served.request("GET", "/health")
        served.request("GET", "/nothing%0Aelse")
        served.request("POST", path, {"messages": [USER], "max_tokens": 3, "stream": stream})
        wait_until(lambda: len(caplog.records) == 2)
        reply = served.request("POST", path, {"messages": [USER], "max_tokens": 9000})[1]
        wait_until(lambda: len(caplog.records) == 3)
    missing, answered, failed = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"GET /nothing%0Aelse 404 \d+\.\d{3} s", missing)
    tokens = len(served.llm.tokenizer.encode_chat([USER]))
    ends = rf"s, first token \d+\.\d{{3}} s, {tokens} prompt \+ 3 new tokens, chatcmpl-[0-9a-f]+"
    assert re.fullmatch(rf"POST {path} 200 \d+\.\d{{3}} {ends}", answered)
    assert re.fullmatch(rf"POST {path} 400 \d+\.\d{{3}} s", failed)
    assert "max_new_tokens" not in reply["error"]["message"]


def test_strict_and_allowed_origins(serve_folder: Any, demo_folders: dict[str, Path]) -> None:
    settings: dict[str, Any] = {"strict": True, "allowed_origins": ("https://a.example",), "api_key": "secret"}
    with serve_folder(demo_folders["onnx"], **settings) as served:
        body, key = {"messages": [USER], "max_tokens": 1}, {"Authorization": "Bearer secret"}
        status, reply, _ = served.request("POST", "/v1/chat/completions", {**body, "mirostat": 2}, key)
        assert (status, reply["error"]["param"]) == (400, "mirostat")
        assert "--strict" in reply["error"]["message"]
        for origin, allowed in (("https://a.example", "https://a.example"), ("https://b.example", None)):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST",
                     "Access-Control-Request-Headers": "authorization"}  # fmt: skip
            status, _, headers = served.request("OPTIONS", "/v1/chat/completions", None, asked)
            assert status == (200 if allowed else 400)
            assert headers.get("access-control-allow-origin") == allowed
            headers = served.request("POST", "/v1/chat/completions", body, {**key, "Origin": origin})[2]
            assert headers.get("access-control-allow-origin") == allowed
