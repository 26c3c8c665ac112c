"""Measures the C++ runtime's cost of a token beyond a bare infer(), and its start-up time beside Python's.

    python benchmarks/cpp_overhead.py FOLDER --programs build/cpp

`ovround-overhead` alternates 16 tokens of LLM with a loop of infer() over the same 16, on one thread, in CPU time. Their ratio
is `overhead`; on a shared machine its noise is a few percent. `own_s`, the time of LLM outside of its infer(), is steady and
decides the exit status. Then `ovround-run` and `ovround run` generate one token each, in turns, timed from the start of the
process to its end. The last line is one JSON document; the exit status is 1 when own_s is not below --most of infer_s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path


def start_up_s(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--programs", type=Path, default=Path("build/cpp"))
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--most", type=float, default=0.03)
    given = parser.parse_args()
    measured = subprocess.run(
        [
            given.programs / "tests" / "ovround-overhead",
            given.folder,
            *map(str, (given.tokens, given.rounds, given.temperature)),
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    result = json.loads(measured.stdout)
    words = (given.folder, "Return the", "--raw", "--max-new-tokens", "1")
    native, python = [], []
    for _ in range(given.rounds):
        native.append(start_up_s(str(given.programs / "ovround-run"), *words))
        python.append(start_up_s(sys.executable, "-m", "ovround", "run", *words))
    result |= {
        "own_share": result["own_s"] / result["infer_s"],
        "start_up_s": statistics.median(native),
        "start_up_python_s": statistics.median(python),
    }
    print(json.dumps(result))
    return 0 if result["own_share"] < given.most else 1


if __name__ == "__main__":
    sys.exit(main())
