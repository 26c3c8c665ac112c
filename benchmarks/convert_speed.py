"""Compares `ovround convert --recipe rtn` with optimum-intel's export at the same bits: seconds and memory.

Both sides convert the same checkpoint to int4 with the same group size; a large random one from `random_llama.py` is best.
They run in turn, as whole processes on the same number of cores. Optimum leaves embedding and head in int8, as we do by
default. Peak memory is also given above the import floor, which is the memory of a process with all libraries loaded.

    python benchmarks/random_llama.py MODEL
    python benchmarks/convert_speed.py MODEL [--rounds 3] [--threads 2]

Asserts that every ratio of seconds and of memory is below 1. The last line printed is one JSON document.
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

from ovround.checkpoint import open_checkpoint

FLOOR = """
import json
import onnx, openvino, openvino_tokenizers, torch, transformers
from transformers import AutoTokenizer
import ovround.conversion.convert, ovround.exporters.openvino.package, ovround.quant.passes.tuning
print(json.dumps({}))
"""


def ours(model: Path, group_size: int, threads: int) -> dict[str, Any]:
    """Figures of one conversion by ovround."""
    with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
        command = [sys.executable, "-m", "ovround", "convert", str(model), f"{scratch}/out", "--recipe", "rtn"]
        return peers.measured([*command, "--group-size", str(group_size), "--quiet", "--json"], threads)


def optimum(model: Path, group_size: int, threads: int, cache: Path | None) -> dict[str, Any]:
    """Figures of one export by optimum-intel; seconds and bytes are those of its own process."""
    with tempfile.TemporaryDirectory(dir=model.parent) as scratch:
        answer = peers.run(
            "optimum-intel", "optimum_export", cache=cache, threads=threads, model=str(model), out=f"{scratch}/out",
            group_size=group_size,
        )  # fmt: skip
    return answer | {"elapsed_s": answer["export_s"], "peak_rss_bytes": answer["export_peak_rss_bytes"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="where peers' environments are kept")
    arguments = parser.parse_args()
    model = arguments.model.resolve()
    floor = peers.measured([sys.executable, "-c", FLOOR], arguments.threads)["peak_rss_bytes"]
    seconds, memory, above = [], [], []
    for number in range(arguments.rounds):
        mine = ours(model, arguments.group_size, arguments.threads)
        theirs = optimum(model, arguments.group_size, arguments.threads, arguments.cache)
        seconds.append(mine["elapsed_s"] / theirs["elapsed_s"])
        memory.append(mine["peak_rss_bytes"] / theirs["peak_rss_bytes"])
        above.append(mine["peak_rss_bytes"] - floor)
        print(
            f"round {number + 1}: ours {mine['elapsed_s']:.1f} s, {mine['peak_rss_bytes'] / 1e6:.0f} MB; "
            f"optimum {theirs['elapsed_s']:.1f} s, {theirs['peak_rss_bytes'] / 1e6:.0f} MB",
            flush=True,
        )
    size = open_checkpoint(model).size_bytes()
    result = {
        "seconds_ratio": statistics.median(seconds),
        "memory_ratio": statistics.median(memory),
        "above_floor_bytes": statistics.median(above),
        "above_floor_share_of_checkpoint": statistics.median(above) / size,
        "floor_bytes": floor,
        "checkpoint_bytes": size,
        "rounds": arguments.rounds,
        "threads": arguments.threads,
    }
    assert max(seconds) < 1, seconds
    assert max(memory) < 1, memory
    print(json.dumps(result))


if __name__ == "__main__":
    main()
