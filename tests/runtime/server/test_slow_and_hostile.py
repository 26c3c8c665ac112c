"""Requests in drops, and requests whose every field is wrong: closed or refused, and everybody else is answered."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from waiting import PATIENCE_S

from ovround.limits import LIMITS, Limits

PROMPT = {"prompt": "The with statement is used to", "max_tokens": 5}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def server(serve_with: Any) -> Iterator[Any]:
    with serve_with("onnx") as served:
        yield served


def test_every_field_of_a_request_has_its_bounds(server: Any) -> None:
    """Numbers have a least and a most, texts and lists a length; what is free is JSON within the body's limit."""
    schemas = server.request("GET", "/openapi.json")[1]["components"]["schemas"]
    seen = 0

    def walk(node: Any, path: str) -> None:
        nonlocal seen
        if isinstance(node, list):
            for number, part in enumerate(node):
                walk(part, f"{path}.{number}")
            return
        if not isinstance(node, dict):
            return
        kind, seen = node.get("type"), seen + 1
        if kind in ("integer", "number"):
            assert {"minimum", "exclusiveMinimum"} & node.keys(), path
            assert "maximum" in node, path
        if kind == "string" and not {"enum", "const"} & node.keys():
            assert "maxLength" in node, path
        if kind == "array":
            assert "maxItems" in node, path
        if kind == "object" and "properties" in node:
            assert "additionalProperties" in node, path  # said: unknown fields are ignored, or there are none
        for key, part in node.items():
            if key not in ("default", "const", "enum", "required"):
                walk(part, f"{path}.{key}")

    for name, schema in schemas.items():
        if name.endswith("Request"):
            walk(schema, name)
    assert seen > 100


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "temperature NaN": ({"temperature": float("nan")}, "temperature"),
    "temperature below 0": ({"temperature": -5}, "temperature"),
    "n of 10^9": ({"n": 10**9}, "n"),
    "n of 0": ({"n": 0}, "n"),
    "max_tokens of 10^18": ({"max_tokens": 10**18}, "max_tokens"),
    "top_k as text": ({"top_k": "5"}, "top_k"),
    "a seed of 10^400": ({"seed": 10**400}, "seed"),
    "10,000 stop texts": ({"stop": ["x"] * 10_000}, "stop"),
    "an endless stop text": ({"stop": "x" * 10_000}, "stop"),
    "an unknown field": ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
    "adapters by path": ({"adapter": "../../etc/passwd"}, "adapter"),
    "bias of no token": ({"logit_bias": {"x": 1}}, "logit_bias"),
    "a user of 10,000 letters": ({"user": "x" * 10_000}, "user"),
    "stop tokens below 0": ({"stop_token_ids": [-1]}, "stop_token_ids"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_wrong_field_is_named(server: Any, case: str) -> None:
    change, field = HOSTILE[case]
    status, reply, _ = server.request("POST", "/v1/completions", {**PROMPT, **change})
    assert status == 400
    assert field in reply["error"]["message"]


@pytest.mark.parametrize("depth", [100, 400, 900, 200_000])
@pytest.mark.parametrize(
    "frame",
    ['{"prompt":"x","guided_json":%s}', '{"messages":[{"role":"user","content":"x"}],"chat_template_kwargs":%s}',
     '{"messages":[{"role":"user","content":"x"}],"tool_choice":"required","tools":[{"type":"function","function":'
     '{"name":"f","parameters":%s}}]}',
     '{"input":"x","text":{"format":{"type":"json_schema","schema":%s}}}',
     '{"input":"x","stream":true,"tools":[{"type":"function","name":"f","parameters":%s}]}',
     '{"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":%s}]},'
     '{"role":"user","content":"x"}],"max_tokens":2}',
     '{"messages":[{"role":"user","content":"x"}],"max_tokens":2,"stream":true,"tools":[{"name":"f","input_schema":%s}]}'],
)  # fmt: skip
def test_deep_nesting_is_no_failure_of_the_server(server: Any, frame: str, depth: int) -> None:
    path = (
        "/v1/messages"
        if "max_tokens" in frame
        else "/v1/chat/completions"
        if "messages" in frame
        else "/v1/completions"
    )
    path = "/v1/responses" if 'input":"x' in frame else path
    body = frame.encode().replace(b"%s", nested(depth)).replace(b'"prompt"', b'"max_tokens":2,"prompt"')
    body = body.replace(b'"input":"x"', b'"max_output_tokens":2,"input":"x"')
    status, reply, _ = server.request("POST", path, body)
    assert status in (200, 400), reply
    assert status == 200 or reply["error"]["message"]
    assert '"stream"' not in frame or status == 400 or "response.incomplete" in reply or "message_stop" in reply
    assert status == 400 or depth < 400


@pytest.mark.parametrize("text", ["a\0b", "</s><s>### System", "<|im_start|>system", "\u202e\ufeff"])
def test_what_a_user_writes_is_text(server: Any, text: str) -> None:
    """A special token's name in a user's text is read as the tokenizer of the model reads it, never as an end of the prompt."""
    status, reply, _ = server.request("POST", "/tokenize", {"prompt": text})
    assert status == 200
    assert reply["count"] > 0


def test_a_model_is_a_name_and_never_a_path(server: Any) -> None:
    for name in (
        "../demo",
        "/etc/passwd",
        "demo/",
        "demo\0",
        "file:///etc/passwd",
        "http://127.0.0.1/x",
        "DEMO",
        "%64emo",
    ):
        status, reply, _ = server.request("POST", "/v1/completions", {**PROMPT, "model": name})
        assert (status, reply["error"]["code"]) == (404, "model_not_found"), name


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Limits:
    from ovround.runtime.server import middleware, timed_protocol

    short = Limits(request_header_s=2.0, request_body_s=2.0)
    monkeypatch.setattr(timed_protocol, "LIMITS", short)
    monkeypatch.setattr(middleware, "LIMITS", short)
    return short


def test_half_sent_headers_are_closed_and_others_unharmed(server: Any, hurried: Limits) -> None:
    half = [socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) for _ in range(100)]
    for number, connection in enumerate(half):
        connection.sendall(
            b"" if number % 3 == 0 else b"GET /health HTTP/1.1\r\nHost: x" if number % 3 == 1 else b"POST /v1/comple"
        )
    assert server.request("POST", "/v1/completions", PROMPT)[0] == 200
    for connection in half:
        assert connection.recv(1) == b""
        connection.close()
    assert server.request("GET", "/health")[0] == 200


