"""Clients that come and go for long: nothing is lost, nothing piles up. OVROUND_TEST_SCALE multiplies how many and how long."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mutations import SCALE
from waiting import PATIENCE_S

from ovround.runtime.server.engine_client import EngineClient
from ovround.runtime.server.engine_messages import EngineSettings
from ovround.runtime.server.settings import ServerSettings

pytestmark = pytest.mark.slow

LEAVERS = 250 * SCALE
SOAK_S = 3 * SCALE
LEAST = 60  # requests: a busy machine is given more time for them
_PREPARED_BYTES = 256 << 20  # kernels that OpenVINO prepares and keeps, a few hundred shapes of them, and work space
PROMPTS = [f"{word} {number}" for number in range(4) for word in ("Return", "Raise", "Open", "The")]


@pytest.fixture(params=["openvino", "openvino with 48 blocks of cache", "onnx"])
def small(request: pytest.FixtureRequest, serve_loaded: Any, demo_folders: dict[str, Path]) -> Iterator[Any]:
    kind = request.param.split()[0]
    engine = EngineSettings(
        str(demo_folders[kind]), kind == "openvino", exact=True, threads=1, slots=16, cache_blocks=48 if " " in request.param else 0
    )  # fmt: skip
    with serve_loaded(EngineClient(ServerSettings("demo", max_running=16), engine)) as served:
        yield served


def whole(served: Any, prompt: str) -> str:
    status, reply, _ = served.request("POST", "/v1/completions", {"prompt": prompt, "max_tokens": 12})
    assert status == 200, reply
    return str(reply["choices"][0]["text"])


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def entries(pid: int, kind: str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/{kind}").iterdir())


def leave(served: Any, seed: int) -> str:
    """Ask for a long answer and go: before it begins, in its midst, or without having read anything."""
    source = random.Random(seed)
    size = source.choice((2, 20, 60))
    body = {"prompt": "The with statement " * size, "max_tokens": 400, "ignore_eos": True}
    stream = source.random() < 0.8
    connection, lines = served.stream_lines(body, stream=stream)
    try:
        for _ in range(source.choice((0, 0, 1, 8, 30)) if stream else 0):
            connection.settimeout(PATIENCE_S)
            if not lines.readline():
                return "ended"
        time.sleep(source.random() * 0.01)
    finally:
        lines.close()
        connection.close()
    return "left"


def test_a_storm_of_clients_that_leave(small: Any) -> None:
    alone = {prompt: whole(small, prompt) for prompt in PROMPTS}
    for seed in range(50):
        leave(small, seed)
    assert small.idle()
    pid, before = small.engine_pid(), resident(small.engine_pid())
    numbers, left = iter(range(LEAVERS)), Counter[str]()
    lock = threading.Lock()

    def client() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            left[leave(small, number)] += 1

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left.total() == LEAVERS
    assert left["left"] > 0.8 * LEAVERS
    assert small.idle()
    assert small.engine_client.waiting() == 0
    assert (small.engine_pid(), small.metric("ovround_engine_restarts")) == (pid, 0)
    assert resident(pid) < before + _PREPARED_BYTES
    assert {prompt: whole(small, prompt) for prompt in PROMPTS} == alone


def test_mixed_traffic_leaves_nothing_behind(small: Any) -> None:
    """Whole answers, streams, cancelled and refused requests for a while: memory, files and threads as before."""
    alone = {prompt: whole(small, prompt) for prompt in PROMPTS}
    counts: Counter[str] = Counter()

    def client(index: int, end: float) -> None:
        source = random.Random(index)
        while time.monotonic() < end or counts.total() < LEAST or len(counts) < 4:
            kind = source.choice(("whole", "whole", "stream", "leave", "refused"))
            prompt = source.choice(PROMPTS)
            if kind == "whole":
                assert whole(small, prompt) == alone[prompt]
            elif kind == "stream":
                connection, lines = small.stream_lines({"prompt": prompt, "max_tokens": 12})
                events = [line for line in iter(lines.readline, b"0\r\n") if line.startswith(b"data: ")]
                assert events[-1] == b"data: [DONE]\n"
                assert "".join(json.loads(line[6:])["choices"][0]["text"] for line in events[:-1]) == alone[prompt]
                lines.close()
                connection.close()
            elif kind == "leave":
                leave(small, source.randrange(10**6))
            else:
                assert small.request("POST", "/v1/completions", {"prompt": prompt, "max_tokens": -5})[0] == 400
            counts[kind] += 1

    def traffic(seconds: float) -> None:
        failures: list[BaseException] = []

        def run(index: int) -> None:
            try:
                client(index, time.monotonic() + seconds)
            except BaseException as error:  # noqa: BLE001  # raised in the test
                failures.append(error)

        threads = [threading.Thread(target=run, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        assert small.idle()

    traffic(SOAK_S / 3)
    counts.clear()
    pids = (os.getpid(), small.engine_pid())
    before = [(resident(pid), entries(pid, "fd"), entries(pid, "task")) for pid in pids]
    traffic(SOAK_S)
    assert resident(pids[0]) < 1.05 * before[0][0] + (8 << 20)
    assert resident(pids[1]) < before[1][0] + _PREPARED_BYTES
    for pid, (_, files, threads) in zip(pids, before, strict=True):
        assert entries(pid, "fd") <= files + 4
        assert entries(pid, "task") <= threads + 8  # of the event loop's pool
    assert min(counts.values()) > 0
    assert len(counts) == 4
    assert small.engine_pid() == pids[1]
    growth = [resident(pid) - memory for pid, (memory, *_) in zip(pids, before, strict=True)]
    print(json.dumps({"seconds": SOAK_S, "requests": counts, "growth_bytes": growth}))


def test_what_the_cache_has_no_room_for_waits(small: Any) -> None:
    """Sixteen long answers in a cache for four: each comes, as alone."""
    body = {"max_tokens": 200, "ignore_eos": True}
    prompts = [f"Return the {number}: " + "The with statement " * 25 for number in range(16)]
    texts: dict[str, str] = {}

    def ask(prompt: str) -> None:
        status, answer, _ = small.request("POST", "/v1/completions", {"prompt": prompt, **body})
        texts[prompt] = answer["choices"][0]["text"] if status == 200 else str(answer)

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = dict(texts)
    for prompt in prompts[:4]:
        ask(prompt)
    assert {prompt: together[prompt] for prompt in prompts[:4]} == {prompt: texts[prompt] for prompt in prompts[:4]}
    assert not [text for text in together.values() if "error" in text]
