"""Times the products of one decoding step by the native operator and by OpenVINO's own 4-bit kernels.

Each model is a chain of the two large layers of a 1.1-billion-parameter Llama block. Each layer has its own random weights, so
that no cache holds them. The chains of all formats are compiled in one process and timed in turn. No model is converted, so
the script takes a minute.

    cmake -S runtime/native -B build/native && cmake --build build/native -j
    python benchmarks/native_chain.py build/native/libovround_operator.so [--rounds 20] [--threads 2] [--rows 1 16]

The last line printed is one JSON document: the median of each round's ratios, and the best time of each format.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from ovround.runtime.engines.native.openvino_versions import open_operator
from ovround.tensors import native_layout as layout
from ovround.tensors.quantized_linear_node import QuantizedLinear

SHAPES = [(5632, 2048), (2048, 5632)]
PAIRS, GROUP = 8, 128
RANDOM = np.random.default_rng(0)


def halves(*shape: int) -> Any:
    """Random float16 values between -0.01 and 0.01."""
    return (RANDOM.uniform(-0.01, 0.01, shape)).astype(np.float16)


def some_bytes(count: int) -> Any:
    return RANDOM.integers(0, 256, count, np.uint8)


def four_bits(x: Any, rows: int, columns: int) -> Any:
    tensor = ov.Tensor(ov.Type.i4, ov.Shape([rows, columns // GROUP, GROUP]))
    tensor.data.reshape(-1)[:] = some_bytes(rows * columns // 2).view(tensor.data.dtype)
    value = opset.multiply(
        opset.convert(opset.constant(tensor), "f16"), opset.constant(halves(rows, columns // GROUP, 1))
    )
    flat = opset.reshape(value, opset.constant(np.array([rows, columns])), False)
    return opset.matmul(x, opset.convert(flat, "f32"), False, True)


def native(x: Any, rows: int, columns: int, weights: str, parts: list[Any]) -> Any:
    sources = [x.output(0), *(opset.constant(part).output(0) for part in parts)]
    return QuantizedLinear(sources, weights=weights, outputs=rows, inputs=columns)


def integers(bits: int) -> Callable[[Any, int, int], Any]:
    def layer(x: Any, rows: int, columns: int) -> Any:
        codes = some_bytes(rows * columns * bits // 8).reshape(rows // 16, columns // 32, bits * 64)
        scales = layout.halves_as_bytes(halves(rows // 16, columns // GROUP, 16))
        return native(x, rows, columns, layout.INTEGERS[bits], [codes, scales, np.array([1 << (bits - 1)], np.uint8)])

    return layer


def codebooks(x: Any, rows: int, columns: int) -> Any:
    codes = some_bytes(rows * columns // 4).reshape(-1, columns // 8, 2, 64)
    books = RANDOM.standard_normal((2, 256, 1, 8)).astype(np.float16)
    parts = [codes, layout.halves_as_bytes(books), layout.halves_as_bytes(halves(rows))]
    return native(x, rows, columns, layout.CODEBOOK, parts)


ARMS: dict[str, Callable[[Any, int, int], Any]] = {
    "4 bits": four_bits, "4 bits native": integers(4), "3 bits native": integers(3), "2 bits native": integers(2),
    "8 bits native": integers(8), "AQLM 2x8 native": codebooks,
}  # fmt: skip


def compiled(core: Any, layer: Callable[[Any, int, int], Any], threads: int, path: Path) -> Any:
    x = start = opset.parameter([-1, SHAPES[0][1]], np.float32)
    for rows, columns in SHAPES * PAIRS:
        x = layer(x, rows, columns)
    # When the graph is read, the library's node replaces Python's.
    ov.serialize(ov.Model([opset.result(x)], [start], "chain"), path)
    return core.compile_model(core.read_model(path), "CPU", {"INFERENCE_NUM_THREADS": threads})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    open_operator(options.library.resolve())
    core = ov.Core()
    core.add_extension(str(options.library))
    with tempfile.TemporaryDirectory() as scratch:
        models = {
            name: compiled(core, layer, options.threads, Path(scratch, f"{name.replace(' ', '-')}.xml"))
            for name, layer in ARMS.items()
        }
        result: dict[str, Any] = {"rounds": options.rounds, "threads": options.threads}
        for rows in options.rows:
            x = RANDOM.standard_normal((rows, SHAPES[0][1])).astype(np.float32)
            times: dict[str, list[float]] = {name: [] for name in models}
            for number in range(options.rounds + 2):
                for name, model in models.items():
                    started = time.perf_counter()
                    model(x)
                    if number >= 2:
                        times[name].append(time.perf_counter() - started)
            for name, seconds in times.items():
                ratio = statistics.median(a / b for a, b in zip(seconds, times["4 bits"], strict=True))
                best = min(seconds) / min(times["4 bits"])
                result[f"{name}, {rows} rows"] = {"best_ms": 1e3 * min(seconds), "best_ratio": best, "ratio": ratio}
                print(
                    f"{name}, {rows} rows: best {1e3 * min(seconds):.2f} ms, ratio {best:.2f} of best, {ratio:.2f} median"
                )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
