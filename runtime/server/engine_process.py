"""An engine in a process of its own, watched: whatever ends it or stops it, the server lives and starts it again.

Answers that it was computing are lost with it and say so; those that waited are computed by the next one.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

from ovround.errors import EngineError, OvroundError
from ovround.runtime.decoding.answer import Answer
from ovround.runtime.decoding.generation import admit
from ovround.runtime.server.engine_child import EngineChild
from ovround.runtime.server.job import Job
from ovround.runtime.server.wire import (
    EngineSettings,
    Json,
    Order,
    error_from_json,
    order_to_json,
    piece_from_json,
)
from ovround.runtime.text.tokenizer import Tokenizer

QUIET_S = 5.0
"""An engine's process says every second that it runs; after so long without, the server is not ready."""
SILENT_S = 30.0
"""After so long it is ended and started again."""
_LOOK_S = 0.5
_LONGEST_WAIT_S = 60.0


class EngineLostError(EngineError):
    """The engine's process ended under an answer."""


@dataclass(eq=False, slots=True)
class _Entry:
    job: Job
    order: Order
    answer: Answer | None
    """Makes text of tokens; None where pieces come whole."""
    began_s: float | None = None


class EngineProcess:
    """Takes jobs from the event loop and gives each its pieces, or an error. All but the watching is on the loop."""

    def __init__(
        self, settings: EngineSettings, tokenizer: Tokenizer, context_length: int, end_token_ids: Iterable[int], *,
        stuck_s: float, restarting: Callable[[], AbstractContextManager[None]],
    ) -> None:  # fmt: skip
        """Load the engine; raises what it refuses the folder with.

        An engine that computes for `stuck_s` without a step is ended. `restarting` is around each later start, and may
        refuse it.
        """
        self._settings, self._tokenizer = settings, tokenizer
        self._context_length, self._end_token_ids = context_length, frozenset(end_token_ids)
        self._stuck_s, self._restarting = stuck_s, restarting
        self._loop: asyncio.AbstractEventLoop | None = None
        self._entries: dict[int, _Entry] = {}
        self._next = 0
        self._usage = 0.0
        self.restarts = 0
        """How often the engine was started again."""
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._refusal: OvroundError | None = None
        self._child: EngineChild | None = self._start()
        self.slots = self._child.slots
        """Answers computed at once."""
        self._keeper = threading.Thread(target=self._keep, name="ovround-engine", daemon=True)
        self._keeper.start()

    @property
    def pid(self) -> int | None:
        """The engine's process; None while there is none."""
        return None if self._child is None else self._child.pid

    def submit(self, job: Job) -> None:
        """Take a job up; it may wait for a slot, or for the engine to be there again."""
        self._loop = asyncio.get_running_loop()
        if self._refusal is not None:
            job.pieces.put_nowait(self._refusal)
            return
        request = admit(job.prompt_ids, job.options, self._context_length, self._end_token_ids)
        self._next += 1
        order = Order(
            self._next, job.prompt_ids, job.options, request.max_new_tokens, sorted(request.end_token_ids)
        )  # fmt: skip
        answer = Answer(request, self._tokenizer) if self._settings.batching else None
        self._entries[order.number] = _Entry(job, order, answer)
        job.on_cancel = partial(self._cancel, order.number)
        if self._child is not None:
            self._child.send({"begin": order_to_json(order)})

    def running(self) -> int:
        """Answers that are being computed."""
        return sum(entry.began_s is not None for entry in self._entries.values())

    def cache_usage(self) -> float:
        """The share of the KV cache that is in use, 0 to 1."""
        return self._usage

    def unready(self) -> str | None:
        """Why no request would be answered now; None: it would."""
        child = self._child
        if child is None:
            return str(self._refusal) if self._refusal is not None else "the engine is being started again"
        quiet = time.monotonic() - child.heard_s
        return f"the engine has not answered for {quiet:.0f} s" if quiet > QUIET_S else None

    def close(self) -> None:
        """End the engine; jobs on their way get an error."""
        self._closing.set()
        self._wake.set()
        self._keeper.join()

    def _start(self) -> EngineChild:
        return EngineChild(self._settings, self._heard, self._wake.set)

    def _heard(self, child: EngineChild, news: Json) -> None:
        self._on_loop(self._take, child, news, time.perf_counter())

    def _on_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        """There all that jobs are told is told; before the first job there is none, and nobody else either."""
        if self._loop is None:
            call(*arguments)
            return
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            return  # the loop has closed: nobody reads any more

    # On the event loop.

    def _take(self, child: EngineChild, news: Json, now_s: float) -> None:
        if child is not self._child:
            return
        self._usage = news.get("usage", self._usage)
        if "tokens" in news:
            for number, tokens, ended in news["tokens"]:
                self._advance(number, tokens, ended, now_s)
        elif "piece" in news:
            number, found = news["piece"]
            piece = piece_from_json(found)
            if number in self._entries:
                self._entries[number].job.pieces.put_nowait(piece)
                if piece.finish_reason is not None:
                    del self._entries[number]
        elif "began" in news:
            if (entry := self._entries.get(news["began"])) is not None:
                entry.began_s = entry.job.started_s = now_s
        elif "failed" in news:
            number, error = news["failed"]
            if (entry := self._entries.pop(number, None)) is not None:
                entry.job.pieces.put_nowait(error_from_json(error))

    def _advance(self, number: int, tokens: list[int], ended: bool, now_s: float) -> None:
        entry = self._entries.get(number)
        if entry is None:
            return
        if ended:
            del self._entries[number]
        if entry.answer is None or entry.job.cancelled:
            return
        request = entry.answer.request
        for token in tokens:
            if request.finish_reason is not None:
                break
            request.accept(token)
            request.note_time(now_s - (entry.began_s or now_s))
            entry.job.pieces.put_nowait(entry.answer.advance())
        if request.finish_reason is not None:
            entry.job.cancel()  # a stop string that the engine does not know of

    def _cancel(self, number: int) -> None:
        if number in self._entries and self._child is not None:
            self._child.send({"cancel": number})

    def _lose(self, error: OvroundError) -> None:
        """The engine is gone, and with it what it was computing."""
        self._child = None
        for number, entry in list(self._entries.items()):
            if entry.began_s is not None or entry.job.cancelled:
                entry.job.pieces.put_nowait(error)
                del self._entries[number]

    def _refuse(self, error: OvroundError) -> None:
        """No engine will come."""
        self._refusal = error
        for entry in self._entries.values():
            entry.job.pieces.put_nowait(error)
        self._entries = {}

    def _take_over(self, child: EngineChild) -> None:
        self._child, self._refusal = child, None
        for number, entry in list(self._entries.items()):
            if entry.job.cancelled:
                del self._entries[number]
            else:
                child.send({"begin": order_to_json(entry.order)})

    # In the keeper's thread.

    def _keep(self) -> None:
        child = self._child
        while child is not None and not self._closing.is_set():
            self._wake.wait(_LOOK_S)
            self._wake.clear()
            now = time.monotonic()
            if child.ended:
                child = self._restart(child.how_it_ended())
            elif now - child.heard_s > SILENT_S or now - child.stepped_s > self._stuck_s:
                child.kill()
        if child is not None:
            child.close()
        self._on_loop(self._refuse, EngineError("the server is shutting down"))

    def _restart(self, ending: str) -> EngineChild | None:
        """The next engine, however often that must be tried; None when the server closes."""
        print(f"warning: the engine's process ended ({ending}); starting it again", file=sys.stderr, flush=True)
        lost = EngineLostError(
            f"the engine ended under this answer ({ending})", hint="it is started again; ask once more"
        )
        self._on_loop(self._lose, lost)
        wait_s = 0.0
        while not self._closing.wait(wait_s):
            try:
                with self._restarting():
                    child = self._start()
            except OvroundError as error:
                print(f"warning: the engine does not start: {error}", file=sys.stderr, flush=True)
                self._on_loop(self._refuse, error)
                wait_s = min(2 * wait_s + 1.0, _LONGEST_WAIT_S)
            else:
                self.restarts += 1
                self._on_loop(self._take_over, child)
                return child
        return None
