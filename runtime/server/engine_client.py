"""The server's view of its engine: requests in, pieces of answers out, with limits on their number and time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ovround.artifact.manifest import MANIFEST
from ovround.errors import ArtifactError, BusyError, OvroundError
from ovround.runtime.decoding.completion import Piece
from ovround.runtime.decoding.generation import admit
from ovround.runtime.decoding.sampling import SamplingOptions
from ovround.runtime.engine import check_ids
from ovround.runtime.engines import verified
from ovround.runtime.server.chat_syntax import read_chat_syntax
from ovround.runtime.server.engine_choice import EngineName
from ovround.runtime.server.engine_messages import EngineSettings
from ovround.runtime.server.engine_supervisor import SILENT_S, EngineSupervisor
from ovround.runtime.server.job import Job
from ovround.runtime.server.metrics import Metrics
from ovround.runtime.server.served_model import read_served_model
from ovround.runtime.server.settings import ServerSettings


class TimeLimitError(OvroundError):
    """A request took longer than it may."""


class RequestCancelledError(OvroundError):
    """Another request cancelled this one."""


class EngineClient:
    """One model in one engine, and the jobs that it has. Used on the event loop, except for `__init__`."""

    def __init__(self, settings: ServerSettings, engine: EngineSettings, *, verify: bool = True) -> None:
        """Start the engine; raises what it refuses the folder with."""
        folder = Path(engine.folder)
        self.settings = settings
        self.engine: EngineName = "batching" if engine.batching else "single"
        self._device, self._verify = engine.device, verify
        self.repeats_seeds = engine.exact or not engine.batching
        """Whether a seed gives its answer again whatever was computed before; openvino_genai's rounded prefix cache does not."""
        self._manifest = _read_manifest_bytes(folder)
        with verified(folder, engine.device, contents=verify):
            self.model = read_served_model(folder, settings.model_name)
            self.chat_syntax = read_chat_syntax(self.model.tokenizer, settings.tool_parser)
            self._supervisor = EngineSupervisor(
                engine, self.model.tokenizer, self.model.context_length, self.model.end_token_ids,
                stuck_s=settings.request_timeout_s + SILENT_S, restarting=self._unchanged_folder,
            )  # fmt: skip
        self._jobs: dict[str, list[Job]] = {}
        self.metrics = Metrics(self.model.name, settings.metrics_prefix, self, self.model.bits)

    @property
    def kernel(self) -> str:
        """Whose kernels multiply quantised weights: `native` or `engine`."""
        return self._supervisor.kernel

    def running(self) -> int:
        """Number of answers that are being computed."""
        return self._supervisor.running()

    def waiting(self) -> int:
        """Number of answers without a first token."""
        return sum(not job.begun for jobs in self._jobs.values() for job in jobs)

    def check(self, prompt_ids: Sequence[int], options: SamplingOptions) -> None:
        """Raise GenerationError for a prompt that does not fit the model."""
        admit(prompt_ids, options, self.model.context_length, self.model.end_token_ids)
        check_ids([prompt_ids], self.model.vocab_size)

    async def open_jobs(
        self, request_id: str, prompts: Sequence[Sequence[int]], options: SamplingOptions, choices: int
    ) -> list[Job]:
        """Begin `choices` answers to each prompt, prompt by prompt; a choice's seed is the first's plus its index.

        Raises BusyError when too many answers wait, GenerationError for a prompt that does not fit the model.
        """
        for prompt in prompts:
            self.check(prompt, options)
        waiting = self.waiting()
        limit = self.settings.max_waiting + max(self._supervisor.slots - self.running(), 0)
        if waiting + len(prompts) * choices > limit:
            raise BusyError(f"{waiting} answers wait already; at most {limit} may", hint="try again later")
        per_choice = [
            options if options.seed is None else replace(options, seed=(options.seed + index) % 2**64)
            for index in range(choices)
        ]
        jobs = [Job(prompt, choice) for prompt in prompts for choice in per_choice]
        self._jobs[request_id] = jobs
        try:
            for job in jobs:
                self._supervisor.submit(job)
        except BaseException:
            self.close_jobs(request_id)
            raise
        return jobs

    def close_jobs(self, request_id: str) -> None:
        """End a request: its answers that still run are cancelled."""
        for job in self._jobs.pop(request_id, []):
            job.cancel()

    async def pieces(self, job: Job) -> AsyncGenerator[Piece, None]:
        """The job's pieces; leaving the loop cancels it. Raises the engine's error, or TimeLimitError."""
        time_limit_s = self.settings.request_timeout_s
        late = TimeLimitError(f"the answer took longer than the {time_limit_s} s that it may")
        left_s = max(job.arrived_s + time_limit_s - time.perf_counter(), 0.0)
        # One timer for all: a wait_for around each piece costs as much as the piece.
        timer = asyncio.get_running_loop().call_later(left_s, job.pieces.put_nowait, late)
        before_s: float | None = None
        first_s = 0.0
        try:
            while True:
                piece = await job.pieces.get()
                job.begun = True
                if isinstance(piece, Exception):
                    raise piece
                now_s = time.perf_counter()
                self.metrics.token(before_s, now_s, job)
                before_s, first_s = now_s, first_s or now_s
                if piece.finish_reason is not None and piece.usage is not None:
                    self.metrics.ended(job, piece.usage, piece.finish_reason, first_s)
                yield piece
                if piece.finish_reason is not None:
                    return
        finally:
            timer.cancel()
            job.cancel()

    def cancel(self, request_id: str) -> bool:
        """Cancel a running request; False where there is none of this id."""
        jobs = self._jobs.get(request_id, [])
        for job in jobs:
            job.cancel()
            job.pieces.put_nowait(RequestCancelledError("the request was cancelled"))
        return bool(jobs)

    def unready(self) -> str | None:
        """The reason why the engine does not answer now; None where it does."""
        return self._supervisor.unready()

    def restarts(self) -> int:
        """Number of times that the engine's process was started again."""
        return self._supervisor.restarts

    def engine_pid(self) -> int | None:
        """Process id of the engine; None while it is being started again."""
        return self._supervisor.pid

    def cache_usage(self) -> float:
        """Share of the KV cache in use, 0 to 1."""
        return self._supervisor.cache_usage()

    def close(self) -> None:
        """End the engine."""
        self._supervisor.close()

    @contextmanager
    def _unchanged_folder(self) -> Iterator[None]:
        """Around a restart of the engine: raises ArtifactError when the folder has changed since the server began."""
        folder = self.model.folder
        if _read_manifest_bytes(folder) != self._manifest:
            raise ArtifactError(
                f"`{folder}` has changed since the server began", hint="restart the server to serve what is there now"
            )
        with verified(folder, self._device, contents=self._verify):
            yield


def _read_manifest_bytes(folder: Path) -> bytes:
    """The manifest, which differs between a folder and its replacement; empty where there is none."""
    path = folder / MANIFEST
    return path.read_bytes() if path.is_file() else b""
