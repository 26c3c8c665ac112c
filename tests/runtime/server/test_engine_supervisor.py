"""An engine that dies or stands still: the server lives, says so, and has it again."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from ovround.errors import EngineError, MissingExtraError, UsageError
from ovround.runtime.decoding.completion import Piece, Timings, Usage
from ovround.runtime.decoding.grammar import Grammar
from ovround.runtime.decoding.logprobs import TokenLogprobs
from ovround.runtime.decoding.sampling import SamplingOptions
from ovround.runtime.server import engine_messages
from ovround.runtime.server.engine_pipe import EnginePipe

PROMPT = {"prompt": "The with statement is used to", "max_tokens": 5}
LONG = {"prompt": "Return the", "max_tokens": 480, "ignore_eos": True}
ATTEMPTS = 10  # a quick engine may have given the whole answer before it is killed


def answers(served: Any) -> bool:
    return bool(served.request("POST", "/v1/completions", PROMPT)[0] == 200)


def ready(served: Any) -> bool:
    return bool(served.request("GET", "/ready")[0] == 200)


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL])
def test_an_engine_that_dies_in_mid_stream(served: Any, how: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    restarts = served.metric("ovround_engine_restarts")
    for _ in range(ATTEMPTS):
        streams = [served.stream_lines(LONG) for _ in range(3 if served.engine_client.engine == "batching" else 1)]
        for _, lines in streams:
            assert any(line.startswith(b"data: ") for line in lines)
        pid = served.engine_pid()
        os.kill(pid, how)
        restarts += 1
        ends = [last_event(lines) for _, lines in streams]
        for connection, _ in streams:
            connection.close()
        assert served.request("GET", "/health")[0] == 200
        assert answers(served)  # it waits for the next engine
        assert served.engine_pid() != pid
        wait_until(lambda: ready(served))
        assert served.metric("ovround_engine_restarts") == restarts
        assert all(how.name in end for end in ends if end != "[DONE]")
        if "[DONE]" not in ends:
            break
    assert "[DONE]" not in ends
    assert f"the engine's process ended ({how.name})" in capfd.readouterr().err


def last_event(lines: Any) -> str:
    """What the last event of a stream says: `[DONE]`, or the message of an error."""
    data = [line for line in lines if line.startswith(b"data: ")][-1][6:].strip()
    return "[DONE]" if data == b"[DONE]" else str(json.loads(data)["error"]["message"])


def test_what_waits_is_computed_by_the_next_engine(serve_with: Any) -> None:
    """One slot: the running answer is lost; the waiting ones are not."""
    with serve_with("onnx") as served:
        for _ in range(ATTEMPTS):
            statuses: list[int] = []
            ends: list[str] = []
            connection, lines = served.stream_lines(LONG)
            assert any(line.startswith(b"data: ") for line in lines)
            reader = threading.Thread(target=lambda: ends.append(last_event(lines)))  # noqa: B023  # ends within the turn
            threads = [
                threading.Thread(target=lambda: statuses.append(served.request("POST", "/v1/completions", PROMPT)[0]))  # noqa: B023
                for _ in range(3)
            ]
            with served.stopped_engine():
                for thread in (reader, *threads):
                    thread.start()
                wait_until(lambda: served.engine_client.waiting() == 3 or not reader.is_alive())  # noqa: B023
                if reader.is_alive():
                    os.kill(served.engine_pid(), signal.SIGKILL)
            for thread in (reader, *threads):
                thread.join()
            connection.close()
            assert statuses == [200] * 3
            if ends != ["[DONE]"]:
                break
        assert "SIGKILL" in ends[0]


def test_an_engine_that_stands_still(served: Any) -> None:
    with served.stopped_engine():
        wait_until(lambda: not ready(served))  # ten seconds on an idle machine
        status, reply, _ = served.request("GET", "/ready")
        assert served.request("GET", "/health")[0] == 200
    assert status == 503
    assert "has not answered" in reply["reason"]
    wait_until(lambda: ready(served))
    assert answers(served)


def test_a_silent_engine_is_replaced(serve_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from ovround.runtime.server import engine_supervisor

    with serve_with("onnx") as served:
        pid = served.engine_pid()
        monkeypatch.setattr(engine_supervisor, "SILENT_S", 3.0)
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        monkeypatch.undo()
        wait_until(lambda: ready(served))
        assert answers(served)


def test_a_folder_that_changed_is_not_opened_again(
    serve_folder: Any, demo_folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(demo_folders["onnx"], folder)
    with serve_folder(folder) as served:
        manifest = folder / "ovround.json"
        whole = manifest.read_bytes()
        manifest.write_bytes(whole + b"\n")
        os.kill(served.engine_pid(), signal.SIGKILL)
        wait_until(lambda: "has changed" in str(served.request("GET", "/ready")[1]))
        status, reply, headers = served.request("POST", "/v1/completions", PROMPT)
        assert (status, headers["retry-after"]) == (503, "1")
        assert "has changed" in reply["error"]["message"]
        manifest.write_bytes(whole)
        wait_until(lambda: ready(served))
        assert answers(served)
    assert "does not start" in capfd.readouterr().err


def test_the_engine_ends_with_its_server(demo_folders: dict[str, Path]) -> None:
    """Killed without a chance to say goodbye, too."""
    code = (
        "import sys, time; from pathlib import Path\n"
        "from ovround.runtime.server.launcher import open_engine_client; from ovround.runtime.server.settings import ServerSettings\n"
        "engine_client = open_engine_client(Path(sys.argv[1]), ServerSettings('x'))\n"
        "print(engine_client.engine_pid(), flush=True); time.sleep(600)"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(demo_folders["onnx"])], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    pid = int(server.stdout.readline())
    server.kill()
    server.wait()
    server.stdout.close()
    wait_until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def test_a_pipeline_that_raises(demo_folders: dict[str, Path]) -> None:
    """Its answers get the error, and the worker takes the next order."""
    pytest.importorskip("openvino_genai")
    from ovround.runtime.server.batching_worker import BatchingWorker

    worker = BatchingWorker(engine_messages.EngineSettings(str(demo_folders["openvino"]), batching=True, threads=1))
    pipeline, broken = worker._pipeline, [True]

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(pipeline, name)

        def step(self) -> None:
            if broken.pop() if broken else False:
                raise RuntimeError("Check 'x' failed\nout of memory")
            pipeline.step()

    worker._pipeline = Failing()
    out = _Lines()
    pipe = EnginePipe(out)  # type: ignore[arg-type]
    threading.Thread(target=worker.work, args=(pipe,), daemon=True).start()
    for number in (1, 2):
        order = engine_messages.EngineRequest(number, [1, 2, 3], SamplingOptions(), 3, [])
        pipe.take(json.dumps({"begin": engine_messages.request_to_json(order)}).encode())
        wait_until(lambda: out.ended(number))  # noqa: B023  # called within the turn
    assert [message for message in out.messages if "failed" in message] == [
        {"failed": [1, {"kind": "EngineError", "message": "the engine failed: out of memory", "hint": None}]}
    ]
    tokens = [token for message in out.messages if "tokens" in message for token in message["tokens"][0][1]]
    assert len(tokens) == 3


class _Lines(io.BytesIO):
    """The messages of a worker."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    def ended(self, number: int) -> bool:
        return any(
            message.get("failed", [0])[0] == number
            or any(row[0] == number and row[2] for row in message.get("tokens", []))
            for message in self.messages
        )


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(),
        SamplingOptions(
            max_new_tokens=3, temperature=0.7, top_k=5, seed=2**64 - 1, stop=("a", "\u00fc\n"), stop_token_ids=(4, 5),
            logit_bias=((3, -1.5),), logprobs=2, prompt_logprobs=0, grammar=Grammar("regex", "[a-z]+"), ignore_eos=True,
        ),
    ],
)  # fmt: skip
def test_orders_arrive_as_they_were(options: SamplingOptions) -> None:
    order = engine_messages.EngineRequest(7, [1, 2], options, 3, [0, 9])
    assert engine_messages.request_from_json(json.loads(json.dumps(engine_messages.request_to_json(order)))) == order


