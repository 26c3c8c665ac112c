"""A weight as a matrix of numbers, where it is no product with rows: nodes over constants, which the plugin folds on compiling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.compressed import ORDER

if TYPE_CHECKING:
    from ovround.exporters.openvino.ops import OpenVINOOps


def weight_matrix(ops: OpenVINOOps, at: str, inputs: int) -> ov.Node:
    """`{at}.weight` decoded, f32 `[N, inputs]`; of our native operator what it makes of the unit matrix."""
    name, swapped = f"{at}.weight", ops.i64("order10", [1, 0])
    if name not in ops.file.entries:
        unit = ops.f32(f"unit/{inputs}", np.eye(inputs, dtype=np.float32)[None])
        return opset.transpose(opset.squeeze(ops.linear(unit, at), ops.i64("axes0", [0])), swapped)
    if name + ORDER not in ops.file.entries:
        return ops.weight(name)
    turned = opset.transpose(ops.weight(name), swapped)
    turned = opset.scatter_update(turned, ops.file.node(name + ORDER), turned, ops.i64("axis0", 0))
    return opset.transpose(turned, swapped)
