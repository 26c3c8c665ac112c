"""`Xielu` as OpenVINO nodes."""

from __future__ import annotations

from collections.abc import Sequence

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.ops import OpenVINOOps
from ovround.models.parts.dense import Xielu


def compute(ops: OpenVINOOps, verb: Xielu, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    """Any shape -> the same."""
    x, beta = inputs[0], ops.f32(f"xielu/{verb.beta!r}", verb.beta)
    positive, negative = (opset.softplus(ops.weight(f"{verb.at}.{name}")) for name in ("alpha_p", "alpha_n"))
    above = opset.multiply(positive, ops.activation(x, "relu2"))
    below = opset.multiply(opset.add(negative, beta), opset.subtract(opset.elu(x, 1.0), x))
    return opset.add(opset.add(above, below), opset.multiply(x, beta))
