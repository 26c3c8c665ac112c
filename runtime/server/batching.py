"""Continuous batching by openvino_genai's ContinuousBatchingPipeline: many answers at once from an OpenVINO folder.

Its thread alone touches the pipeline. A step gives each running answer a token or so; they go to the event loop in one
call, are turned into text there, and what a stop string or a vanished client ended is cancelled before the next step.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from ovround.errors import EngineError, MissingExtraError
from ovround.runtime.answer import Answer
from ovround.runtime.engines import check_folder
from ovround.runtime.engines.openvino_devices import EXACT
from ovround.runtime.generation import admit
from ovround.runtime.model_info import read_model_info
from ovround.runtime.sampling import SamplingOptions
from ovround.runtime.server.job import Job
from ovround.runtime.tokenizer import Tokenizer


def can_batch(options: SamplingOptions) -> bool:
    """Whether the pipeline gives what our own loop gives.

    It has no grammar that fails closed, no logit bias, one log-probability a token and none of prompts, and its random
    numbers depend on who else is in the batch.
    """
    plain = options.logprobs is None and options.prompt_logprobs is None and options.grammar is None
    return plain and not options.logit_bias and (options.temperature == 0.0 or options.seed is None)


@dataclass(eq=False, slots=True)
class _Running:
    job: Job
    answer: Answer
    handle: Any
    began_s: float


class BatchingBackend:
    """See `Backend`."""

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, device: str = "CPU", *, exact: bool = False,
        threads: int | None = None, slots: int = 64, cache_gib: int = 0, extension: Path | None = None,
    ) -> None:  # fmt: skip
        """`cache_gib` 0: the cache grows as it is needed. `extension`: the library of the folder's own operators.

        Raises EngineError when OpenVINO refuses the folder.
        """
        try:
            import openvino_genai
        except ImportError as error:
            raise MissingExtraError("openvino_genai", "serve") from error
        check_folder(folder)
        self._genai: Any = openvino_genai
        self._tokenizer = tokenizer
        self.slots = slots
        info = read_model_info(folder)
        self.context_length = info.context_length
        self._end_token_ids = info.end_token_ids
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_seqs = slots
        scheduler.cache_size = cache_gib
        scheduler.enable_prefix_caching = True
        properties: dict[str, Any] = dict(EXACT) if exact else {}
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = threads
        if extension is not None:
            properties["extensions"] = [str(extension)]
        try:
            self._pipeline: Any = openvino_genai.ContinuousBatchingPipeline(folder, scheduler, device, properties)
        except RuntimeError as error:
            raise EngineError(f"openvino_genai cannot run `{folder}` on {device}: {error}") from error
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._running: list[_Running] = []
        self._next_id = 0
        self._usage = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="ovround-batching", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        self._waiting.put(job)

    def running(self) -> int:
        return len(self._running)

    def cache_usage(self) -> float:
        return self._usage

    def close(self) -> None:
        self._closing = True
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while not self._closing:
            try:
                self._take_up()
                if self._running:
                    self._step()
            except Exception as error:  # noqa: BLE001  # whatever the pipeline raises ends these answers, never the thread
                for one in self._running:
                    one.handle.cancel()
                    one.job.give(EngineError(f"the engine failed: {_last_line(error)}"))
                self._running = []
        for one in self._running:
            one.handle.cancel()
            one.job.give(EngineError("the server is shutting down"))
        while not self._waiting.empty():
            job = self._waiting.get()
            if job is not None:
                job.give(EngineError("the server is shutting down"))
        self._running = []
        self._pipeline = None

    def _take_up(self) -> None:
        """Give waiting jobs to the pipeline, as many as there are slots; wait for one when there is nothing to do."""
        while len(self._running) < self.slots and (not self._running or not self._waiting.empty()):
            job = self._waiting.get()
            if job is None:
                return
            if job.cancelled:
                continue
            try:
                self._running.append(self._begin(job))
            except Exception as error:  # noqa: BLE001  # a request that the pipeline refuses is this job's error alone
                job.give(error if isinstance(error, EngineError) else EngineError(_last_line(error)))

    def _begin(self, job: Job) -> _Running:
        job.started_s = time.perf_counter()
        request = admit(job.prompt_ids, job.options, self.context_length, self._end_token_ids)
        config = _generation_config(self._genai, job.options, request.max_new_tokens, request.end_token_ids)
        ids = np.asarray(job.prompt_ids, np.int64)[None]
        self._next_id += 1
        handle = self._pipeline.add_request(self._next_id, ov.Tensor(ids), config)
        return _Running(job, Answer(request, self._tokenizer), handle, job.started_s)

    def _step(self) -> None:
        for one in [one for one in self._running if one.job.cancelled]:
            one.handle.cancel()
            self._running.remove(one)
        if not self._pipeline.has_non_finished_requests() and not self._running:
            return
        self._pipeline.step()
        self._usage = self._pipeline.get_metrics().cache_usage / 100
        now = time.perf_counter()
        news: list[tuple[_Running, list[int]]] = []
        for one in list(self._running):
            tokens: list[int] = []
            while one.handle.can_read():
                for output in one.handle.read().values():
                    tokens.extend(output.generated_ids)
            status = one.handle.get_status().name
            if tokens:
                news.append((one, tokens))
            if status == "IGNORED":
                one.job.give(EngineError("the KV cache has no room for this request"))
            elif status != "RUNNING" and not tokens and not one.job.cancelled:
                one.job.give(EngineError("the pipeline ended this answer without a reason"))
            if status != "RUNNING":
                self._running.remove(one)
        if news:
            try:
                news[0][0].job.loop.call_soon_threadsafe(_deliver, news, now)
            except RuntimeError:  # the loop has closed
                self._closing = True


def _deliver(news: Sequence[tuple[_Running, list[int]]], now_s: float) -> None:
    """On the event loop: tokens become text and go to who asked for them."""
    for one, tokens in news:
        request = one.answer.request
        for token in tokens:
            if request.finish_reason is not None:
                break
            request.accept(token)
            request.note_time(now_s - one.began_s)
            one.job.pieces.put_nowait(one.answer.advance())
        if request.finish_reason is not None:
            one.job.cancelled = True  # a stop string that the pipeline does not know of


def _generation_config(genai: Any, options: SamplingOptions, max_new_tokens: int, ends: frozenset[int]) -> Any:
    config = genai.GenerationConfig()
    config.max_new_tokens = max_new_tokens
    config.ignore_eos = options.ignore_eos
    config.stop_token_ids = set(ends)
    config.do_sample = options.temperature > 0.0
    if config.do_sample:
        config.temperature = options.temperature
        config.top_p = options.top_p
        config.min_p = options.min_p
        if options.top_k:
            config.top_k = options.top_k
        config.rng_seed = int(np.random.default_rng().integers(2**31))
    config.repetition_penalty = options.repetition_penalty
    config.presence_penalty = options.presence_penalty
    config.frequency_penalty = options.frequency_penalty
    return config


def _last_line(error: Exception) -> str:
    """What an OpenVINO message says last; before it stands where in its sources it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
