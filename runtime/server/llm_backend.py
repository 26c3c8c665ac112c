"""Our own `LLM`, one answer at a time: all options, on every folder."""

from __future__ import annotations

import queue
import threading
import time

from ovround.errors import EngineError, OvroundError
from ovround.runtime.llm import LLM
from ovround.runtime.server.job import Job


class LLMBackend:
    """See `Backend`."""

    slots = 1

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._busy_tokens = 0
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="ovround-llm", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def running(self) -> int:
        return int(self._busy_tokens > 0)

    def cache_usage(self) -> float:
        return self._busy_tokens / self._llm.context_length

    def close(self) -> None:
        self._closing = True
        self._jobs.put(None)
        self._thread.join()
        self._llm.close()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._closing:
                job.give(EngineError("the server is shutting down"))
            elif not job.cancelled:
                self._answer(job)

    def _answer(self, job: Job) -> None:
        job.started_s = time.perf_counter()
        try:
            self._busy_tokens = len(job.prompt_ids)
            for piece in self._llm.stream(job.prompt_ids, job.options):
                self._busy_tokens += 1
                if self._closing and piece.finish_reason is None:
                    raise EngineError("the server is shutting down")
                job.give(piece)
                if job.cancelled:
                    return
        except OvroundError as error:
            job.give(error)
        except Exception as error:  # noqa: BLE001  # whatever an engine raises ends this answer, never the thread
            job.give(EngineError(f"the engine failed: {error}"))
        finally:
            self._busy_tokens = 0
