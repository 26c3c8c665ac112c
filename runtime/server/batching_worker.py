"""The batching engine: openvino_genai's ContinuousBatchingPipeline computes many answers at once from an OpenVINO folder.

A step gives each running answer about one token. The tokens leave in one message, and the server turns them into text. The
server cancels an answer after a stop string or for a client that has left; the next step no longer computes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from ovround.errors import BusyError, EngineError, MissingExtraError
from ovround.runtime.decoding.sampling import SamplingOptions
from ovround.runtime.engines import check_folder
from ovround.runtime.engines.native.openvino_versions import open_operator
from ovround.runtime.engines.openvino_devices import EXACT
from ovround.runtime.server.engine_messages import EngineRequest, EngineSettings
from ovround.runtime.server.engine_pipe import EnginePipe


@dataclass(slots=True)
class _Running:
    request: EngineRequest
    handle: Any
    has_tokens: bool = False


_LEAST = 1e-5  # the pipeline computes in float32, where a smaller number may be 0, which it refuses
_PREPARED_SHAPES = 256  # OpenVINO's default of 5000 keeps 300 MB of prepared kernels under many short requests


class BatchingWorker:
    """The pipeline, and the requests that it runs."""

    def __init__(self, settings: EngineSettings) -> None:
        """Raises EngineError when OpenVINO refuses the folder."""
        try:
            import openvino_genai
        except ImportError as error:
            raise MissingExtraError("openvino_genai", "serve") from error
        folder = Path(settings.folder)
        check_folder(folder)
        self._genai: Any = openvino_genai
        self.slots, self.kernel = settings.slots, "engine" if settings.extension is None else "native"
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_seqs = settings.slots
        if settings.cache_blocks:
            scheduler.num_kv_blocks = settings.cache_blocks
        else:
            scheduler.cache_size = settings.cache_gib
        scheduler.enable_prefix_caching = True
        properties: dict[str, Any] = dict(EXACT) if settings.exact else {}
        if settings.device.upper() == "CPU":
            properties["CPU_RUNTIME_CACHE_CAPACITY"] = _PREPARED_SHAPES
        if settings.threads is not None:
            properties["INFERENCE_NUM_THREADS"] = settings.threads
        try:
            if settings.extension is not None:
                open_operator(Path(settings.extension))
                properties["extensions"] = [settings.extension]
            self._pipeline: Any = openvino_genai.ContinuousBatchingPipeline(
                folder, scheduler, settings.device, properties
            )
        except (RuntimeError, OSError) as error:
            raise EngineError(f"openvino_genai cannot run `{folder}` on {settings.device}: {error}") from error
        self._running: dict[int, _Running] = {}
        self._refused_alone: set[int] = set()
        """Numbers of requests that had no room in an empty cache; a second refusal fails them."""
        self._failed = False
        """Whether the last step failed; some errors leave the pipeline in the middle of a step for good."""
        self._full = False
        """Whether the cache had no room for a request, and no answer has ended since."""

    def work(self, pipe: EnginePipe) -> None:
        """Answer requests until the process ends."""
        while True:
            for number in pipe.read(wait=not self._running):
                self._end(number, pipe)
            while not self._full and len(self._running) < self.slots and (request := pipe.next_request()) is not None:
                self._begin(request, pipe)
            if self._running:
                pipe.busy = True
                try:
                    self._step(pipe)
                    self._failed = False
                except Exception as error:  # the pipeline's error ends these answers
                    if self._failed:
                        raise  # the server starts another process
                    self._failed = True
                    for number, running in self._running.items():
                        running.handle.cancel()
                        pipe.failed(number, error)
                    self._running, self._full = {}, False
                pipe.stepped()
            pipe.busy = bool(self._running)

    def _begin(self, request: EngineRequest, pipe: EnginePipe) -> None:
        ids = ov.Tensor(np.asarray(request.prompt_ids, np.int64)[None])
        try:
            handle = self._pipeline.add_request(request.number, ids, self._config(request))
        except Exception as error:  # noqa: BLE001  # the pipeline's refusal concerns this request alone
            pipe.failed(request.number, error)
        else:
            self._running[request.number] = _Running(request, handle)
            pipe.began(request.number)

    def _end(self, number: int, pipe: EnginePipe) -> None:
        running = self._running.pop(number, None)
        if running is not None:
            running.handle.cancel()
            self._full = False
        pipe.tokens([(number, [], True)], self._usage())

    def _step(self, pipe: EnginePipe) -> None:
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        answers: list[tuple[int, list[int], bool]] = []
        refused: list[tuple[int, _Running]] = []
        for number, running in list(self._running.items()):
            tokens: list[int] = []
            while running.handle.can_read():
                for output in running.handle.read().values():
                    tokens.extend(output.generated_ids)
            status = running.handle.get_status().name
            running.has_tokens = running.has_tokens or bool(tokens)
            if status != "RUNNING":
                del self._running[number]
                self._full = False
            if status == "IGNORED":
                refused.append((number, running))
            elif status != "RUNNING" and not tokens:
                pipe.failed(number, EngineError("the pipeline ended this answer without a reason"))
            elif tokens:
                answers.append((number, tokens, status != "RUNNING"))
        for number, running in refused:
            if running.has_tokens or number in self._refused_alone:
                pipe.failed(number, BusyError("the KV cache has no room for this answer", hint="try again later"))
                continue
            if self._running:  # the end of another answer makes room
                self._full = True
            else:  # this step returns the room of cancelled answers
                self._refused_alone.add(number)
            pipe.put_back(running.request)
        if answers:
            pipe.tokens(answers, self._usage())

    def _usage(self) -> float:
        return float(self._pipeline.get_metrics().cache_usage) / 100

    def _config(self, request: EngineRequest) -> Any:
        return _generation_config(self._genai, request.options, request.max_new_tokens, set(request.end_token_ids))


def _generation_config(genai: Any, options: SamplingOptions, max_new_tokens: int, ends: set[int]) -> Any:
    config = genai.GenerationConfig()
    config.max_new_tokens = max_new_tokens
    config.ignore_eos = options.ignore_eos
    config.stop_token_ids = ends
    config.do_sample = options.temperature >= _LEAST  # below it the likeliest token is the only one
    if config.do_sample:
        config.temperature = options.temperature
        config.top_p = max(options.top_p, _LEAST)
        config.min_p = options.min_p
        if options.top_k:
            config.top_k = options.top_k
        config.rng_seed = int(np.random.default_rng().integers(2**31)) if options.seed is None else options.seed % 2**32
    config.repetition_penalty = max(options.repetition_penalty, _LEAST)
    config.presence_penalty = options.presence_penalty
    config.frequency_penalty = options.frequency_penalty
    return config
