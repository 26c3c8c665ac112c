"""A weight as a matrix of numbers (`Linear.decoded`): nodes over constants, which the plugin folds when it compiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openvino as ov
from openvino import opset13 as opset

from ovround.exporters.openvino.compressed import ORDER

if TYPE_CHECKING:
    from ovround.exporters.openvino.ops import OpenVINOOps


def weight_matrix(ops: OpenVINOOps, at: str) -> ov.Node:
    """`{at}.weight` decoded, f32 `[N, K]`."""
    name, swapped = f"{at}.weight", ops.i64("order10", [1, 0])
    if name + ORDER not in ops.file.entries:
        return ops.weight(name)
    turned = opset.transpose(ops.weight(name), swapped)
    turned = opset.scatter_update(turned, ops.file.node(name + ORDER), turned, ops.i64("axis0", 0))
    return opset.transpose(turned, swapped)
