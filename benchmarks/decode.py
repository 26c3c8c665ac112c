"""Time to first token and time per output token, of our engines with several settings and of the peers, in one run.

Every side is a process that has loaded its model. Each round runs all of them, and the order rotates by one each round.
Ratios are computed within a round, and their medians are reported. Each peer gets the model in its own 4-bit format (NNCF by
optimum-intel, onnxruntime-genai's builder, llama.cpp's Q4_0), and as many threads as our engines.

    python benchmarks/random_llama.py MODEL
    python benchmarks/decode.py MODEL WORK [--sides onnx openvino llama.cpp ...] [--prompts 256 1024] [--rounds 5]
    python benchmarks/decode.py MODEL WORK --starts 5 [--sides ...]     # only the time from a cold start to the first token

WORK keeps the converted models from run to run. Read bandwidth is measured in every round. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peers
import random_aqlm

from ovround.conversion.convert import convert
from ovround.measure.bandwidth import measure_read_bandwidth
from ovround.measure.benchmark import weight_bytes_per_token
from ovround.measure.peers.comparison import Contender, Runner
from ovround.options.convert_options import ConvertOptions
from ovround.runtime.devices import available_cores

GROUP = 128
FEWEST_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the comparison: a worker of `ovround.measure.peers.worker`, and a function that converts its model."""

    worker: str
    make: Callable[[Path, Path, Path | None], None]
    model: str  # folder or file below WORK; sides that differ only in properties share it
    environment: str | None = None  # an environment of `peers`; None is this environment
    properties: dict[str, str] = field(default_factory=dict)


def ours(engine_format: str, bits: int, head_bits: int, *, packed: bool = False, **properties: str) -> dict[str, Any]:
    """A side with our integer weights; `packed` stores them for our operator, the property `kernel` selects OpenVINO's kernels."""

    def make(model: Path, out: Path, cache: Path | None) -> None:
        options = ConvertOptions(
            formats=(engine_format,), bits=bits, group_size=GROUP, recipe="rtn", lm_head_bits=head_bits, embedding_bits=8,
            native_weights=packed,
        )  # fmt: skip
        convert(model, out, options)

    model = f"ours-{engine_format}-w{bits}-head{head_bits}{'-packed' * packed}"
    kernel = {"kernel": "engine"} if engine_format == "openvino" else {}
    return {"worker": "ovround", "make": make, "model": model, "properties": {**kernel, **properties}}


def of_codebooks(engine_format: str) -> dict[str, Any]:
    """A side with random AQLM codes in the model's shape: two codebooks of 8 bits, vectors of 8."""

    def make(model: Path, out: Path, cache: Path | None) -> None:
        with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
            coded = Path(scratch) / "aqlm"
            random_aqlm.write(model, coded, books=2, bits=8, size=8, seed=0)
            convert(coded, out, ConvertOptions(formats=(engine_format,), lm_head_bits=8, embedding_bits=8))

    return {"worker": "ovround", "make": make, "model": f"ours-{engine_format}-aqlm-2x8-head8"}


def by_optimum(model: Path, out: Path, cache: Path | None) -> None:
    peers.run(
        "optimum-intel", "optimum_export", cache=cache, threads=available_cores(), model=str(model), out=str(out),
        group_size=GROUP,
    )  # fmt: skip


def by_builder(model: Path, out: Path, cache: Path | None) -> None:
    peers.run(
        "onnxruntime-genai", "genai_build", cache=cache, threads=available_cores(), model=str(model), out=str(out),
        group_size=GROUP,
    )  # fmt: skip


def by_llama_cpp(model: Path, out: Path, cache: Path | None) -> None:
    peers.run("llama-cpp", "llama_cpp_quantise", cache=cache, threads=available_cores(), model=str(model), out=str(out))


SIDES: dict[str, Side] = {
    "openvino": Side(**ours("openvino", 4, 8)),
    "openvino-activations-32": Side(**ours("openvino", 4, 8, DYNAMIC_QUANTIZATION_GROUP_SIZE="32")),
    "openvino-float-activations": Side(**ours("openvino", 4, 8, DYNAMIC_QUANTIZATION_GROUP_SIZE="0")),
    "openvino-f32": Side(**ours("openvino", 4, 8, INFERENCE_PRECISION_HINT="f32")),
    "openvino-kv-f16": Side(**ours("openvino", 4, 8, KV_CACHE_PRECISION="f16")),
    "openvino-head4": Side(**ours("openvino", 4, 4)),
    "openvino-w2": Side(**ours("openvino", 2, 4)),
    "openvino-w2-f32": Side(**ours("openvino", 2, 4, INFERENCE_PRECISION_HINT="f32")),
    "native": Side(**ours("openvino", 4, 8, kernel="native")),
    "native-f32": Side(**ours("openvino", 4, 8, kernel="native", INFERENCE_PRECISION_HINT="f32")),
    "native-head4": Side(**ours("openvino", 4, 4, kernel="native")),
    "native-w3": Side(**ours("openvino", 3, 8, packed=True, kernel="native")),
    "native-w2": Side(**ours("openvino", 2, 4, kernel="native")),
    "native-aqlm": Side(**of_codebooks("openvino")),
    "onnx": Side(**ours("onnx", 4, 8)),
    "onnx-head4": Side(**ours("onnx", 4, 4)),
    "onnx-no-spinning": Side(**ours("onnx", 4, 4, **{"session.intra_op.allow_spinning": "0"})),
    "onnx-w2": Side(**ours("onnx", 2, 4)),
    "onnx-packed": Side(**ours("onnx", 4, 4, packed=True)),
    "onnx-packed-w2": Side(**ours("onnx", 2, 4, packed=True)),
    "onnx-packed-w3": Side(**ours("onnx", 3, 8, packed=True)),
    "onnx-aqlm": Side(**of_codebooks("onnx")),
    "openvino-genai": Side("openvino-genai", by_optimum, "nncf"),
    "optimum": Side("optimum", by_optimum, "nncf", "optimum-intel"),
    "onnxruntime-genai": Side("onnxruntime-genai", by_builder, "builder", "onnxruntime-genai"),
    "llama.cpp": Side("llama.cpp", by_llama_cpp, "q4_0.gguf", "llama-cpp"),
}


