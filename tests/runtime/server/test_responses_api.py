"""OpenAI's Responses API: its client's calls, the events of recorded answers, the conversations that are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from client_types import examples
from pydantic import TypeAdapter, ValidationError
from recorded_answer import recorded_pieces, tokenizer

from ovround.errors import EngineError
from ovround.runtime.decoding.logprobs import TokenLogprobs
from ovround.runtime.server.chat_syntax import read_chat_syntax
from ovround.runtime.server.error_response import failure_of
from ovround.runtime.server.field_support import FieldError
from ovround.runtime.server.request_error import describe
from ovround.runtime.server.responses import CollectedAnswer
from ovround.runtime.server.responses_api.chat import chat_request, input_messages
from ovround.runtime.server.responses_api.request import ResponsesRequest
from ovround.runtime.server.responses_api.response import ResponseFormat
from ovround.runtime.server.responses_api.store import ResponseStore
from ovround.runtime.server.unknown_fields import UnknownFields

openai = pytest.importorskip("openai")
TYPES = openai.types.responses
EVENT: TypeAdapter[Any] = TypeAdapter(TYPES.ResponseStreamEvent)
PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"]}
TOOLS: Any = [
    {"type": "function", "name": name, "parameters": PARAMETERS, "strict": None} for name in ("first", "second")
]
TEMPLATE = "<tool_call></think>{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
CALL = '<tool_call>{"name": "first", "arguments": {"n": 1}}</tool_call>'
QUESTION = "How do I open a file?"


def check(body: dict[str, Any], *, strict: bool = False) -> ResponsesRequest:
    request = ResponsesRequest.model_validate(body)
    UnknownFields(strict=strict).check(request)
    return request


def refusal(body: dict[str, Any]) -> tuple[str | None, str | None]:
    """Message and param of an error; None for a body that is accepted."""
    try:
        chat_request(request := check(body), input_messages(request, lambda _: None))
    except FieldError as error:
        failure = failure_of(error).in_words_of("/v1/responses")
        return failure.message, failure.param
    except ValidationError as error:
        return describe(error.errors(), body)
    return None, None


def chat_of(items: Any, **fields: Any) -> list[dict[str, Any]]:
    request = check({"input": items, **fields})
    messages = input_messages(request, lambda _: None)
    return [message.for_template() for message in chat_request(request, messages).messages]


@pytest.fixture
def reader(tmp_path: Path) -> Any:
    return tokenizer(tmp_path, TEMPLATE)


def streamed(reader: Any, text: str, reason: Any = "stop", **fields: Any) -> tuple[list[Any], Any, list[Any]]:
    """The events of a recorded answer as the client's types, the whole response of the same, and what was kept."""
    schemas = {tool["name"]: PARAMETERS for tool in TOOLS}
    syntax = read_chat_syntax(reader).answer_syntax(reader, [], schemas)
    body, kept = check({"input": "x", "tools": TOOLS, **fields}), list[Any]()
    stream, whole = (ResponseFormat("resp_1", "m", body, syntax, reader, kept.append) for _ in range(2))
    collected, events = CollectedAnswer(), list(stream.opening())
    for piece in recorded_pieces(reader, syntax, text, reason):
        collected.take(piece)
        events += stream.events(0, piece)
    assert collected.last is not None
    events += stream.closing([collected.last])
    data: list[Any] = [json.loads(event["data"]) for event in events if isinstance(event, dict)]
    assert [one["sequence_number"] for one in data] == list(range(len(data)))
    assert [event["event"] for event in events if isinstance(event, dict)] == [one["type"] for one in data]
    return [EVENT.validate_python(one) for one in data], whole.whole([collected]), kept


def without_ids(output: Any) -> Any:
    return [{key: value for key, value in item.items() if key not in ("id", "call_id")} for item in output]


