"""`PositionScale` as ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from ovround.exporters.onnx.ops import OnnxOps
from ovround.models.parts.attention import PositionScale

_FLOAT = int(onnx.TensorProto.FLOAT)


def compute(ops: OnnxOps, verb: PositionScale, inputs: Sequence[str], layer: int) -> str:
    """`[B, T, K]` -> the same; ONNX Runtime merges what all layers repeat."""
    at = f"model.layers.{layer}.self_attn/position_scale"
    periods = ops.node("Div", [ops.positions(), ops.i64(f"period/{verb.period}", verb.period)], f"{at}/periods")
    periods = ops.node("Cast", [periods], f"{at}/periods_float", to=_FLOAT)
    growth = ops.node("Log", [ops.node("Add", [periods, ops.f32("one", 1.0)], f"{at}/above")], f"{at}/growth")
    growth = ops.node("Mul", [growth, ops.f32(f"beta/{verb.beta!r}", verb.beta)], f"{at}/scaled")
    factor = ops.node("Add", [growth, ops.f32("one", 1.0)], f"{at}/factor")
    column = ops.node("Unsqueeze", [factor, ops.i64("axis2", [2])], f"{at}/column")
    return ops.node("Mul", [inputs[0], column], at)
