"""Continuous batching by openvino_genai's ContinuousBatchingPipeline: many answers at once from an OpenVINO folder.

A step gives each running answer a token or so. They leave in one line and are turned into text by whoever reads it; what a
stop string or a vanished client ended is cancelled before the next step.
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
from ovround.runtime.engines.openvino_devices import EXACT
from ovround.runtime.server.engine_link import EngineLink
from ovround.runtime.server.wire import EngineSettings, Order


@dataclass(slots=True)
class _Running:
    order: Order
    handle: Any
    answers: bool = False
    """Whether it has a token yet."""


_PREPARED_SHAPES = 256  # OpenVINO's default of 5000 is 300 MB of prepared kernels where many come and go (docs/log.md)


class BatchingWorker:
    """The pipeline, and the orders that it runs."""

    def __init__(self, settings: EngineSettings) -> None:
        """Raises EngineError when OpenVINO refuses the folder."""
        try:
            import openvino_genai
        except ImportError as error:
            raise MissingExtraError("openvino_genai", "serve") from error
        folder = Path(settings.folder)
        check_folder(folder)
        self._genai: Any = openvino_genai
        self.slots = settings.slots
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
        if settings.extension is not None:
            properties["extensions"] = [settings.extension]
        try:
            self._pipeline: Any = openvino_genai.ContinuousBatchingPipeline(
                folder, scheduler, settings.device, properties
            )
        except RuntimeError as error:
            raise EngineError(f"openvino_genai cannot run `{folder}` on {settings.device}: {error}") from error
        self._running: dict[int, _Running] = {}
        self._alone: set[int] = set()
        """Orders that had no room though no other was running; the second time is the last."""
        self._full = False
        """Whether the cache had no room for an order, and nothing has ended since."""

    def work(self, link: EngineLink) -> None:
        """Until the process ends."""
        while True:
            for number in link.read(wait=not self._running):
                self._end(number, link)
            while not self._full and len(self._running) < self.slots and (order := link.next_order()) is not None:
                self._begin(order, link)
            if self._running:
                link.busy = True
                try:
                    self._step(link)
                except Exception as error:  # noqa: BLE001  # whatever the pipeline raises ends these answers, never the process
                    for number, one in self._running.items():
                        one.handle.cancel()
                        link.failed(number, error)
                    self._running, self._full = {}, False
                link.stepped()
            link.busy = bool(self._running)

    def _begin(self, order: Order, link: EngineLink) -> None:
        ids = ov.Tensor(np.asarray(order.prompt_ids, np.int64)[None])
        try:
            handle = self._pipeline.add_request(order.number, ids, self._config(order))
        except Exception as error:  # noqa: BLE001  # a request that the pipeline refuses is this order's error alone
            link.failed(order.number, error)
        else:
            self._running[order.number] = _Running(order, handle)
            link.began(order.number)

    def _end(self, number: int, link: EngineLink) -> None:
        one = self._running.pop(number, None)
        if one is not None:
            one.handle.cancel()
            self._full = False
        link.tokens([(number, [], True)], self._usage())

    def _step(self, link: EngineLink) -> None:
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        news: list[tuple[int, list[int], bool]] = []
        refused: list[tuple[int, _Running]] = []
        for number, one in list(self._running.items()):
            tokens: list[int] = []
            while one.handle.can_read():
                for output in one.handle.read().values():
                    tokens.extend(output.generated_ids)
            status = one.handle.get_status().name
            one.answers = one.answers or bool(tokens)
            if status != "RUNNING":
                del self._running[number]
                self._full = False
            if status == "IGNORED":
                refused.append((number, one))
            elif status != "RUNNING" and not tokens:
                link.failed(number, EngineError("the pipeline ended this answer without a reason"))
            elif tokens:
                news.append((number, tokens, status != "RUNNING"))
        for number, one in refused:
            if one.answers or number in self._alone:
                link.failed(number, BusyError("the KV cache has no room for this answer", hint="try again later"))
                continue
            if self._running:  # there will be room when another one ends
                self._full = True
            else:  # what was cancelled gives its room back with this step
                self._alone.add(number)
            link.put_back(one.order)
        if news:
            link.tokens(news, self._usage())

    def _usage(self) -> float:
        return float(self._pipeline.get_metrics().cache_usage) / 100

    def _config(self, order: Order) -> Any:
        return _generation_config(self._genai, order.options, order.max_new_tokens, set(order.end_token_ids))


def _generation_config(genai: Any, options: SamplingOptions, max_new_tokens: int, ends: set[int]) -> Any:
    config = genai.GenerationConfig()
    config.max_new_tokens = max_new_tokens
    config.ignore_eos = options.ignore_eos
    config.stop_token_ids = ends
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
