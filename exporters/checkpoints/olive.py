"""Olive folders, which onnxruntime-genai's builder turns into ONNX for all of its families; layout: `checkpoint.formats.olive`.

Olive has the widths and blocks of ONNX Runtime: 3 bits lie in 4, and groups that are no block become several.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ovround.errors import UsageError
from ovround.exporters.checkpoints.layout import Array, Plan, Shapes, most_common, quantised, refuse_order
from ovround.models.decoder import EMBEDDING, HEAD
from ovround.tensors.packing import pack_rows
from ovround.tensors.qtensor import QTensor
from ovround.tensors.reexpression import split, widened
from ovround.tensors.scheme import QuantScheme

BLOCKS = (16, 32, 64, 128, 256)
_SPLITS = (128, 64, 32, 16)


class Format:
    """Any bits and symmetry, a head and an embedding; groups that a block of 16 or more divides; no activation order."""

    def __init__(self, plan: Plan, shapes: Shapes) -> None:
        for module, scheme in quantised(plan).items():
            columns = shapes[f"{module}.weight"][1]
            _block(columns if scheme.group_size == -1 else scheme.group_size, module)

    def stored(self, tensor: QTensor) -> QTensor:
        wide = widened(tensor, 4) if tensor.bits == 3 else tensor
        return split(wide, _block(wide.group_size, "a weight"))

    def encode(self, module: str, tensor: QTensor) -> Mapping[str, Array]:
        refuse_order("olive", module, tensor)
        # onnxruntime-genai 0.18 joins the zero points of q, k and v: implied ones are stored too
        return {
            "qweight": pack_rows(tensor.codes, tensor.bits),
            "scales": tensor.scales,
            "qzeros": pack_rows(tensor.zeros(), tensor.bits),
        }

    def rest(self) -> Iterable[tuple[str, Array]]:
        return ()

    def settings(self, schemes: Mapping[str, QuantScheme], floats: Iterable[str]) -> dict[str, Any]:
        general = most_common(schemes)
        overrides = {module: _plain(scheme) for module, scheme in schemes.items() if scheme != general}
        return {
            "quant_method": "olive", **_plain(general), "lm_head": HEAD in schemes, "embeds": EMBEDDING in schemes,
            **({"overrides": overrides} if overrides else {}),
        }  # fmt: skip


def _block(group_size: int, module: str) -> int:
    """The block size for groups of `group_size`; raises UsageError where none divides them."""
    if group_size in BLOCKS:
        return group_size
    block = next((size for size in _SPLITS if group_size % size == 0), None)
    if block is None:
        raise UsageError(
            f"`{module}` has groups of {group_size}, which no block of olive divides ({', '.join(map(str, BLOCKS))})",
            hint="compressed-tensors takes any",
        )
    return block


def _plain(scheme: QuantScheme) -> dict[str, Any]:
    return {"bits": scheme.bits, "group_size": scheme.group_size, "symmetric": scheme.symmetric}
