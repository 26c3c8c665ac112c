"""Prometheus metrics with vLLM's names, with our prefix or with theirs; units are seconds, tokens and shares."""

from __future__ import annotations

import time
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from ovround.runtime.decoding.completion import Usage
from ovround.runtime.server.job import Job

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LONG = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Load(Protocol):
    """The load of an engine."""

    @property
    def engine(self) -> str:
        """`batching` or `single`."""
        ...

    @property
    def kernel(self) -> str:
        """`native` or `engine`: whose kernels multiply quantised weights."""
        ...

    def running(self) -> int: ...

    def waiting(self) -> int: ...

    def cache_usage(self) -> float: ...

    def restarts(self) -> int: ...

    def engine_pid(self) -> int | None: ...


class Metrics:
    """The metrics of one server, in a registry of their own; used on the event loop only."""

    def __init__(self, model_name: str, prefix: str, load: Load, model_bits: float | None) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        ProcessCollector("engine", lambda: load.engine_pid() or -1, registry=self._registry)
        labels, self._model = ["model_name"], model_name

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(prefix + name, about, labels, buckets=buckets, registry=self._registry)
            return made.labels(model_name)

        def counter(name: str, about: str) -> Counter:
            return Counter(prefix + name, about, labels, registry=self._registry).labels(model_name)

        def gauge(name: str, about: str) -> Gauge:
            return Gauge(prefix + name, about, labels, registry=self._registry).labels(model_name)

        gauge("num_requests_running", "Number of answers being computed.").set_function(load.running)
        gauge("num_requests_waiting", "Number of answers without a first token.").set_function(load.waiting)
        gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.").set_function(load.cache_usage)
        gauge("engine_restarts", "Restarts of the engine's process.").set_function(load.restarts)
        Gauge(
            f"{prefix}engine_info", "The engine that the server was started with, and its kernels.",
            ["model_name", "engine", "kernel"], registry=self._registry,
        ).labels(model_name, load.engine, load.kernel).set(1)  # fmt: skip
        if model_bits is not None:
            gauge("model_bits", "Mean stored bits per weight.").set(model_bits)
        self._prompt = counter("prompt_tokens", "Tokens of prompts.")
        self._generated = counter("generation_tokens", "Tokens of answers.")
        self._queries = counter("prefix_cache_queries", "Tokens of prompts that were looked up in the cache.")
        self._hits = counter("prefix_cache_hits", "Tokens of prompts that were in the cache.")
        self._drafted = counter("spec_decode_num_draft_tokens", "Tokens proposed by speculative decoding.")
        self._accepted = counter("spec_decode_num_accepted_tokens", "Proposed tokens that were accepted.")
        self._success = Counter(
            f"{prefix}request_success",
            "Answers that ended.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self._refused = Counter(
            f"{prefix}request_failure", "Requests that failed.", ["model_name", "status"], registry=self._registry
        )
        self._first = histogram("time_to_first_token_seconds", "From arrival to the first token.", _LONG)
        self._between = histogram("inter_token_latency_seconds", "Between two tokens of an answer.", _SHORT)
        self._whole = histogram("e2e_request_latency_seconds", "From arrival to the last token.", _LONG)
        self._queue = histogram("request_queue_time_seconds", "From arrival to a slot.", _LONG)
        self._prefill = histogram("request_prefill_time_seconds", "From a slot to the first token.", _LONG)
        self._decode = histogram("request_decode_time_seconds", "From the first token to the last.", _LONG)

    def token(self, before_s: float | None, now_s: float, job: Job) -> None:
        """Count a token; `before_s` is the time of the token before it."""
        if before_s is None:
            self._first.observe(now_s - job.arrived_s)
            if job.started_s is not None:
                self._queue.observe(max(job.started_s - job.arrived_s, 0.0))
                self._prefill.observe(max(now_s - job.started_s, 0.0))
        else:
            self._between.observe(now_s - before_s)

    def ended(self, job: Job, usage: Usage, reason: str, first_s: float) -> None:
        """Count an answer that ended without an error."""
        now = time.perf_counter()
        self._prompt.inc(usage.prompt_tokens)
        self._queries.inc(usage.prompt_tokens)
        self._hits.inc(usage.cached_tokens)
        self._drafted.inc(usage.drafted_tokens)
        self._accepted.inc(usage.accepted_tokens)
        self._generated.inc(usage.completion_tokens)
        self._success.labels(self._model, reason).inc()
        self._whole.observe(now - job.arrived_s)
        self._decode.observe(now - first_s)

    def failed(self, status: int) -> None:
        """Count a request that ended with an error."""
        self._refused.labels(self._model, str(status)).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
