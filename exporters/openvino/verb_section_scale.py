"""`section_scale` as an OpenVINO product."""

from __future__ import annotations

from collections.abc import Sequence

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.ops import OpenVINOOps
from ovround.models.parts.section_scale import SectionScale


def compute(ops: OpenVINOOps, verb: SectionScale, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    """`[B, T, K]` -> the same."""
    return opset.multiply(inputs[0], ops.f32(f"sections/{verb.sizes}/{verb.factors}", verb.values()))
