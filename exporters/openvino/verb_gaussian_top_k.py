"""`GaussianTopK` as OpenVINO nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import openvino as ov
from openvino import opset13 as opset

from ovround.models.parts.gaussian_top_k import GaussianTopK

if TYPE_CHECKING:
    from ovround.exporters.openvino.ops import OpenVINOOps


def compute(ops: OpenVINOOps, verb: GaussianTopK, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    (x,), axis = inputs, ops.i64("last_axis", [-1])
    around = opset.subtract(x, opset.reduce_mean(x, axis, True))
    deviation = opset.sqrt(opset.reduce_mean(opset.power(around, ops.f32("two", 2.0)), axis, True))
    return opset.relu(opset.subtract(around, ops.scale(deviation, verb.quantile)))
