"""Latency by context length and throughput by batch size, for the plots of `ovround bench --plot`."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovround.errors import UsageError
from ovround.measure.bench_options import BenchOptions
from ovround.measure.benchmark import WARM_UP_RUNS, time_stamps
from ovround.runtime.engine import Engine

CONTEXTS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
BATCHES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Point:
    """One measured setting; times are medians over the repeats."""

    prompt_tokens: int
    batch: int
    time_to_first_token_s: float
    time_per_output_token_s: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all rows after the first, per second."""
        return self.batch / self.time_per_output_token_s


@dataclass(frozen=True, slots=True)
class Sweep:
    """All points of one sweep."""

    device: str
    new_tokens: int
    contexts: tuple[Point, ...]
    """Batch 1, increasing prompt lengths."""
    batches: tuple[Point, ...]
    """Increasing batch sizes, one prompt length."""


def sweep(folder: Path, options: BenchOptions, on_point: Callable[[Point], None] = lambda point: None) -> Sweep:
    """Measure `folder` at every length of `CONTEXTS` that fits its context, and at every batch size of `BATCHES`.

    Raises UsageError if the shortest prompt and the answer do not fit, and the errors of `open_engine`.
    """
    engine, prompt_tokens, new_tokens = options.open(folder), options.prompt_tokens, options.new_tokens
    try:
        room = engine.context_length - new_tokens
        lengths = [length for length in CONTEXTS if length <= room]
        if not lengths or prompt_tokens > room:
            needed = prompt_tokens if lengths else CONTEXTS[0]
            raise UsageError(
                f"{needed} prompt and {new_tokens} new tokens; the model's context is {engine.context_length}",
                hint="fewer --new-tokens or --prompt-tokens",
            )
        rng = np.random.default_rng(options.seed)

        def measured(length: int, batch: int) -> Point:
            prompts = rng.integers(0, engine.vocab_size, (batch, length)).tolist()
            point = _point(engine, prompts, new_tokens, options.repeat)
            on_point(point)
            return point

        contexts = tuple(measured(length, 1) for length in lengths)
        batches = tuple(measured(prompt_tokens, batch) for batch in BATCHES)
        return Sweep(engine.device, new_tokens, contexts, batches)
    finally:
        engine.close()


def _point(engine: Engine, prompts: list[list[int]], new_tokens: int, repeat: int) -> Point:
    first, later = [], []
    for _ in range(WARM_UP_RUNS + repeat):
        start, ready, *_, end = time_stamps(engine, prompts, new_tokens)
        first.append(ready - start)
        later.append((end - ready) / (new_tokens - 1))
    engine.reset()
    return Point(
        len(prompts[0]), len(prompts), statistics.median(first[WARM_UP_RUNS:]), statistics.median(later[WARM_UP_RUNS:])
    )
