"""`ovround fit` beside what happens: memory of an answer and time of a token, predicted, measured, and their ratio.

    python benchmarks/fit.py MODEL ... [--bits 8 4] [--rounds 20] [--bar 1.2]

Each MODEL is rounded into the cache. Memory is the peak of `ovround run` with a short and a long prompt. A token and a pass over
an array for the bandwidth are timed in turn; their ratio, the median over all rounds, is what other programs disturb least.
The time of a model is predicted from what the other models reached here, as `ovround bench` leaves it. Asserts that every
ratio is within the bar, 20 %.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from ovround import cached_model
from ovround.measure.benchmark import weight_bytes_per_token
from ovround.measure.fit.machine import MachineSpeed, ObservedRun, machine_speed
from ovround.measure.fit.rates import token_seconds
from ovround.measure.fit.table import fit
from ovround.runtime.devices import available_cores
from ovround.runtime.engines import open_engine

ARRAY_BYTES, TOKENS = 256 << 20, 8
PROMPTS = (8, 600)
_CONVERT = "import sys, ovround; ovround.cached_model(sys.argv[1], bits=int(sys.argv[2]))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--bar", type=float, default=1.2)
    given = parser.parse_args()
    for bits in given.bits:
        for model in given.models:  # in processes of their own: a child's peak of memory begins with its parent's
            subprocess.run([sys.executable, "-c", _CONVERT, model, str(bits)], check=True)
    cases = [(model, bits, cached_model(model, bits=bits)) for bits in given.bits for model in given.models]
    rows = [measured_memory(model, bits, folder, tokens) for model, bits, folder in cases for tokens in PROMPTS]
    runs = {(model, bits): timed(folder, bits, given.rounds) for model, bits, folder in cases}
    rows += [predicted_time(key, runs) for key in runs if len(given.models) > 1]
    for row in rows:
        print(json.dumps(row), file=sys.stderr)
    print(json.dumps({"benchmark": "fit", "rows": rows}))
    off = [row for row in rows if not 1 / given.bar <= row["ratio"] <= given.bar]
    assert not off, f"{len(off)} of {len(rows)} are further off than {given.bar}"


def measured_memory(model: str, bits: int, folder: Path, tokens: int) -> dict[str, object]:
    """Peak resident memory of a process that answers a prompt of about so many tokens."""
    words = [sys.executable, "-m", "ovround", "run", str(folder), "-", "--raw", "--max-new-tokens", "4"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"hello " * tokens)
        process.stdin.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    predicted = next(row for row in fit(model, tokens).rows if row.bits == bits).memory_bytes
    return row_of("memory MB", model, bits, predicted / 1e6, usage.ru_maxrss * 1024 / 1e6) | {"context": tokens}


def timed(folder: Path, bits: int, rounds: int) -> ObservedRun:
    """Time of a token and the bandwidth, in turn."""
    engine = open_engine(folder)
    parts = np.array_split(np.ones(ARRAY_BYTES // 8, np.uint64), available_cores())
    ids = engine.prefill([[1] * 16]).argmax(axis=1).tolist()
    ratios, passes = [], []
    with ThreadPoolExecutor(available_cores()) as pool:
        for number in range(rounds + 2):
            start = time.perf_counter()
            for _ in range(TOKENS):
                ids = engine.decode(ids).argmax(axis=1).tolist()
            middle = time.perf_counter()
            list(pool.map(np.bitwise_or.reduce, parts))
            end = time.perf_counter()
            if number >= 2:
                ratios.append((middle - start) / TOKENS / (end - middle))
                passes.append(end - middle)
    kernel = engine.kernel
    engine.close()
    bandwidth = ARRAY_BYTES / min(passes)
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    seconds = statistics.median(ratios) * min(passes)
    return ObservedRun("openvino", kernel, bits, layers, weight_bytes_per_token(folder), seconds, bandwidth)


def predicted_time(key: tuple[str, int], runs: dict[tuple[str, int], ObservedRun]) -> dict[str, object]:
    """The time of one model by what the others reached at the same bits."""
    own = runs[key]
    others = tuple(run for other, run in runs.items() if other[1] == key[1] and other != key)
    speed: MachineSpeed = replace(machine_speed(), bandwidth=own.bandwidth, runs=others)
    predicted = token_seconds(speed, own.format, own.kernel, own.bits, own.layers, own.bytes_per_token)
    row = row_of("token ms", *key, predicted * 1e3, own.seconds * 1e3)
    return row | {"layers": own.layers, "mb": own.bytes_per_token / 1e6, "gb_s": own.bandwidth / 1e9}


def row_of(what: str, model: str, bits: int, predicted: float, measured: float) -> dict[str, object]:
    return {
        "what": what, "model": Path(model).name, "bits": bits, "predicted": round(predicted, 2), "measured": round(measured, 2),
        "ratio": round(predicted / measured, 3),
    }  # fmt: skip


if __name__ == "__main__":
    main()
