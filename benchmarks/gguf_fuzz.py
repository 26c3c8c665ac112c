"""How many damaged GGUF headers are read without anything but a HeaderError: by the million, on every core that is given.

FILE is a small one: each input is a copy of it.

    python benchmarks/gguf_fuzz.py FILE --count 10000000 --processes 2

The last line is JSON: inputs, refused ones, the longest time of one and the peak of memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from gguf_mutations import mutations

from ovround.checkpoint.gguf.header import parse_header, read_header
from ovround.errors import HeaderError


def fuzz(path: Path, count: int, seed: int) -> tuple[int, int, float]:
    """Inputs, refused ones, and the longest time of one in seconds."""
    end = min(info.offset for info in read_header(path).tensors.values())
    content = path.read_bytes()
    refused, slowest = 0, 0.0
    for words, damaged in mutations(content, end, count, seed):
        start = time.process_time()
        try:
            parse_header(path, memoryview(damaged))
        except HeaderError:
            refused += 1
        except Exception as error:
            raise SystemExit(f"{words}: {error!r}") from error
        slowest = max(slowest, time.process_time() - start)
    return count, refused, slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    share = arguments.count // arguments.processes
    work = [(arguments.file, share, arguments.seed + number) for number in range(arguments.processes)]
    start = time.monotonic()
    with multiprocessing.Pool(arguments.processes) as pool:
        results = pool.starmap(fuzz, work)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({
        "inputs": sum(count for count, *_ in results), "refused": sum(refused for _, refused, _ in results),
        "slowest_s": max(slowest for *_, slowest in results), "elapsed_s": round(time.monotonic() - start, 1), "peak_kb": peak,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
