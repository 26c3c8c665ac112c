"""Which backend computes a request, how many may wait, and how long one may take."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ovround.artifact.manifest import MANIFEST, read_manifest
from ovround.errors import ArtifactError, BusyError, GenerationError, OvroundError
from ovround.runtime.decoding.completion import Piece
from ovround.runtime.decoding.generation import admit
from ovround.runtime.decoding.sampling import SamplingOptions
from ovround.runtime.engines import OPENVINO_FILE, verified
from ovround.runtime.model_info import read_model_info
from ovround.runtime.server.engine_process import SILENT_S, EngineProcess
from ovround.runtime.server.job import Job
from ovround.runtime.server.metrics import Metrics
from ovround.runtime.server.settings import ServerSettings
from ovround.runtime.server.wire import EngineSettings
from ovround.runtime.text.tokenizer import Tokenizer


class TimeLimitError(OvroundError):
    """A request took longer than it may."""


class RequestCancelledError(OvroundError):
    """Another request ended this one."""


class Dispatcher:
    """One model: its tokenizer, its engines, and the jobs on their way. Used on the event loop, but for `__init__`."""

    def __init__(self, settings: ServerSettings, engine: EngineSettings, *, verify: bool = True) -> None:
        """Load the model; where it batches, what only our own loop can do is loaded when a request first needs it."""
        self.folder, self.settings = Path(engine.folder), settings
        self._engine, self._verify = engine, verify
        self._began_with = _state(self.folder)
        self._opening = threading.Lock()
        self._batching: EngineProcess | None = None
        self._single: EngineProcess | None = None
        with verified(self.folder, engine.device, contents=verify):
            self.tokenizer = Tokenizer(self.folder)
            info = read_model_info(self.folder)
            self.context_length, self._end_token_ids = info.context_length, info.end_token_ids
            if engine.batching:
                self._batching = self._open(engine)
            else:
                self._single = self._open(engine)
        self._jobs: dict[str, list[Job]] = {}
        self.model_bits = _mean_bits(self.folder)
        self.metrics = Metrics(settings.model_name, settings.metrics_prefix, self, self.model_bits)

    @property
    def batches(self) -> bool:
        """Whether there is an engine of many slots."""
        return self._batching is not None

    def running(self) -> int:
        """Answers that are being computed."""
        return sum(backend.running() for backend in self._backends())

    def waiting(self) -> int:
        """Answers whose first token is not there yet."""
        return sum(not job.begun for jobs in self._jobs.values() for job in jobs)

    def check(self, prompt_ids: Sequence[int], options: SamplingOptions) -> None:
        """Raise GenerationError for a request that does not fit the model, before any of its choices is begun."""
        admit(prompt_ids, options, self.context_length, self._end_token_ids)
        vocabulary = self.tokenizer.vocab_size
        if max(prompt_ids) >= vocabulary:
            raise GenerationError(f"token id {max(prompt_ids)}; the vocabulary has 0 to {vocabulary - 1}")

    async def open_jobs(
        self, request_id: str, prompts: Sequence[Sequence[int]], options: Sequence[SamplingOptions]
    ) -> list[Job]:
        """Begin the jobs of one request; raises BusyError when they would wait behind too many."""
        waiting = self.waiting()
        most = self.settings.max_waiting + max(self._slots() - self.running(), 0)
        if waiting + len(prompts) > most:
            raise BusyError(f"{waiting} answers wait already; at most {most} may", hint="try again later")
        jobs = [Job(ids, chosen) for ids, chosen in zip(prompts, options, strict=True)]
        self._jobs[request_id] = jobs
        try:
            for job in jobs:
                (await self._backend(job.options)).submit(job)
        except BaseException:
            self.close_jobs(request_id)
            raise
        return jobs

    def close_jobs(self, request_id: str) -> None:
        """A request is over: whatever of it is still running is cancelled."""
        for job in self._jobs.pop(request_id, []):
            job.cancel()

    async def pieces(self, job: Job) -> AsyncGenerator[Piece, None]:
        """The job's pieces; leaving the loop cancels it. Raises what the engine raised, or TimeLimitError."""
        limit = self.settings.request_timeout_s
        late = TimeLimitError(f"the answer took longer than the {limit} s that it may")
        left = max(job.arrived_s + limit - time.perf_counter(), 0.0)
        # One timer for all: a wait_for around each piece costs as much as the piece.
        timer = asyncio.get_running_loop().call_later(left, job.pieces.put_nowait, late)
        before: float | None = None
        first = 0.0
        try:
            while True:
                piece = await job.pieces.get()
                job.begun = True
                if isinstance(piece, Exception):
                    raise piece
                now = time.perf_counter()
                self.metrics.token(before, now, job)
                before, first = now, first or now
                if piece.finish_reason is not None and piece.usage is not None:
                    self.metrics.ended(job, piece.usage, piece.finish_reason, first)
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            timer.cancel()
            job.cancel()

    def cancel(self, request_id: str) -> bool:
        """End a running request's answers where they are; whether there was one."""
        jobs = self._jobs.get(request_id, [])
        for job in jobs:
            job.cancel()
            job.pieces.put_nowait(RequestCancelledError("the request was cancelled"))
        return bool(jobs)

    def unready(self) -> str | None:
        """Why requests would not be answered now; None: they would."""
        return next((why for backend in self._backends() if (why := backend.unready()) is not None), None)

    def restarts(self) -> int:
        """How often an engine's process had to be started again."""
        return sum(backend.restarts for backend in self._backends())

    def engine_pids(self) -> list[int | None]:
        """The processes that compute, None for one that is being started again."""
        return [backend.pid for backend in self._backends()]

    def close(self) -> None:
        """End the engines."""
        for backend in self._backends():
            backend.close()

    async def _backend(self, options: SamplingOptions) -> EngineProcess:
        if self._batching is not None and can_batch(options):
            return self._batching
        if self._single is None:
            await asyncio.to_thread(self._open_single)
        assert self._single is not None  # noqa: S101  # for the type checker
        return self._single

    def _open_single(self) -> None:
        with self._opening:
            if self._single is None:
                with self._as_it_began():
                    self._single = self._open(replace(self._engine, batching=False))

    def _open(self, engine: EngineSettings) -> EngineProcess:
        return EngineProcess(
            engine, self.tokenizer, self.context_length, self._end_token_ids,
            stuck_s=self.settings.request_timeout_s + SILENT_S, restarting=self._as_it_began,
        )  # fmt: skip

    @contextmanager
    def _as_it_began(self) -> Iterator[None]:
        """Around opening an engine later on: raises ArtifactError when the folder is no longer what it was."""
        if _state(self.folder) != self._began_with:
            raise ArtifactError(
                f"`{self.folder}` has changed since the server began",
                hint="restart the server to serve what is there now",
            )
        with verified(self.folder, self._engine.device, contents=self._verify):
            yield

    def _slots(self) -> int:
        """Answers computed at once."""
        return sum(backend.slots for backend in self._backends())

    def cache_usage(self) -> float:
        """The share of the KV cache that is in use, 0 to 1."""
        return max(backend.cache_usage() for backend in self._backends())

    def _backends(self) -> list[EngineProcess]:
        return [backend for backend in (self._batching, self._single) if backend is not None]


def can_batch(options: SamplingOptions) -> bool:
    """Whether openvino_genai's pipeline gives what our own loop gives.

    It has no grammar that fails closed, no logit bias, one log-probability a token and none of prompts, and its random
    numbers depend on who else is in the batch.
    """
    plain = options.logprobs is None and options.prompt_logprobs is None and options.grammar is None
    return plain and not options.logit_bias and (options.temperature == 0.0 or options.seed is None)


def _state(folder: Path) -> bytes:
    """What tells a folder from the one that replaces it: its manifest, empty where there is none."""
    path = folder / MANIFEST
    return path.read_bytes() if path.is_file() else b""


def _mean_bits(folder: Path) -> float | None:
    """Stored bits a weight, of all that the manifest lists; None without one."""
    if not (folder / MANIFEST).is_file():
        return None
    weights: Any = read_manifest(folder).weights
    elements = sum(_product(weight.shape) for weight in weights)
    return 8 * sum(weight.size_bytes for weight in weights) / elements if elements else None


def _product(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def is_openvino(folder: Path) -> bool:
    """Whether openvino_genai can read the folder."""
    return (folder / OPENVINO_FILE).is_file()
