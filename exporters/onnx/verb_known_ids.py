"""`KnownIds` as ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ovround.models.parts.known_ids import KnownIds

if TYPE_CHECKING:
    from ovround.exporters.onnx.ops import OnnxOps


def compute(ops: OnnxOps, verb: KnownIds, inputs: Sequence[str], layer: int) -> str:
    (ids,), at = inputs, f"known_ids/{layer}"
    known = ops.node("Less", [ids, ops.i64(f"known/{verb.count}", verb.count)], f"{at}/known")
    return ops.node("Where", [known, ids, ops.i64("zero", 0)], at)
