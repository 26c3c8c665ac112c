"""`KnownIds` as OpenVINO nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import openvino as ov
from openvino import opset13 as opset

from ovround.models.parts.known_ids import KnownIds

if TYPE_CHECKING:
    from ovround.exporters.openvino.ops import OpenVINOOps


def compute(ops: OpenVINOOps, verb: KnownIds, inputs: Sequence[ov.Node], layer: int) -> ov.Node:
    (ids,) = inputs
    known = opset.less(ids, ops.i64(f"known/{verb.count}", verb.count))
    return opset.select(known, ids, ops.i64("scalar0", 0))
