"""Measures the cost of two safety features: the check of a folder's manifest when loading, and the store of finished blocks.

    python benchmarks/safety_cost.py load FOLDER ... [--times 7] [--threads N]
    python benchmarks/safety_cost.py tune MODEL [-- convert options by name, such as recipe=light group_size=64]

`load`: each load runs in its own process, which has imported all libraries before. Loads with and without verification take
turns. The files are in memory (`warm`), or dropped from it before each load (`cold`, by posix_fadvise). Engines map weights, so
files that were not read while loading are read for the first token; so its time, loading included, is reported too. Ratios
are medians over the ratios of neighbouring loads.
`tune`: seconds of a conversion that are spent in the store of finished blocks: writing, syncing and reading back.

The last line printed is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOAD = """
import json, sys, time
from pathlib import Path
import openvino, onnxruntime, tokenizers, jinja2
import ovround.runtime.engines.openvino, ovround.runtime.engines.onnx
from ovround.runtime import LLM
folder, verify, threads = Path(sys.argv[1]), sys.argv[2] == "True", int(sys.argv[3]) or None
start, cpu = time.perf_counter(), time.process_time()
llm = LLM(folder, verify=verify, threads=threads)
loaded, used = time.perf_counter() - start, time.process_time() - cpu
llm.generate("The", max_new_tokens=1)
print(json.dumps([loaded, time.perf_counter() - start, used]))
llm.close()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    load = commands.add_parser("load")
    load.add_argument("folders", type=Path, nargs="+")
    load.add_argument("--times", type=int, default=7)
    load.add_argument("--threads", type=int, default=0)
    tune = commands.add_parser("tune")
    tune.add_argument("model")
    tune.add_argument("options", nargs="*")
    arguments = parser.parse_args()
    if arguments.command == "load":
        rows = [
            loads(folder, arguments.times, arguments.threads, cold=cold)
            for folder in arguments.folders
            for cold in (False, True)
        ]
    else:
        rows = [tuned(arguments.model, dict(option.split("=", 1) for option in arguments.options))]
    print(json.dumps(rows))


def loads(folder: Path, times: int, threads: int, *, cold: bool) -> dict[str, Any]:
    """Medians over `times` pairs of loads; the order alternates from pair to pair."""
    timings: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
    for pair in range(times):
        for verify in (True, False) if pair % 2 else (False, True):
            timings[verify].append(one_load(folder, threads, verify=verify, cold=cold))
    row: dict[str, Any] = {
        "folder": folder.name, "files": "cold" if cold else "warm",
        "mb": round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6),
    }  # fmt: skip
    for at, name in enumerate(("load", "first_token", "computing")):
        medians = (statistics.median(timing[at] for timing in timings[verify]) for verify in (True, False))
        row[f"{name}_with_s"], row[f"{name}_without_s"] = medians
        ratios = [a[at] / b[at] for a, b in zip(timings[True], timings[False], strict=True)]
        row[f"{name}_ratio"], row[f"{name}_ratios"] = statistics.median(ratios), [min(ratios), max(ratios)]
    print(
        f"{row['folder']}, {row['mb']} MB, {row['files']}: loaded in {row['load_with_s']:.2f} s with, "
        f"{row['load_without_s']:.2f} s without, {row['load_ratio']:.2f} times; first token {row['first_token_ratio']:.2f} "
        f"times; computing {row['computing_ratio']:.2f} times"
    )
    return row


def one_load(folder: Path, threads: int, *, verify: bool, cold: bool) -> tuple[float, float, float]:
    """Seconds until the model is loaded, seconds until the first token, and CPU seconds of loading."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    words = [sys.executable, "-c", LOAD, str(folder), str(verify), str(threads)]
    loaded, first, cpu = json.loads(
        subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )
    return loaded, first, cpu


def tuned(model: str, options: dict[str, str]) -> dict[str, Any]:
    """Seconds in the store by method, and their share of the conversion."""
    from ovround.conversion.convert import convert
    from ovround.options.convert_options import ConvertOptions
    from ovround.quant.block_store import BlockStore

    spent: dict[str, float] = {}

    def timed(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            try:
                return real(*arguments, **keywords)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

        return call

    for name in ("begin", "write", "read", "write_quality", "remove"):
        setattr(BlockStore, name, timed(name, getattr(BlockStore, name)))
    values = {name: json.loads(value) if value[0].isdigit() else value for name, value in options.items()}
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        convert(model, Path(scratch) / "out", ConvertOptions(**values))
        total_s = time.perf_counter() - start
    row = {
        "model": Path(model).name,
        "options": values,
        "whole_s": total_s,
        "spent_s": spent,
        "share": sum(spent.values()) / total_s,
    }
    print(
        f"{row['model']}: {sum(spent.values()):.3f} s of {total_s:.1f} s, {100 * sum(spent.values()) / total_s:.2f} %"
    )
    return row


if __name__ == "__main__":
    main()
