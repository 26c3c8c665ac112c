"""Quantised products of both engines against float64 for all widths, groups, zero points and shapes; a bound for each mode.

The error is `mean((y - y64)^2) / mean(y64^2)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

EXACT = 1e-11  # float32 sums in another order: 1e-14 measured on whole models
FAST = 2.5e-3  # activations rounded to 8 bits in groups, products in bfloat16 where the processor has them
TOKENS = 3
Weight = QTensor | FloatTensor
Rows = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Product:
    """One weight `[N, K]`, an input `[1, T, K]`, and their product in float64."""

    name: str
    weight: Weight
    x: NDArray[np.float32]

    def expected(self) -> Rows:
        return self.x.astype(np.float64) @ dense(self.weight).T


def dense(weight: Weight) -> Rows:
    """The weight `[N, K]` in float64: (code - zero point) * scale for each group."""
    if isinstance(weight, FloatTensor):
        return weight.float32().astype(np.float64)
    rows, columns = weight.codes.shape
    codes = weight.codes.reshape(rows, -1, weight.group_size).astype(np.float64)
    middle = np.full(weight.scales.shape, 1 << (weight.bits - 1))
    zero_points = middle if weight.zero_points is None else weight.zero_points
    return ((codes - zero_points[..., None]) * weight.scales.astype(np.float64)[..., None]).reshape(rows, columns)


def products() -> list[Product]:
    rng, cases = np.random.default_rng(24), []
    for rows, columns in ((32, 64), (48, 128), (5, 256)):
        x = rng.standard_normal((1, TOKENS, columns)).astype(np.float32)
        for bits in (2, 3, 4, 8):
            for group in (16, 32, 64, columns):
                for symmetric in (True, False):
                    groups = columns // group
                    weight = QTensor(
                        rng.integers(0, 1 << bits, (rows, columns), dtype=np.uint8),
                        (rng.uniform(0.5, 1, (rows, groups)) / (1 << bits)).astype(np.float16),
                        None if symmetric else rng.integers(0, 1 << bits, (rows, groups), dtype=np.uint8),
                        bits,
                    )
                    cases.append(Product(f"{rows}x{columns}, {bits} bits, group {group}, {symmetric=}", weight, x))
        for dtype in (np.float32, np.float16):
            data = rng.standard_normal((rows, columns)).astype(dtype)
            kind: Any = np.dtype(dtype).name
            cases.append(Product(f"{rows}x{columns}, {kind}", FloatTensor(data, kind), x))
    return cases


def openvino(folder: Path, cases: list[Product], *, exact: bool) -> list[Rows]:
    import openvino as ov

    from ovround.measure.profiling.openvino import compiled
    from ovround.runtime.engines.openvino_devices import EXACT as EXACT_OPTIONS

    compiled(folder, [case.weight for case in cases], "CPU", 1)
    options: dict[str, Any] = dict(EXACT_OPTIONS) if exact else {}
    request = ov.Core().compile_model(folder / "probe.xml", "CPU", options).create_infer_request()
    for number, case in enumerate(cases):
        request.set_input_tensor(number, ov.Tensor(case.x))
    request.infer()
    return [request.get_output_tensor(number).data.astype(np.float64) for number in range(len(cases))]


def onnx(folder: Path, cases: list[Product], *, exact: bool) -> list[Rows]:
    import onnxruntime as ort

    from ovround.measure.profiling.onnx import compiled
    from ovround.runtime.engines.onnx_exact import exact_model

    compiled(folder, [case.weight for case in cases], "CPU", 1)
    path = folder / "probe.onnx"
    if exact:
        path.write_bytes(exact_model(path))
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs: Any = session.run(None, {f"x{number}": case.x for number, case in enumerate(cases)})
    return [output.astype(np.float64) for output in outputs]


def error(actual: Rows, expected: Rows) -> float:
    return float(np.mean((actual - expected) ** 2) / np.mean(expected**2))


@pytest.mark.parametrize(("exact", "bound"), [(True, EXACT), (False, FAST)], ids=["exact", "fast"])
@pytest.mark.parametrize("engine", [openvino, onnx])
def test_products_are_those_of_float64(
    tmp_path: Path, engine: Callable[..., list[Rows]], exact: bool, bound: float
) -> None:
    cases = products()
    outputs = engine(tmp_path, cases, exact=exact)
    assert len(outputs) == len(cases) >= 100
    errors = {case.name: error(output, case.expected()) for case, output in zip(cases, outputs, strict=True)}
    worst = max(errors, key=lambda name: errors[name])
    assert errors[worst] <= bound, (worst, errors[worst])


def test_one_level_is_beyond_the_bound() -> None:
    """A code that is changed by one, the smallest corruption, gives a larger error than the exact mode's bound."""
    for case in products():
        if isinstance(case.weight, QTensor):
            codes = case.weight.codes.copy()
            codes[0, 0] ^= 1
            changed = replace(case, weight=replace(case.weight, codes=codes))
            assert error(changed.expected(), case.expected()) > 10 * EXACT, case.name