def test_the_events_of_a_recorded_answer(reader: Any) -> None:
    events, whole, kept = streamed(
        reader, f"<think>Hm. \U0001f642</think>\n\nSo.\n{CALL}{CALL.replace('first', 'second')}"
    )
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"
    final = events[-1].response
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    assert (final.output[0].content[0].text, final.output_text) == ("Hm. \U0001f642", "So.")
    assert [(call.name, call.arguments) for call in final.output[2:]] == [("first", '{"n": 1}'), ("second", '{"n": 1}')]
    assert {item.status for item in final.output} == {"completed"}
    assert len({item.id for item in final.output}) == 4
    for index, item in enumerate(final.output):  # the deltas, put together, are the item
        own = [event for event in events if getattr(event, "output_index", None) == index]
        deltas = "".join(event.delta for event in own if event.type.endswith(".delta"))
        (done,) = [event for event in own if event.type.endswith(("text.done", "arguments.done"))]
        assert deltas == (done.arguments if item.type == "function_call" else done.text)
        assert [own[0].type, own[-1].type] == ["response.output_item.added", "response.output_item.done"]
        assert own[-1].item == item
    assert final.usage.output_tokens_details.reasoning_tokens == len("Hm. \U0001f642".encode())  # a token a byte
    assert (final.usage.input_tokens, final.usage.input_tokens_details.cached_tokens) == (5, 2)
    assert without_ids(whole["output"]) == without_ids(
        events[-1].response.model_dump(mode="json", exclude_unset=True)["output"]
    )
    assert [one["id"] for one in kept] == ["resp_1", "resp_1"]


def test_an_answer_that_is_cut(reader: Any) -> None:
    for text, kinds in (
        ("So. ", ["message"]),
        (f"So.\n{CALL[:-14]}", ["message", "function_call"]),
        ("<think>Hm", None),
    ):
        events, whole, _ = streamed(reader, text, "length")
        final = events[-1].response
        assert (events[-1].type, final.status) == ("response.incomplete", "incomplete")
        assert final.incomplete_details.reason == "max_output_tokens"
        assert final.output[-1].status == "incomplete"
        assert [item.type for item in final.output] == (kinds or ["reasoning", "message"])
        assert without_ids(whole["output"]) == without_ids(final.model_dump(mode="json", exclude_unset=True)["output"])


def test_an_empty_answer_and_one_that_fails(reader: Any) -> None:
    events, _, _ = streamed(reader, "<|im_end|>")
    assert [item.type for item in events[-1].response.output] == ["message"]
    assert events[-1].response.output_text == ""
    form = ResponseFormat("resp_1", "m", check({"input": "x"}), None, reader, lambda _: None)
    for error, code in ((EngineError("it broke"), "server_error"),):
        list(form.opening())
        (event,) = form.failure(failure_of(error))
        assert isinstance(event, dict)
        failed = EVENT.validate_python(json.loads(event["data"]))
        assert (failed.type, failed.response.error.code, failed.response.error.message) == (
            "response.failed",
            code,
            "it broke",
        )


def test_log_probabilities(reader: Any) -> None:
    body = check({"input": "x", "include": ["message.output_text.logprobs"], "top_logprobs": 1})
    form = ResponseFormat("resp_1", "m", body, None, reader, lambda _: None)
    request = chat_request(body, input_messages(body, lambda _: None))
    assert (request.logprobs, request.top_logprobs) == (True, 1)
    deltas, last = [], None
    for piece in recorded_pieces(reader, None, "a\u20ac"):
        last = TokenLogprobs(piece.token_id, -0.5, ((piece.token_id, -0.5),))
        deltas += form.events(0, replace(piece, logprobs=last))
    entries = [
        entry for event in deltas if "delta" in event["data"] for entry in json.loads(event["data"]).get("logprobs", [])
    ]  # type: ignore[index]
    assert len(entries) == 4
    assert [len(entry["top_logprobs"]) for entry in entries] == [1] * 4


def test_items_become_messages() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "first", "arguments": '{"n": 3}'}
    chat = chat_of(
        [
            {"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "id": "m", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": "So.", "annotations": [], "logprobs": []}]},
            call, {**call, "call_id": "c2"},
            {"type": "function_call_output", "call_id": "c1", "output": "1"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
            {"role": "assistant", "content": "a"}, {"role": "assistant", "content": [{"type": "refusal", "refusal": "b"}]},
        ],
        instructions="You help.",
    )  # fmt: skip
    assert [message["role"] for message in chat] == [
        "system", "developer", "user", "assistant", "tool", "tool", "assistant", "assistant",
    ]  # fmt: skip
    assert (chat[0]["content"], chat[2]["content"]) == ("You help.", "hi")
    assert (chat[3]["reasoning_content"], chat[3]["content"]) == ("Hm.", "So.")
    assert [one["id"] for one in chat[3]["tool_calls"]] == ["c1", "c2"]
    assert chat[3]["tool_calls"][0]["function"] == {"name": "first", "arguments": {"n": 3}}
    assert [(one["tool_call_id"], one["content"]) for one in chat[4:6]] == [("c1", "1"), ("c2", "2")]
    assert [one["content"] for one in chat[6:]] == ["a", "b"]


