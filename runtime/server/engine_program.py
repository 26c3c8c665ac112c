"""The process that computes: opens one engine, answers orders line by line, ends with its input. See `wire`.

Whatever a driver or a library does to it, the server lives and starts it again.
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
from ovround.runtime.server.engine_link import EngineLink, Worker
from ovround.runtime.server.wire import EngineSettings, error_to_json
from ovround.telemetry import without_telemetry

BEAT_S = 1.0


def main() -> None:
    """Lines of standard input in, lines of standard output out."""
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # they are for the server, which ends this process when it has drained
        signal.signal(number, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no news
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    without_telemetry()
    link = EngineLink(out)
    source = sys.stdin.buffer
    settings = EngineSettings(**json.loads(source.readline()))
    try:
        worker = _open(settings)
    except OvroundError as error:
        link.send({"refused": error_to_json(error)})
        return
    link.send({"loaded": worker.slots})
    threading.Thread(target=_beat, args=(link,), daemon=True).start()
    threading.Thread(target=_work, args=(worker, link), daemon=True).start()
    for line in source:
        link.take(line)
    os._exit(0)  # in the middle of a step, if need be


def _open(settings: EngineSettings) -> Worker:
    if settings.batching:
        from ovround.runtime.server.batching import BatchingWorker

        return BatchingWorker(settings)
    from ovround.runtime.server.one_by_one import OneByOneWorker

    return OneByOneWorker(settings)


def _work(worker: Worker, link: EngineLink) -> None:
    try:
        worker.work(link)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the server starts another
        print(f"the engine's process ends: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _beat(link: EngineLink) -> None:
    while True:
        link.beat()
        time.sleep(BEAT_S)


def _show_warning(message: Warning | str, *where: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
