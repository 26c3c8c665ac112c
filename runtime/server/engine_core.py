"""The engine's process: it loads one engine, answers requests line by line, and ends with its input. See `engine_messages`.

The server survives whatever a driver or a library does to this process, and starts it again.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings

from ovround.errors import OvroundError
from ovround.runtime.server.engine_messages import EngineSettings, error_to_json
from ovround.runtime.server.engine_pipe import EnginePipe, Worker
from ovround.telemetry import without_telemetry

HEARTBEAT_S = 1.0


def main() -> None:
    """Lines of standard input in, lines of standard output out."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the server ends this process, after its streams
        signal.signal(number, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the messages
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    without_telemetry()
    pipe = EnginePipe(out)
    source = sys.stdin.buffer
    settings = EngineSettings(**json.loads(source.readline()))
    try:
        worker = _open(settings)
    except OvroundError as error:
        pipe.send({"refused": error_to_json(error)})
        return
    pipe.send({"loaded": worker.slots, "kernel": worker.kernel})
    threading.Thread(target=_send_heartbeats, args=(pipe,), daemon=True).start()
    threading.Thread(target=_work, args=(worker, pipe), daemon=True).start()
    for line in source:
        pipe.take(line)
    os._exit(0)  # even in the middle of a step


def _open(settings: EngineSettings) -> Worker:
    if settings.batching:
        from ovround.runtime.server.batching_worker import BatchingWorker

        return BatchingWorker(settings)
    from ovround.runtime.server.single_worker import SingleWorker

    return SingleWorker(settings)


def _work(worker: Worker, pipe: EnginePipe) -> None:
    try:
        worker.work(pipe)
    except BaseException as error:  # noqa: BLE001  # the server starts another process after any error
        print(f"the engine's process ends: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _send_heartbeats(pipe: EnginePipe) -> None:
    while True:
        pipe.send_heartbeat()
        time.sleep(HEARTBEAT_S)


def _show_warning(message: Warning | str, *where: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
