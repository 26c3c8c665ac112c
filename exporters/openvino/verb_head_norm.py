"""`HeadNorm` as OpenVINO nodes."""

from __future__ import annotations

from collections.abc import Sequence

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.nodes import named
from ovround.exporters.openvino.ops import OpenVINOOps
from ovround.models.parts.norms import HeadNorm


def compute(ops: OpenVINOOps, verb: HeadNorm, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    """`[B, T, heads * size]` -> the same."""
    x, heads, size = inputs[0], verb.heads, verb.size
    if heads > 1:
        x = opset.reshape(x, ops.i64(f"split/{heads}x{size}", [0, 0, heads, size]), True)
    axes = ops.i64("last_axis", [-1])
    if verb.kind == "layer":
        normal = opset.mvn(x, axes, True, verb.eps, "INSIDE_SQRT")
    else:
        mean = opset.reduce_mean(opset.power(x, ops.f32("two", 2.0)), axes, True)
        root = opset.sqrt(opset.add(mean, ops.f32(f"eps/{verb.eps!r}", verb.eps)))
        normal = opset.multiply(x, opset.divide(ops.f32("one", 1.0), root))
    if heads > 1:
        normal = opset.reshape(normal, ops.i64(f"joined/{heads * size}", [0, 0, heads * size]), True)
    if not verb.at:
        return normal
    weight = opset.reshape(ops.weight(f"{verb.at}.weight"), ops.i64(f"flat/{heads * size}", [heads * size]), False)
    return named(opset.multiply(normal, weight), verb.at)
