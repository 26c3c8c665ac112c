"""`bench`: the speed of a folder's model, and its share of the machine's memory bandwidth."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ovround.artifact.manifest import MANIFEST, read_manifest
from ovround.measure.bandwidth import measure_read_bandwidth
from ovround.measure.bench_options import BenchOptions
from ovround.runtime.decoding.generation import admit
from ovround.runtime.decoding.sampling import SamplingOptions
from ovround.runtime.engine import Engine
from ovround.runtime.engines import check_folder

WARM_UP_RUNS = 1
_EMBEDDINGS = "embed_tokens.weight"
_HEAD = "lm_head.weight"
_WEIGHT_FILES = ("openvino_model.bin", "model.onnx", "model.onnx.data")


@dataclass(frozen=True, slots=True)
class BenchResult:
    """Result of one benchmark: batch 1, greedy, a random prompt, one warm-up run. Times in seconds."""

    device: str
    kernel: str
    """Whose kernels multiply quantised weights: `native` or `engine`."""
    prompt_tokens: int
    new_tokens: int
    repeat: int
    warm_up_runs: int
    load_s: float
    time_to_first_token_median_s: float
    time_to_first_token_p90_s: float
    time_per_output_token_median_s: float
    time_per_output_token_p90_s: float
    tokens_per_s: float
    """Tokens after the first, divided by their time, over all runs."""
    peak_memory_bytes: int | None
    """Peak resident memory of this process; None on Windows. In a new process it is the model's."""
    weight_bytes_per_token: int
    """Bytes of stored weights that a decoding step reads; without a manifest, the size of all weight files."""
    read_bandwidth_bytes_per_s: float
    bandwidth_share: float
    """Weight bytes per token, divided by its median time and by the read bandwidth; above 1 with caches."""


def bench(
    folder: str | Path, options: BenchOptions | None = None, on_stage: Callable[[str], None] = lambda stage: None
) -> BenchResult:
    """Measure the model in `folder` with a random prompt; end tokens are ignored. `on_stage` hears what begins after loading.

    Raises GenerationError if prompt and answer do not fit the context, and the errors of `open_engine`.
    """
    path, options = Path(folder), options or BenchOptions()
    check_folder(path, options.device)
    start = time.perf_counter()
    engine = options.open(path)
    load_s = time.perf_counter() - start
    prompt = np.random.default_rng(options.seed).integers(0, engine.vocab_size, options.prompt_tokens).tolist()
    admit(prompt, SamplingOptions(max_new_tokens=options.new_tokens), engine.context_length, ())
    runs = []
    for number in range(WARM_UP_RUNS + options.repeat):
        on_stage(f"run {number} of {options.repeat}" if number else "warming up")
        runs.append(_timed_run(engine, prompt, options.new_tokens))
    runs = runs[WARM_UP_RUNS:]
    on_stage("measuring the read bandwidth")
    first = np.array([times[0] for times in runs])
    later = np.array([times[1:] for times in runs])
    peak = peak_memory_bytes()  # before the bandwidth test, which needs memory of its own
    label, kernel = engine.device, engine.kernel
    engine.close()
    weight_bytes, bandwidth = weight_bytes_per_token(path), measure_read_bandwidth(options.threads)
    per_token = float(np.median(later))
    return BenchResult(
        device=label,
        kernel=kernel,
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.new_tokens,
        repeat=options.repeat,
        warm_up_runs=WARM_UP_RUNS,
        load_s=load_s,
        time_to_first_token_median_s=float(np.median(first)),
        time_to_first_token_p90_s=float(np.percentile(first, 90)),
        time_per_output_token_median_s=per_token,
        time_per_output_token_p90_s=float(np.percentile(later, 90)),
        tokens_per_s=later.size / float(later.sum()),
        peak_memory_bytes=peak,
        weight_bytes_per_token=weight_bytes,
        read_bandwidth_bytes_per_s=bandwidth,
        bandwidth_share=weight_bytes / per_token / bandwidth,
    )


def weight_bytes_per_token(folder: Path) -> int:
    """Bytes of the weights that one decoding step reads.

    With a manifest: every stored weight, but only one row of embeddings that are not also the head. Without a manifest: the
    size of the weight files, with all rows of the embeddings.
    """
    if not (folder / MANIFEST).is_file():
        return sum((folder / name).stat().st_size for name in _WEIGHT_FILES if (folder / name).is_file())
    weights = read_manifest(folder).weights
    has_head = any(weight.name.endswith(_HEAD) for weight in weights)
    row_only = {weight.name for weight in weights if has_head and weight.name.endswith(_EMBEDDINGS)}
    return sum(w.size_bytes // w.shape[0] if w.name in row_only else w.size_bytes for w in weights)


def peak_memory_bytes() -> int | None:
    """Peak resident memory of this process; None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _timed_run(engine: Engine, prompt: list[int], new_tokens: int) -> list[float]:
    """Seconds per new token, the first with the prefill."""
    return [after - before for before, after in pairwise(time_stamps(engine, [prompt], new_tokens))]


def time_stamps(engine: Engine, prompts: list[list[int]], new_tokens: int) -> list[float]:
    """`time.perf_counter` before the prompts, and after each of `new_tokens` greedy tokens per row; end tokens are ignored."""
    engine.reset()
    times = [time.perf_counter()]
    ids = engine.prefill(prompts).argmax(axis=1).tolist()
    times.append(time.perf_counter())
    for _ in range(new_tokens - 1):
        ids = engine.decode(ids).argmax(axis=1).tolist()
        times.append(time.perf_counter())
    return times