def test_half_a_second_request_on_one_connection_is_closed_too(server: Any, hurried: Limits) -> None:
    connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.recv(4000).startswith(b"HTTP/1.1 200")
    connection.sendall(b"GET /hea")
    while connection.recv(4000):
        pass
    connection.close()


def test_half_a_body_is_status_408(server: Any, hurried: Limits) -> None:
    connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    connection.sendall(head + b'{"prompt"')
    assert connection.recv(4000).startswith(b"HTTP/1.1 408")
    connection.close()


def test_a_slow_answer_outlives_the_times_of_a_request(server: Any, hurried: Limits) -> None:
    """The times are for requests: a client that has sent one may wait for its answer as long as that takes."""
    body = json.dumps({"prompt": "Return the", "max_tokens": 400, "ignore_eos": True, "stream": True}).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                       b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)  # fmt: skip
    time.sleep(2 * hurried.request_header_s)
    received = b""
    while b"[DONE]" not in received:
        part = connection.recv(65536)
        assert part
        received += part
    connection.close()


def test_health_answers_while_bodies_are_hostile(server: Any) -> None:
    stop = threading.Event()

    def attack() -> None:
        bodies = [
            json.dumps({"tokens": [5] * 50_000}).encode(),
            b"[" * 200_000,
            b'{"prompt": "' + b"x" * 50_000 + b'"}',
        ]
        while not stop.is_set():
            for path, body in zip(("/detokenize", "/v1/completions", "/tokenize"), bodies, strict=True):
                server.request("POST", path, body)

    def median_s() -> float:
        times = []
        for _ in range(20):
            start = time.perf_counter()
            assert server.request("GET", "/health")[0] == 200
            times.append(time.perf_counter() - start)
            time.sleep(0.02)
        return sorted(times)[len(times) // 2]

    calm_s = median_s()  # more than a few milliseconds where other work keeps the machine busy
    thread = threading.Thread(target=attack)
    thread.start()
    try:
        hostile_s = median_s()
    finally:
        stop.set()
        thread.join()
    assert hostile_s < 0.5 + 20 * calm_s


def test_the_limits_are_those_that_are_printed() -> None:
    assert Limits() == LIMITS
    assert LIMITS.request_header_s <= 10
    assert LIMITS.request_body_bytes <= 8 << 20
