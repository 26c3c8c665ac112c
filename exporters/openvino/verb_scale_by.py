"""`ScaleBy` as OpenVINO nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.nodes import named
from ovround.models.parts.scale_by import ScaleBy

if TYPE_CHECKING:
    from ovround.exporters.openvino.ops import OpenVINOOps


def compute(ops: OpenVINOOps, verb: ScaleBy, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    return named(opset.multiply(inputs[0], ops.weight(verb.tensor)), f"{verb.tensor}/product")