@pytest.mark.parametrize(
    "piece",
    [
        Piece("", 3),
        Piece("\u00e9\ud83d", 3, None, logprobs=TokenLogprobs(3, -0.5, ((3, -0.5), (1, -2.0)))),
        Piece("x", 3, "stop", Usage(1, 2, 3, 4, 5), Timings(0.5, None), None, (TokenLogprobs(1, -1.0, ()),)),
        Piece("x", 3, "stop", Usage(1, 2), Timings(0.5, 0.1), stop_string="END"),
    ],
)
def test_pieces_arrive_as_they_were(piece: Piece) -> None:
    assert engine_messages.piece_from_json(json.loads(json.dumps(engine_messages.piece_to_json(piece)))) == piece


@pytest.mark.parametrize(
    "error", [UsageError("a", hint="b"), MissingExtraError("m", "e"), EngineError("\ud800"), ValueError("x\n y ")]
)
def test_errors_arrive_as_they_were(error: Exception) -> None:
    restored = engine_messages.error_from_json(json.loads(json.dumps(engine_messages.error_to_json(error))))
    if isinstance(error, ValueError):
        assert (type(restored), str(restored)) == (EngineError, "the engine failed: y")
    else:
        assert (type(restored), str(restored), restored.hint) == (type(error), str(error), getattr(error, "hint", None))


def test_a_pipeline_that_is_left_in_the_middle_of_a_step(
    demo_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grammar that openvino_genai refuses in a step makes all later steps fail: the process ends, and another one starts."""
    pytest.importorskip("openvino_genai")
    from ovround.runtime.server import batching_worker

    folder = demo_folders["openvino"]
    worker = batching_worker.BatchingWorker(engine_messages.EngineSettings(str(folder), True, threads=1))
    out = io.BytesIO()
    pipe = EnginePipe(out)
    configured = batching_worker._generation_config

    def refused(genai: Any, *options: Any) -> Any:
        config = configured(genai, *options)
        config.structured_output_config = genai.StructuredOutputConfig(regex="(?=a)b")
        return config

    def ask(number: int) -> None:
        request = engine_messages.EngineRequest(number, [5, 6], SamplingOptions(), 2, [1])
        pipe.take(json.dumps({"begin": engine_messages.request_to_json(request)}).encode())

    ended: list[Exception] = []

    def work() -> None:
        try:
            worker.work(pipe)
        except RuntimeError as error:
            ended.append(error)

    monkeypatch.setattr(batching_worker, "_generation_config", refused)
    ask(1)
    threading.Thread(target=work, daemon=True).start()
    wait_until(lambda: b'"failed":[1' in out.getvalue())
    assert not ended
    monkeypatch.setattr(batching_worker, "_generation_config", configured)
    ask(2)
    wait_until(lambda: bool(ended))
