"""A GGUF file to an OpenVINO folder: ovround keeps its integers; the other way is transformers, then optimum-intel's export.

Both sides run in turn, as whole processes on the same number of cores. CPU time counts user and system seconds of all processes,
memory the largest of them. The other way unpacks the file to float32 and rounds it anew to 8 bits, its fastest choice.

    python benchmarks/convert_gguf.py MODEL.gguf [--rounds 3] [--threads 2]

Asserts that every ratio of CPU time is at most one half, and every ratio of memory below 1. The last line printed is one JSON
document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import peers


def ours(model: Path, threads: int) -> dict[str, Any]:
    """Figures of one conversion by ovround."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "ovround", "convert", str(model), f"{scratch}/out", "--quiet", "--json"]
        return peers.measured(command, threads)


def theirs(model: Path, threads: int, cache: Path | None) -> dict[str, Any]:
    """Figures of loading, saving and exporting."""
    with tempfile.TemporaryDirectory() as scratch:
        return peers.run("optimum-intel", "optimum_gguf", cache=cache, threads=threads, gguf=str(model), out=scratch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="where peers' environments are kept")
    arguments = parser.parse_args()
    model, threads = arguments.model.resolve(), arguments.threads
    ratios: dict[str, list[float]] = {"elapsed_s": [], "cpu_s": [], "peak_rss_bytes": []}
    rounds = []
    for number in range(arguments.rounds):
        mine, other = ours(model, threads), theirs(model, threads, arguments.cache)
        for name, values in ratios.items():
            values.append(mine[name] / other[name])
        rounds.append({side: {name: run[name] for name in ratios} for side, run in (("ours", mine), ("theirs", other))})
        print(f"round {number + 1}: {json.dumps(rounds[-1])}", flush=True)
    assert max(ratios["cpu_s"]) <= 0.5, ratios
    assert max(ratios["peak_rss_bytes"]) < 1, ratios
    medians = {f"{name}_ratio": statistics.median(values) for name, values in ratios.items()}
    print(json.dumps({**medians, "rounds": rounds, "threads": threads}))


if __name__ == "__main__":
    main()
