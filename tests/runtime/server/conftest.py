"""Servers on real sockets, in a thread of this process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from waiting import PATIENCE_S, wait_until

from ovround.runtime import LLM
from ovround.runtime.server.api_server import create_app
from ovround.runtime.server.engine_client import EngineClient
from ovround.runtime.server.launcher import listen, open_engine_client, server_config
from ovround.runtime.server.settings import EngineOptions, ServerSettings

uvicorn = pytest.importorskip("uvicorn")


@dataclass
class Served:
    """A server under test."""

    port: int
    engine_client: EngineClient
    llm: LLM | None = None
    """The same model in this process, for comparing."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body (an object where it is JSON), headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        sent = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        connection.request(method, path, sent, {"Content-Type": "application/json", **(headers or {})})
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        reply_headers = {name.lower(): value for name, value in reply.getheaders()}
        return (
            reply.status,
            json.loads(data) if "json" in reply_headers.get("content-type", "") else data.decode(),
            reply_headers,
        )

    def stream_lines(self, body: dict[str, Any], *, stream: bool = True) -> tuple[socket.socket, Any]:
        """A request under way: its connection, and the lines of the answer as they come, the status first."""
        connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
        data = json.dumps({**body, "stream": stream}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return connection, connection.makefile("rb")

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        lines = self.request("GET", "/metrics")[1].splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        samples = [line for line in lines if line.startswith(name + "{") and all(want in line for want in wanted)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in samples)

    def engine_pid(self) -> int:
        """The engine's process."""
        pid = self.engine_client.engine_pid()
        assert pid is not None
        return pid

    @contextmanager
    def stopped_engine(self) -> Iterator[None]:
        """The engine's process is stopped within the block, unless it is killed."""
        pid = self.engine_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def idle(self) -> bool:
        """True as soon as no engine computes anything."""
        wait_until(lambda: self.engine_client.running() == 0)
        return True


@contextmanager
def serving(folder: Path, *, compare: bool = False, engine: str = "auto", **settings: Any) -> Iterator[Served]:
    """A server for `folder` on a free port."""
    options = EngineOptions(engine, exact=True, threads=1)
    engine_client = open_engine_client(folder, ServerSettings("demo", **settings), options)
    with serving_with(engine_client, folder if compare else None) as served:
        yield served


@contextmanager
def serving_with(engine_client: EngineClient, compare: Path | None = None) -> Iterator[Served]:
    """The same around what is loaded; `compare` is a folder to load beside it."""
    bound = listen("127.0.0.1", 0)
    server = uvicorn.Server(server_config(create_app(engine_client), log_level="error", shutdown_s=3))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    llm = None if compare is None else LLM(compare, exact=True, threads=1)
    try:
        yield Served(bound.getsockname()[1], engine_client, llm)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        bound.close()
        if llm is not None:
            llm.close()


ENGINES = {"openvino": ("openvino", "auto"), "openvino single": ("openvino", "single"), "onnx": ("onnx", "auto")}


@pytest.fixture(scope="module", params=["openvino", "onnx"])
def served(request: pytest.FixtureRequest, demo_folders: dict[str, Path]) -> Iterator[Served]:
    """The demo model: the batching engine for OpenVINO, the single engine for ONNX Runtime."""
    format_name, engine = ENGINES[request.param]
    with serving(demo_folders[format_name], compare=True, engine=engine) as served:
        yield served


@pytest.fixture(scope="session")
def serve_folder() -> Callable[..., AbstractContextManager[Served]]:
    """`serving`, for a folder of the test's own."""
    return serving


@pytest.fixture(scope="session")
def serve_loaded() -> Callable[..., AbstractContextManager[Served]]:
    """`serving_with`, for a engine_client of the test's own."""
    return serving_with


@pytest.fixture(scope="module")
def serve_with(demo_folders: dict[str, Path]) -> Callable[..., AbstractContextManager[Served]]:
    """A server with settings of its own: `serve_with("onnx", max_running=2)`."""
    return lambda format_name, **settings: serving(demo_folders[format_name], **settings)