def started(name: str, model: Path, work: Path, threads: int, cache: Path | None, prompt: list[int]) -> Runner:
    """Start the side's process and load its model, which is converted first if it is not in `work`."""
    side = SIDES[name]
    path = work / side.model
    if not path.exists():
        print(f"making {path.name}", file=sys.stderr, flush=True)
        side.make(model, path, cache)
    python = sys.executable if side.environment is None else str(peers.python(side.environment, cache))
    return Runner(Contender(side.worker, str(path), threads, properties=side.properties, python=python), prompt)


def measured(
    runners: dict[str, Runner], prompt: list[int], new_tokens: int, rounds: int, threads: int
) -> list[dict[str, Any]]:
    """One row for each side: median times, and the medians of each round's ratios to the first side."""
    for runner in runners.values():
        runner.run(prompt, 4)  # a warm-up run with this prompt length
        runner.first.clear()
        runner.later.clear()
    names, bandwidth = list(runners), []
    for number in range(rounds):
        bandwidth.append(measure_read_bandwidth(threads))
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            runners[name].run(prompt, new_tokens)
    first = runners[names[0]]
    rows = []
    for name, runner in runners.items():
        folder = Path(runner.contender.model)
        share = None
        if runner.contender.name == "ovround":
            size = weight_bytes_per_token(folder)
            share = statistics.median(size / s / b for s, b in zip(runner.later, bandwidth, strict=True))
        rows.append(
            {
                "side": name,
                "prompt_tokens": len(prompt),
                "time_to_first_token_s": statistics.median(runner.first),
                "time_per_output_token_s": statistics.median(runner.later),
                "first_ratio": statistics.median(a / b for a, b in zip(runner.first, first.first, strict=True)),
                "later_ratio": statistics.median(a / b for a, b in zip(runner.later, first.later, strict=True)),
                "bandwidth_share": share,
                "peak_memory_bytes": runner.side().peak_memory_bytes,
                "load_to_first_token_s": runner.load_to_first_token_s,
                "label": runner.label,
            }
        )
    return rows


def cold_starts(start: Callable[[str], Runner], names: list[str], count: int) -> list[dict[str, Any]]:
    """Start each side's process `count` times, in turn, and time it to the first token; one row for each side."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(count):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            runner = start(name)
            seconds[name].append(runner.load_to_first_token_s)
            runner.close()
    first = seconds[names[0]]
    return [
        {
            "side": name,
            "load_to_first_token_s": statistics.median(own),
            "load_ratio": statistics.median(a / b for a, b in zip(own, first, strict=True)),
        }
        for name, own in seconds.items()
    ]


def show_starts(rows: list[dict[str, Any]]) -> None:
    print("| side | start to first token, s | ratio |\n|---|---|---|")
    for row in rows:
        print(f"| {row['side']} | {row['load_to_first_token_s']:.2f} | {row['load_ratio']:.2f} |", flush=True)


def show(rows: list[dict[str, Any]]) -> None:
    print(
        "| side | prompt | first token, ms | ratio | per token, ms | ratio | of bandwidth | MB | start to first token, s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        share = "-" if row["bandwidth_share"] is None else f"{row['bandwidth_share']:.0%}"
        print(
            f"| {row['side']} | {row['prompt_tokens']} | {1e3 * row['time_to_first_token_s']:.0f} | {row['first_ratio']:.2f} "
            f"| {1e3 * row['time_per_output_token_s']:.1f} | {row['later_ratio']:.2f} | {share} "
            f"| {(row['peak_memory_bytes'] or 0) / 1e6:.0f} | {row['load_to_first_token_s']:.1f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["onnx-head4", "openvino", "openvino-genai"])
    parser.add_argument("--prompts", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=0, metavar="N", help="measure N cold starts of each side instead")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--cache", type=Path, help="where peers' environments are kept")
    arguments = parser.parse_args()
    if arguments.rounds < FEWEST_ROUNDS:
        parser.error(f"{arguments.rounds} rounds are too few for a median; {FEWEST_ROUNDS} or more are needed")
    if arguments.starts < 0:
        parser.error(f"{arguments.starts} starts; 1 or more are needed")
    arguments.work.mkdir(parents=True, exist_ok=True)
    prompts = [np.random.default_rng(length).integers(3, 256, length).tolist() for length in arguments.prompts]

    def start(name: str) -> Runner:
        return started(
            name, arguments.model.resolve(), arguments.work.resolve(), arguments.threads, arguments.cache, prompts[0]
        )

    if arguments.starts:
        rows = cold_starts(start, arguments.sides, arguments.starts)
        show_starts(rows)
        print(json.dumps({"threads": arguments.threads, "starts": arguments.starts, "rows": rows}))
        return
    runners: dict[str, Runner] = {}
    rows = []
    try:
        for name in arguments.sides:
            runners[name] = start(name)
            print(f"{name}: {runners[name].label}", file=sys.stderr, flush=True)
        for prompt in prompts:
            side_rows = measured(runners, prompt, arguments.new_tokens, arguments.rounds, arguments.threads)
            show(side_rows)
            rows += side_rows
    finally:
        for runner in runners.values():
            runner.close()
    print(json.dumps({"threads": arguments.threads, "rounds": arguments.rounds, "rows": rows}))


if __name__ == "__main__":
    main()
