"""A token of one layer `[N, K]` with affine weights, as GGUF's K-quants, against the 4-bit grid of the same size.

Each arm has copies of its weight that together exceed the caches. A round times every copy of each arm in turn, so that other
work on the machine affects all of them alike; the result is the median of the rounds' ratios to the first arm. Time is the
processor's, so that a core which is shared with others counts alike.

    cmake -S runtime/native -B build/native && cmake --build build/native
    python benchmarks/affine_layer.py build/native [--rows 4096] [--columns 4096] [--tokens 1] [--rounds 15] [--threads 1]

The last line is one JSON document: microseconds a product (median), the ratio, and bits a weight. `--check` asserts that Q4_K takes
at most 1.15 of the 4-bit grid's time in groups of 32, and each other type at most 1.15 times what its bits would take.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from gguf_blocks import random_affine
from native_library import ISAS, load_kernels, random_integers

from ovround.checkpoint.gguf.affine_blocks import AFFINE_KINDS
from ovround.tensors import native_layout as layout
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.qtensor import QTensor

CACHES = 96 << 20  # bytes of copies: more than the last-level cache
Call = Callable[[], None]


def arm(
    library: ctypes.CDLL, weight: QTensor | AffineTensor, x: np.ndarray, isa: str, threads: int
) -> tuple[list[Call], float]:
    """Calls of one product each, on copies of `weight`, and its bits a weight."""
    rows, columns = weight.shape
    y = np.empty((len(x), rows), np.float32)
    if isinstance(weight, QTensor):
        zeros = np.array([8], np.uint8) if weight.symmetric else layout.pack_qparams(weight.zeros())
        parts = [
            layout.pack_integers(weight.codes, weight.bits),
            layout.halves_as_bytes(layout.pack_qparams(weight.scales)),
            zeros,
        ]
        sizes = [rows, columns, weight.scales.shape[1], weight.bits, int(weight.symmetric)]
        function = library.ovround_integer_linear
    else:
        last = np.array([weight.zero_point], np.uint8)
        minimums = None if weight.minimums is None else layout.pack_group_values(weight.minimums)
        parts = [
            layout.pack_integers(weight.codes, weight.bits),
            layout.pack_group_values(weight.scales),
            last,
            minimums,
        ]
        sizes = [rows, columns, weight.scales.shape[1], weight.scales.blocks_a_row, weight.bits, 0]
        function = library.ovround_affine_linear
    size = sum(part.nbytes for part in parts if part is not None)
    calls = []
    for _ in range(max(2, -(-CACHES // size))):
        copies = [None if part is None else part.copy() for part in parts]
        pointers = [None if part is None else part.ctypes.data_as(ctypes.c_void_p) for part in copies]
        arguments = (
            *pointers, *map(ctypes.c_int64, sizes), x.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(x)),
            y.ctypes.data_as(ctypes.c_void_p), 0, ISAS.index(isa), ctypes.c_int64(threads),
        )  # fmt: skip

        def call(arguments: tuple[object, ...] = arguments, copies: object = copies) -> None:
            function(*arguments)

        calls.append(call)
    return calls, 8 * size / (rows * columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=Path)
    for name, default in (("rows", 4096), ("columns", 4096), ("tokens", 1), ("rounds", 15), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--isa", choices=ISAS)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    kernels = load_kernels(options.build)
    isa = options.isa or next(name for name in reversed(ISAS) if kernels.has(name))
    shape = (options.rows, options.columns)
    x = np.random.default_rng(0).standard_normal((options.tokens, options.columns)).astype(np.float32)
    weights: dict[str, QTensor | AffineTensor] = {
        f"4 bits, groups of {group}": random_integers(4, shape, group, symmetric=True) for group in (32, 128)
    }
    weights |= {kind: random_affine(kind, shape) for kind in AFFINE_KINDS}
    arms = {name: arm(kernels.library, weight, x, isa, options.threads) for name, weight in weights.items()}
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(options.rounds + 1):
        for name, (calls, _) in arms.items():
            started = time.process_time()
            for call in calls:
                call()
            if number:  # the first round warms up
                times[name].append((time.process_time() - started) / len(calls) * 1e6)
    first = next(iter(times))
    result = {}
    for name, found in times.items():
        ratio = statistics.median(a / b for a, b in zip(found, times[first], strict=True))
        result[name] = {
            "us": round(statistics.median(found)),
            "ratio": round(ratio, 3),
            "bits": round(arms[name][1], 3),
        }
        print(f"{name:24} {result[name]['us']:8} us  {ratio:.3f}  {arms[name][1]:.3f} bits")
    print(
        json.dumps({"isa": isa, "shape": shape, "tokens": options.tokens, "threads": options.threads, "arms": result})
    )
    if options.check:
        for kind in AFFINE_KINDS:
            bits = max(1.0, result[kind]["bits"] / result[first]["bits"])
            assert result[kind]["ratio"] <= 1.15 * bits, (kind, result[kind])


if __name__ == "__main__":
    main()