SERVED = {"message", "function_call", "function_call_output", "reasoning", "item_reference", None}


def test_the_client_s_items_are_accepted_or_named() -> None:
    """A value of each item of the client's types, with all its fields; what a text model cannot read is named."""
    accepted = set()
    for item in examples(TYPES.ResponseInputItemParam):
        kind = item.get("type")
        unread = [part for part in item.get("content") or item.get("output") or [] if isinstance(part, dict)]
        unread = [part for part in unread if part.get("type") in ("input_image", "input_file")]
        _, param = refusal({"input": [item]})
        if kind in SERVED and not unread:
            assert param in (None, "input[0].id"), item  # a reference to what is not kept
            accepted.add(kind)
            check({"input": [item]}, strict=True)
        else:
            assert param is not None
            assert param.startswith("input[0]"), (param, item)
    assert accepted >= SERVED - {None}


NOT_SERVED = {
    "background",
    "context_management",
    "conversation",
    "moderation",
    "prompt",
    "tools",
    "tool_choice",
    "truncation",
}


def test_the_client_s_parameters_are_accepted_or_named() -> None:
    hints = get_type_hints(TYPES.response_create_params.ResponseCreateParamsNonStreaming)
    refused: set[str] = set()
    for name, kind in hints.items():
        if name == "input":
            continue
        for value in examples(kind):
            if name == "previous_response_id":
                continue
            _, param = refusal({"input": "x", "tools": [{"type": "function", "name": "{}"}], name: value})
            if param is not None:
                assert param.split(".")[0].split("[")[0] == name, (param, value)
                refused.add(name)
    assert refused <= NOT_SERVED
    assert refused >= {"conversation", "prompt", "tools", "tool_choice"}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"input": 5}, "input", "is 5; it should be a valid string or a valid list"),
        ({"input": [{"role": "king", "content": "x"}]}, "input[0].role", '"king"'),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content[0].type", "text only"),
        ({"input": [{"type": "web_search_call", "id": "w"}]}, "input[0].type", "function_call_output"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id", "`msg_1` is not kept"),
        ({"max_output_tokens": 0}, "max_output_tokens", "is 0"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "\"web_search\"; it should be 'function'"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice", "`f`, a tool that is not in tools"),
        ({"tool_choice": "required", "tools": [{"type": "function", "name": "f"}], "text": {"format": {"type": "json_object"}}},
         "tool_choice", "excludes text.format"),
        ({"conversation": "c"}, "conversation", "not served"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", '"xml"; allowed'),
    ],
)  # fmt: skip
def test_errors_are_in_the_client_s_words(body: dict[str, Any], param: str, words: str) -> None:
    text, named = refusal({"input": "x", **body})
    assert named == param
    assert words in str(text)


def test_the_memory_is_bounded() -> None:
    store = ResponseStore(limit_bytes=50_000)

    def response(number: int, size: int = 0) -> dict[str, Any]:
        return {"id": f"resp_{number}", "output": [{"id": f"msg_{number}", "text": "x" * size}]}

    for number in range(5):
        store.put(response(number, 10_000), [])
        assert store.get("resp_0") is not None  # used, so it stays
    assert [number for number in range(5) if store.item(f"msg_{number}")] == [0, 2, 3, 4]
    assert store.get("resp_1") is None
    store.put(response(9, 60_000), [])
    assert store.get("resp_9") is None
    assert store.remove("resp_0")
    assert not store.remove("resp_0")
    assert store.item("msg_0") is None
    for number in range(10, 2000):
        store.put(response(number), [])
    assert len(store._responses) < 50


@pytest.fixture
def client(served: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        yield client


def test_a_response_is_the_chat_s_answer(served: Any, client: Any) -> None:
    expected = served.llm.chat([{"role": "user", "content": QUESTION}], max_new_tokens=16)
    response = client.responses.create(model="demo", input=QUESTION, max_output_tokens=16, metadata={"a": "1"})
    assert response.output_text == expected.text
    assert response.status == {"stop": "completed", "length": "incomplete"}[expected.finish_reason]
    assert (response.usage.input_tokens, response.usage.output_tokens) == (
        expected.prompt_tokens, expected.usage.completion_tokens,
    )  # fmt: skip
    cut = client.responses.create(model="demo", input=QUESTION, max_output_tokens=1)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert response.metadata == {"a": "1"}
    assert client.responses.retrieve(response.id) == response
    text = ""
    for event in client.responses.create(model="demo", input=QUESTION, max_output_tokens=16, stream=True):
        text += event.delta if event.type == "response.output_text.delta" else ""
    assert text == expected.text == event.response.output_text
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError, match=response.id) as caught:
        client.responses.retrieve(response.id)
    assert caught.value.code is None
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(response.id)


def test_a_conversation(served: Any, client: Any) -> None:
    """Continued by id, by the items themselves, and by references to them: the same prompt each time."""
    options: Any = {"model": "demo", "max_output_tokens": 8}
    first = client.responses.create(**options, input=QUESTION, instructions="Be brief.")
    chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "And close it?"}]  # fmt: skip
    expected = served.llm.chat(chat, max_new_tokens=8)
    question = {"role": "user", "content": "And close it?"}
    (item,) = first.output
    continued: list[Any] = [
        {"previous_response_id": first.id, "input": "And close it?"},
        {"input": [{"role": "user", "content": QUESTION}, *first.output, question]},
        {"input": [{"role": "user", "content": QUESTION}, item.model_dump(), question]},
        {"input": [{"role": "user", "content": QUESTION}, {"type": "item_reference", "id": item.id}, question]},
    ]
    for body in continued:
        response = client.responses.create(**options, **body)
        assert response.output_text == expected.text
        assert response.usage.input_tokens == expected.prompt_tokens
    third = client.responses.create(**options, previous_response_id=response.id, input="x", store=False)
    with pytest.raises(openai.BadRequestError, match="is kept") as caught:
        client.responses.create(**options, previous_response_id=third.id, input="x")
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")


