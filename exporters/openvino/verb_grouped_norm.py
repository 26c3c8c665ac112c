"""`grouped_norm` as OpenVINO nodes."""

from __future__ import annotations

from collections.abc import Sequence

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.nodes import named
from ovround.exporters.openvino.ops import OpenVINOOps
from ovround.models.parts.grouped_norm import GroupedNorm


def compute(ops: OpenVINOOps, verb: GroupedNorm, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    """`[B, T, size]` -> the same."""
    groups, width = verb.groups, verb.size // verb.groups
    parts = opset.reshape(inputs[0], ops.i64(f"split/{groups}x{width}", [0, 0, groups, width]), True)
    squares = opset.reduce_mean(opset.power(parts, ops.f32("two", 2.0)), ops.i64("last_axis", [-1]), True)
    root = opset.sqrt(opset.add(squares, ops.f32(f"{verb.at}/eps", verb.eps)))
    normal = opset.multiply(parts, opset.divide(ops.f32("one", 1.0), root))
    joined = opset.reshape(normal, ops.i64(f"joined/{verb.size}", [0, 0, verb.size]), True)
    return named(opset.multiply(joined, ops.weight(f"{verb.at}.weight")), verb.at)
