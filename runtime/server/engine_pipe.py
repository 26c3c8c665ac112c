"""The engine's end of the pipe to the server: requests in, messages about their answers out."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol

from ovround.runtime.decoding.completion import Piece
from ovround.runtime.server.engine_messages import EngineRequest, Json, error_to_json, piece_to_json, request_from_json


class Worker(Protocol):
    """One engine."""

    slots: int
    """Number of answers computed at once."""
    kernel: str
    """Whose kernels multiply quantised weights: `native` or `engine`."""

    def work(self, pipe: EnginePipe) -> None:
        """Answer requests until the process ends."""
        ...


class EnginePipe:
    """`take` and `send_heartbeat` belong to threads of their own; the computing thread calls all other methods."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Json] = queue.SimpleQueue()
        self._waiting: deque[EngineRequest] = deque()
        self._steps = 0
        self.busy = False
        """Whether the engine computes; the server then expects steps."""

    def take(self, line: bytes) -> None:
        """Accept a line from the server."""
        self._inbox.put(json.loads(line))

    def send_heartbeat(self) -> None:
        """Report that this process runs, and the number of its steps."""
        self.send({"alive": self._steps, "busy": self.busy})

    def read(self, *, wait: bool) -> list[int]:
        """Read all messages, and return the numbers of cancelled requests; `wait` for a message if no request waits."""
        cancelled: list[int] = []
        while not self._inbox.empty() or (wait and not self._waiting and not cancelled):
            message = self._inbox.get()
            if "begin" in message:
                self._waiting.append(request_from_json(message["begin"]))
            else:
                cancelled.append(message["cancel"])
        if cancelled:
            self._waiting = deque(request for request in self._waiting if request.number not in cancelled)
        return cancelled

    def next_request(self) -> EngineRequest | None:
        """The request that has waited longest."""
        return self._waiting.popleft() if self._waiting else None

    def put_back(self, request: EngineRequest) -> None:
        """Make a request that could not begin the next one again."""
        self._waiting.appendleft(request)

    def stepped(self) -> None:
        """Count a step of the engine."""
        self._steps += 1

    def began(self, number: int) -> None:
        """Report that a request has a slot."""
        self.send({"began": number})

    def tokens(self, answers: Sequence[tuple[int, list[int], bool]], usage: float) -> None:
        """Report new tokens of several answers: request number, token ids, whether the answer has ended."""
        self.send({"tokens": answers, "usage": usage})

    def piece(self, number: int, piece: Piece, usage: float) -> None:
        """Report a piece of one answer."""
        self.send({"piece": [number, piece_to_json(piece)], "usage": usage})

    def failed(self, number: int, error: Exception) -> None:
        """Report that an answer has ended with an error."""
        self.send({"failed": [number, error_to_json(error)]})

    def send(self, message: dict[str, Any]) -> None:
        """Write one line; the process ends if the server no longer reads."""
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                self._out.write(line)
                self._out.flush()
        except OSError:
            os._exit(0)
