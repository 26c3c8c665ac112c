"""`GaussianTopK` as ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovround.models.parts.gaussian_top_k import GaussianTopK

if TYPE_CHECKING:
    from ovround.exporters.onnx.ops import OnnxOps


def compute(ops: OnnxOps, verb: GaussianTopK, inputs: Sequence[str], layer: int) -> str:
    (x,), axis = inputs, ops.i64("last", [-1])
    around = ops.node("Sub", [x, ops.node("ReduceMean", [x, axis], f"{x}/mean", keepdims=1)], f"{x}/around")
    squares = ops.node("Mul", [around, around], f"{x}/squares")
    deviation = ops.node(
        "Sqrt", [ops.node("ReduceMean", [squares, axis], f"{x}/variance", keepdims=1)], f"{x}/deviation"
    )
    kept = ops.node("Sub", [around, ops.scale(deviation, verb.quantile)], f"{x}/above")
    return ops.node("Relu", [kept], f"{x}/kept")
