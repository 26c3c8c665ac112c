"""`section_scale` as an ONNX product."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovround.exporters.onnx.ops import OnnxOps
from ovround.models.parts.section_scale import SectionScale


def compute(ops: OnnxOps, verb: SectionScale, inputs: Sequence[str], layer: int) -> str:
    """`[B, T, K]` -> the same."""
    factors = ops.f32(f"sections/{verb.sizes}/{verb.factors}", np.array(verb.values(), np.float32))
    return ops.node("Mul", [inputs[0], factors], f"{inputs[0]}/sections")
