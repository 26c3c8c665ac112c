"""`UnitNorm` as OpenVINO nodes, in the shape that the plugin's RMS fusion knows without a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import openvino as ov
from openvino import opset13 as opset

from ovround.models.parts.unit_norm import UnitNorm

if TYPE_CHECKING:
    from ovround.exporters.openvino.ops import OpenVINOOps


def compute(ops: OpenVINOOps, verb: UnitNorm, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    (x,), size = inputs, verb.size // verb.heads
    if verb.heads > 1:
        x = opset.reshape(x, ops.i64(f"split/{verb.heads}x{size}", [0, 0, verb.heads, size]), True)
    mean = opset.reduce_mean(opset.power(x, ops.f32("two", 2.0)), ops.i64("last_axis", [-1]), True)
    root = opset.sqrt(opset.add(mean, ops.f32(f"eps/{verb.eps!r}", verb.eps)))
    normal = opset.multiply(x, opset.divide(ops.f32("one", 1.0), root))
    if verb.heads == 1:
        return normal
    return opset.reshape(normal, ops.i64(f"joined/{verb.size}", [0, 0, verb.size]), True)
