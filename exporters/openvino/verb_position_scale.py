"""`PositionScale` as OpenVINO nodes."""

from __future__ import annotations

from collections.abc import Sequence

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.ops import OpenVINOOps
from ovround.models.parts.attention import PositionScale


def compute(ops: OpenVINOOps, verb: PositionScale, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    """`[B, T, K]` -> the same; OpenVINO merges what all layers repeat."""
    periods = opset.divide(
        ops.position_ids, ops.i64(f"period/{verb.period}", verb.period)
    )  # whole numbers: rounded down
    growth = opset.log(opset.add(opset.convert(periods, "f32"), ops.f32("one", 1.0)))
    factor = opset.add(ops.scale(growth, verb.beta), ops.f32("one", 1.0))
    return opset.multiply(inputs[0], opset.unsqueeze(factor, ops.i64("axis_last", -1)))
