"""The engine's end of the pipe: orders in, news out."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol

from ovround.runtime.decoding.completion import Piece
from ovround.runtime.server.wire import Json, Order, error_to_json, order_from_json, piece_to_json


class Worker(Protocol):
    """One engine."""

    slots: int
    """Answers computed at once."""

    def work(self, link: EngineLink) -> None:
        """Answer orders until the process ends."""
        ...


class EngineLink:
    """`read`, `next_order` and the news are of the thread that computes; `take` and `beat` of others."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Json] = queue.SimpleQueue()
        self._waiting: deque[Order] = deque()
        self._steps = 0
        self.busy = False
        """Whether it computes: then steps are waited for."""

    def take(self, line: bytes) -> None:
        """A line that came in."""
        self._inbox.put(json.loads(line))

    def beat(self) -> None:
        """Say that this process runs, and how far it is."""
        self.send({"alive": self._steps, "busy": self.busy})

    def read(self, *, wait: bool) -> list[int]:
        """See what came in, waiting for something only where nothing waits; the numbers that are cancelled."""
        cancelled: list[int] = []
        while not self._inbox.empty() or (wait and not self._waiting and not cancelled):
            found = self._inbox.get()
            if "begin" in found:
                self._waiting.append(order_from_json(found["begin"]))
            else:
                cancelled.append(found["cancel"])
        if cancelled:
            self._waiting = deque(order for order in self._waiting if order.number not in cancelled)
        return cancelled

    def next_order(self) -> Order | None:
        """The one that has waited longest."""
        return self._waiting.popleft() if self._waiting else None

    def put_back(self, order: Order) -> None:
        """One that could not begin is the next one again."""
        self._waiting.appendleft(order)

    def stepped(self) -> None:
        """Something was computed."""
        self._steps += 1

    def began(self, number: int) -> None:
        self.send({"began": number})

    def tokens(self, news: Sequence[tuple[int, list[int], bool]], usage: float) -> None:
        self.send({"tokens": news, "usage": usage})

    def piece(self, number: int, piece: Piece, usage: float) -> None:
        self.send({"piece": [number, piece_to_json(piece)], "usage": usage})

    def failed(self, number: int, error: Exception) -> None:
        self.send({"failed": [number, error_to_json(error)]})

    def send(self, what: dict[str, Any]) -> None:
        """One line; where nobody reads any more, the process ends."""
        line = json.dumps(what, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                self._out.write(line)
                self._out.flush()
        except OSError:
            os._exit(0)