def test_what_cannot_be_answered(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=r"max_output_tokens 9000 make \d+; the model's context is 512"):
        client.responses.create(model="demo", input="x", max_output_tokens=9000)
    with pytest.raises(openai.NotFoundError, match="`gpt`"):
        client.responses.create(model="gpt", input="x")
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="demo", input="x", background=True)
    assert caught.value.param == "background"


@pytest.mark.parametrize("served", ["openvino"], indirect=True)
def test_a_field_that_batching_cannot_serve(client: Any) -> None:
    form: Any = {"format": {"type": "json_object"}}
    with pytest.raises(openai.BadRequestError, match=r"cannot serve `text\.format`") as caught:
        client.responses.create(model="demo", input="x", text=form)
    assert caught.value.param == "text.format"


@pytest.mark.parametrize("served", ["onnx"], indirect=True)
def test_forced_calls_and_forms(client: Any) -> None:
    options: Any = {"model": "demo", "input": QUESTION, "max_output_tokens": 200}
    choice: Any = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "second"}]}
    with client.responses.stream(**options, tools=TOOLS, tool_choice=choice) as stream:
        kinds = [event.type for event in stream]
        (call,) = stream.get_final_response().output
    assert kinds.count("response.function_call_arguments.delta") > 1
    assert (call.type, call.name, call.status) == ("function_call", "second", "completed")
    assert 0 <= json.loads(call.arguments)["n"] <= 9
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "1"}
    again = client.responses.create(
        **{**options, "input": [{"role": "user", "content": QUESTION}, call, result]}, tools=TOOLS, tool_choice="none"
    )
    assert again.output[0].type == "message"

    from pydantic import BaseModel

    class Pair(BaseModel):
        a: bool
        b: bool

    assert isinstance(client.responses.parse(**options, text_format=Pair).output_parsed, Pair)
