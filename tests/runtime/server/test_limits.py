"""What a server survives: bodies and keys that are wrong, floods, clients that vanish, requests that take too long."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from waiting import PATIENCE_S, wait_until

from ovround.errors import UsageError
from ovround.runtime.server.launcher import listen
from ovround.runtime.server.settings import ServerSettings

PROMPT = {"prompt": "The with statement is used to", "max_tokens": 5}
LONG = {"prompt": "Return the", "max_tokens": 480, "ignore_eos": True}


def answers(served: Any) -> bool:
    return bool(served.request("POST", "/v1/completions", PROMPT)[0] == 200)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", b"{"), ("/v1/completions", b""), ("/v1/completions", b"[]"), ("/v1/completions", b"\xff\xfe"),
        ("/v1/completions", b"[" * 100_000), ("/v1/completions", b'{"prompt": NaN}'),
        ("/v1/chat/completions", b'{"messages": "hi"}'), ("/v1/chat/completions", b'{"messages": [{"role": "king"}]}'),
        ("/v1/completions", b'{"prompt": "\\ud800"}'), ("/v1/completions", b'{"prompt": "x", "temperature": 1e999}'),
        ("/v1/completions", b'{"prompt": "x", "stop": 3}'), ("/v1/completions", b'{"prompt": ""}'),
    ],
)  # fmt: skip
def test_bodies_that_are_none(served: Any, path: str, body: bytes) -> None:
    status, reply, _ = served.request("POST", path, body)
    assert status in ((200, 400) if body == b'{"prompt": ""}' else (400,))  # an empty prompt may have a first token
    assert status == 200 or reply["error"]["type"] == "invalid_request_error"
    assert answers(served)


def test_routes_that_are_not_there(served: Any) -> None:
    assert served.request("GET", "/v1/nothing")[0] == 404
    assert served.request("GET", "/v1/completions")[0] == 405
    assert served.request("POST", "/v1/requests/cmpl-x/cancel")[0] == 404
    failed = served.metric("ovround_request_failure_total", status="404")
    status, reply, _ = served.request("POST", "/v1/embeddings", {"input": "x"})
    assert (status, reply["error"]["type"]) == (404, "invalid_request_error")  # clients try a 5xx again
    assert "POST /v1/embeddings" in reply["error"]["message"]
    assert served.metric("ovround_request_failure_total", status="404") == failed + 1


def test_tokens_and_templates(served: Any) -> None:
    ids = served.llm.tokenizer.encode("with open")
    reply = served.request("POST", "/tokenize", {"prompt": "with open"})[1]
    assert reply == {"tokens": ids, "count": len(ids), "max_model_len": 512}
    assert "with open" in served.request("POST", "/detokenize", {"tokens": ids})[1]["prompt"]
    messages = [{"role": "user", "content": "hi"}]
    rendered = served.llm.tokenizer.render_chat(messages)
    assert served.request("POST", "/apply-template", {"messages": messages})[1] == {"prompt": rendered}
    chat = served.request("POST", "/tokenize", {"messages": messages})[1]["tokens"]
    assert chat == served.llm.tokenizer.encode_chat(messages)
    assert served.request("POST", "/tokenize", {})[0] == 400


def test_health_and_metrics(served: Any) -> None:
    assert served.request("GET", "/health")[1] == {
        "status": "ok", "engine": served.engine_client.engine, "kernel": served.engine_client.kernel,
    }  # fmt: skip
    assert served.request("GET", "/ready")[1]["status"] == "ready"
    labels = {"engine": served.engine_client.engine, "kernel": served.engine_client.kernel}
    assert served.metric("ovround_engine_info", **labels) == 1
    assert "version" in served.request("GET", "/version")[1]
    before = served.metric("ovround_generation_tokens_total")
    failed = served.metric("ovround_request_failure_total", status="400")
    assert answers(served)
    served.request("POST", "/v1/completions", {"prompt": "x", "n": 0})
    assert served.metric("ovround_generation_tokens_total") == before + 5
    assert served.metric("ovround_request_failure_total", status="400") == failed + 1
    assert served.metric("ovround_request_success_total", finished_reason="length") >= 1
    for name in ("time_to_first_token", "inter_token_latency", "e2e_request_latency", "request_queue_time",
                 "request_prefill_time", "request_decode_time"):  # fmt: skip
        assert served.metric(f"ovround_{name}_seconds_count") > 0
    status, page, headers = served.request("GET", "/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]  # test_page.py sees that nothing else is asked
    assert page.count("<script>") == 1


@pytest.mark.parametrize("stated", [True, False])
def test_bodies_that_are_too_large(serve_with: Any, stated: bool) -> None:
    with serve_with("onnx", max_body_bytes=2000) as served:
        connection = socket.create_connection(("127.0.0.1", served.port), PATIENCE_S)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        if stated:
            connection.sendall(head + b"Content-Length: 1000000000\r\n\r\n")
        else:
            connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 3)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
        connection.close()
        assert answers(served)


def test_a_key(serve_with: Any) -> None:
    with serve_with("onnx", api_key="secret") as served:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "secret"},
            {"Authorization": "Basic secret"},
        ):
            status, reply, _ = served.request("POST", "/v1/completions", PROMPT, headers)
            assert (status, reply["error"]["type"]) == (401, "authentication_error")
        assert served.request("GET", "/metrics")[0] == 401
        assert served.request("GET", "/health")[0] == 200
        assert served.request("GET", "/")[0] == 200
        assert served.request("POST", "/v1/completions", PROMPT, {"Authorization": "Bearer secret"})[0] == 200


@pytest.mark.parametrize("format_name", ["openvino", "onnx"])
def test_a_flood(serve_with: Any, format_name: str) -> None:
    with serve_with(format_name, max_waiting=2, max_running=2) as served:
        statuses: Counter[int] = Counter()

        def ask() -> None:
            status, body, headers = served.request("POST", "/v1/completions", {**LONG, "max_tokens": 200})
            statuses[status] += 1
            if status == 429:
                assert headers["retry-after"] == "1"
                assert body["error"]["type"] == "rate_limit_error"

        threads = [threading.Thread(target=ask) for _ in range(24)]
        with served.stopped_engine():
            for thread in threads:
                thread.start()
            taken = 4 if served.engine_client.engine == "batching" else 3  # ONNX Runtime computes one at a time
            wait_until(lambda: statuses[429] == 24 - taken)
        for thread in threads:
            thread.join()
        assert statuses == {429: 24 - taken, 200: taken}
        assert answers(served)


@pytest.fixture(params=["openvino", "onnx"])
def small(request: pytest.FixtureRequest, serve_with: Any) -> Iterator[Any]:
    with serve_with(request.param, request_timeout_s=2) as served:
        yield served


@pytest.mark.parametrize("served", ["openvino", "openvino single", "onnx"], indirect=True)
def test_clients_that_vanish(served: Any) -> None:
    """Mid-stream, and without waiting for a whole answer: the engine is free at once."""
    bodies = [{**LONG}, {**LONG, "n": 3, "temperature": 1.0}]
    if served.engine_client.engine == "single":
        bodies.append({**LONG, "logprobs": 1})
    for body in bodies:
        connection, lines = served.stream_lines(body)
        assert b"200" in lines.readline()
        while not lines.readline().startswith(b"data: "):
            pass
        lines.close()
        connection.close()
        assert served.idle()
    connection, lines = served.stream_lines({**LONG, "n": 8, "temperature": 1.0}, stream=False)
    lines.close()
    connection.close()
    time.sleep(0.1)
    assert served.idle()
    tokens = served.metric("ovround_generation_tokens_total")
    assert answers(served)
    assert served.metric("ovround_generation_tokens_total") == tokens + 5


def test_a_cancelled_request(served: Any) -> None:
    connection, lines = served.stream_lines(LONG)
    event = next(line for line in lines if line.startswith(b"data: "))
    request_id = json.loads(event[6:])["id"]
    status = served.request("POST", f"/v1/requests/{request_id}/cancel")[0]
    assert status in (200, 404)  # a fast engine may have ended
    rest = lines.read() if status == 404 else b"".join(iter(lines.readline, b"0\r\n"))
    assert status == 404 or b"was cancelled" in rest
    connection.close()
    assert served.idle()
    assert answers(served)


def test_a_time_limit(small: Any) -> None:
    """An engine that stands still: an error as a status before the first token, as an event after it."""
    with small.stopped_engine():
        status, reply, _ = small.request("POST", "/v1/completions", LONG)
    assert (status, reply["error"]["type"]) == (504, "timeout_error")
    assert small.idle()
    for _ in range(10):  # a busy machine may not begin in time, and a quick one may have ended
        connection, lines = small.stream_lines(LONG)
        first = next((line for line in lines if line.startswith(b"data: ")), None)
        with small.stopped_engine():
            rest = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
        connection.close()
        assert small.idle()
        if first is not None and rest and "error" in rest[-1]:
            break
    assert first is not None
    assert "choices" in json.loads(first[6:])
    assert rest[-1]["error"]["type"] == "timeout_error"
    wait_until(lambda: answers(small))


def test_a_port_in_use() -> None:
    with listen("127.0.0.1", 0) as bound:
        bound.listen()
        with pytest.raises(UsageError, match="cannot listen"):
            listen("127.0.0.1", bound.getsockname()[1])
    with pytest.raises(UsageError, match="cannot listen"):
        listen("no.such.host.invalid", 80)
    with pytest.raises(UsageError, match="port is 70000"):
        listen("127.0.0.1", 70000)


@pytest.mark.parametrize(
    "settings", [{"max_running": 0}, {"max_waiting": -1}, {"api_key": ""}, {"max_body_bytes": 1.5}]
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ServerSettings("x", **settings)


def test_names_for_vllm_s_dashboards(serve_with: Any) -> None:
    with serve_with("onnx", metrics_prefix="vllm:") as served:
        assert answers(served)
        assert served.metric("vllm:generation_tokens_total") == 5
