"""`ScaleBy` as an ONNX node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovround.models.parts.scale_by import ScaleBy

if TYPE_CHECKING:
    from ovround.exporters.onnx.ops import OnnxOps


def compute(ops: OnnxOps, verb: ScaleBy, inputs: Sequence[str], layer: int) -> str:
    return ops.node("Mul", [inputs[0], ops.float_weight(verb.tensor)], f"{verb.tensor}/product")
