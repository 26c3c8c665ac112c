"""One process of the engine, as the server sees it: started, written to, and read."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict

from ovround.errors import EngineError
from ovround.runtime.interpreter import interpreter
from ovround.runtime.server.engine_messages import EngineSettings, Json, error_from_json

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from ovround.runtime.server.engine_core import main; main()"
_END_S = 5.0


class EngineProcess:
    """A process that has loaded its engine. A thread gives its messages to `on_message`, then calls `on_end`."""

    def __init__(
        self, settings: EngineSettings, on_message: Callable[[EngineProcess, Json], None], on_end: Callable[[], None]
    ) -> None:
        """Wait until it has loaded; raises its refusal, or EngineError if it ended instead."""
        command = [interpreter(), "-c", _PROGRAM, *sys.path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._on_message, self._on_end = on_message, on_end
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.heard_s = self.stepped_s = time.monotonic()
        """Time of its last message; time of its last step, or of its last idle heartbeat."""
        self.ended = False
        self._steps = 0
        threading.Thread(target=self._write, name="ovround-to-engine", daemon=True).start()
        self.send(asdict(settings))
        try:
            first = self._read_first()
        except BaseException:
            self.close(0.0)
            assert self._process.stdout is not None  # noqa: S101  # for the type checker
            self._process.stdout.close()
            raise
        self.slots: int = first["loaded"]
        self.kernel: str = first["kernel"]
        self.pid = self._process.pid
        threading.Thread(target=self._read, name="ovround-from-engine", daemon=True).start()

    def send(self, message: Json) -> None:
        """Write one line, from a thread: a full pipe must not stop the server."""
        self._outbox.put(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def kill(self) -> None:
        """End it at once; `on_end` is called as usual."""
        self._process.kill()

    def close(self, wait_s: float = _END_S) -> None:
        """Ask it to end, and kill it after `wait_s` seconds."""
        self._outbox.put(None)
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def how_it_ended(self) -> str:
        """Exit status or signal in words, after its end."""
        status = self._process.wait()
        if status >= 0:
            return f"status {status}"
        try:
            return signal.Signals(-status).name
        except ValueError:
            return f"signal {-status}"

    def _read_first(self) -> Json:
        assert self._process.stdout is not None  # noqa: S101  # for the type checker
        line = self._process.stdout.readline()
        if not line:
            raise EngineError(
                f"the engine's process ended while it loaded the model: {self.how_it_ended()}",
                hint="its own messages are above; SIGKILL often means that memory was too small",
            )
        first: Json = json.loads(line)
        if "refused" in first:
            raise error_from_json(first["refused"])
        self.heard_s = self.stepped_s = time.monotonic()
        return first

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101  # for the type checker
        with self._process.stdout as pipe:
            for line in pipe:
                if not line.endswith(b"\n"):
                    break  # the process ended within the line
                message: Json = json.loads(line)
                self.heard_s = time.monotonic()
                if "alive" in message:
                    if message["alive"] != self._steps or not message["busy"]:
                        self._steps, self.stepped_s = message["alive"], self.heard_s
                else:
                    self._on_message(self, message)
        self._process.wait()
        self.ended = True
        self._on_end()

    def _write(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None  # noqa: S101  # for the type checker
        try:
            while (line := self._outbox.get()) is not None:
                pipe.write(line)
                pipe.flush()
            pipe.close()
        except OSError:
            return  # the process has ended, which `_read` notices
