"""Supervision of the engine's process: the server survives its end or its silence, and starts it again.

Answers that were being computed end with an error; the next process computes those that waited.
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
from ovround.runtime.server.engine_messages import (
    EngineRequest,
    EngineSettings,
    Json,
    error_from_json,
    piece_from_json,
    request_to_json,
)
from ovround.runtime.server.engine_process import EngineProcess
from ovround.runtime.server.job import Job
from ovround.runtime.text.tokenizer import Tokenizer

QUIET_S = 5.0
"""Seconds without a heartbeat after which the server is not ready; the engine's process sends one every second."""
SILENT_S = 30.0
"""Seconds without a heartbeat after which the process is ended and started again."""
_CHECK_S = 0.5
_LONGEST_WAIT_S = 60.0


class EngineLostError(EngineError):
    """The engine's process ended while it computed an answer."""


@dataclass(eq=False, slots=True)
class _Entry:
    job: Job
    engine_request: EngineRequest
    answer: Answer | None
    """Turns tokens into text; None where the engine sends text."""
    began_s: float | None = None


class EngineSupervisor:
    """Gives each job its pieces, or an error. Everything runs on the event loop, except the watching of the process."""

    def __init__(
        self, settings: EngineSettings, tokenizer: Tokenizer, context_length: int, end_token_ids: Iterable[int], *,
        stuck_s: float, restarting: Callable[[], AbstractContextManager[None]],
    ) -> None:  # fmt: skip
        """Load the engine; raises what it refuses the folder with.

        An engine that computes for `stuck_s` seconds without a step is ended. `restarting` is entered around each later
        start, and may raise to refuse it.
        """
        self._settings, self._tokenizer = settings, tokenizer
        self._context_length, self._end_token_ids = context_length, frozenset(end_token_ids)
        self._stuck_s, self._restarting = stuck_s, restarting
        self._loop: asyncio.AbstractEventLoop | None = None
        self._entries: dict[int, _Entry] = {}
        self._next = 0
        self._usage = 0.0
        self.restarts = 0
        """Number of times that the engine was started again."""
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._refusal: OvroundError | None = None
        self._process: EngineProcess | None = self._start()
        self.slots, self.kernel = self._process.slots, self._process.kernel
        """Number of answers computed at once."""
        self._watcher = threading.Thread(target=self._watch, name="ovround-engine", daemon=True)
        self._watcher.start()

    @property
    def pid(self) -> int | None:
        """Id of the engine's process; None while there is none."""
        return None if self._process is None else self._process.pid

    def submit(self, job: Job) -> None:
        """Accept a job; it may wait for a slot, or for the engine's restart."""
        self._loop = asyncio.get_running_loop()
        if self._refusal is not None:
            job.pieces.put_nowait(self._refusal)
            return
        admitted = admit(job.prompt_ids, job.options, self._context_length, self._end_token_ids)
        self._next += 1
        request = EngineRequest(
            self._next, job.prompt_ids, job.options, admitted.max_new_tokens, sorted(admitted.end_token_ids)
        )  # fmt: skip
        answer = Answer(admitted, self._tokenizer) if self._settings.batching else None
        self._entries[request.number] = _Entry(job, request, answer)
        job.on_cancel = partial(self._cancel, request.number)
        if self._process is not None:
            self._process.send({"begin": request_to_json(request)})

    def running(self) -> int:
        """Number of answers that are being computed."""
        return sum(entry.began_s is not None for entry in self._entries.values())

    def cache_usage(self) -> float:
        """Share of the KV cache in use, 0 to 1."""
        return self._usage

    def unready(self) -> str | None:
        """The reason why the engine does not answer now; None where it does."""
        process = self._process
        if process is None:
            return str(self._refusal) if self._refusal is not None else "the engine is being started again"
        quiet_s = time.monotonic() - process.heard_s
        return f"the engine has not answered for {quiet_s:.0f} s" if quiet_s > QUIET_S else None

    def close(self) -> None:
        """End the engine; running jobs get an error."""
        self._closing.set()
        self._wake.set()
        self._watcher.join()

    def _start(self) -> EngineProcess:
        return EngineProcess(self._settings, self._on_message, self._wake.set)

    def _on_message(self, process: EngineProcess, message: Json) -> None:
        self._on_loop(self._take, process, message, time.perf_counter())

    def _on_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        """Run `call` on the event loop, where jobs live; directly before the first job, since there is no loop yet."""
        if self._loop is None:
            call(*arguments)
            return
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            return  # the loop has closed: there is no reader any more

    # On the event loop.

    def _take(self, process: EngineProcess, message: Json, now_s: float) -> None:
        if process is not self._process:
            return
        self._usage = message.get("usage", self._usage)
        if "tokens" in message:
            for number, tokens, ended in message["tokens"]:
                self._advance(number, tokens, ended, now_s)
        elif "piece" in message:
            number, values = message["piece"]
            piece = piece_from_json(values)
            if number in self._entries:
                self._entries[number].job.pieces.put_nowait(piece)
                if piece.finish_reason is not None:
                    del self._entries[number]
        elif "began" in message:
            if (entry := self._entries.get(message["began"])) is not None:
                entry.began_s = entry.job.started_s = now_s
        elif "failed" in message:
            number, error = message["failed"]
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
        if number in self._entries and self._process is not None:
            self._process.send({"cancel": number})

    def _lose(self, error: OvroundError) -> None:
        """End the answers that the ended process was computing."""
        self._process = None
        for number, entry in list(self._entries.items()):
            if entry.began_s is not None or entry.job.cancelled:
                entry.job.pieces.put_nowait(error)
                del self._entries[number]

    def _refuse(self, error: OvroundError) -> None:
        """Answer every job with an error: the engine cannot be started."""
        self._refusal = error
        for entry in self._entries.values():
            entry.job.pieces.put_nowait(error)
        self._entries = {}

    def _take_over(self, process: EngineProcess) -> None:
        """Give the waiting jobs to a new process."""
        self._process, self._refusal = process, None
        for number, entry in list(self._entries.items()):
            if entry.job.cancelled:
                del self._entries[number]
            else:
                process.send({"begin": request_to_json(entry.engine_request)})

    # In the watching thread.

    def _watch(self) -> None:
        process = self._process
        while process is not None and not self._closing.is_set():
            self._wake.wait(_CHECK_S)
            self._wake.clear()
            now = time.monotonic()
            if process.ended:
                process = self._restart(process.how_it_ended())
            elif now - process.heard_s > SILENT_S or now - process.stepped_s > self._stuck_s:
                process.kill()
        if process is not None:
            process.close()
        self._on_loop(self._refuse, EngineError("the server is shutting down"))

    def _restart(self, ending: str) -> EngineProcess | None:
        """The next process, after as many attempts as it takes; None when the server closes."""
        print(f"warning: the engine's process ended ({ending}); starting it again", file=sys.stderr, flush=True)
        lost = EngineLostError(
            f"the engine ended under this answer ({ending})", hint="it is started again; ask once more"
        )
        self._on_loop(self._lose, lost)
        wait_s = 0.0
        while not self._closing.wait(wait_s):
            try:
                with self._restarting():
                    process = self._start()
            except OvroundError as error:
                print(f"warning: the engine does not start: {error}", file=sys.stderr, flush=True)
                self._on_loop(self._refuse, error)
                wait_s = min(2 * wait_s + 1.0, _LONGEST_WAIT_S)
            else:
                self.restarts += 1
                self._on_loop(self._take_over, process)
                return process
        return None
