"""AWQ folders (GEMM version), as AutoAWQ, GPTQModel, vLLM and onnxruntime-genai's builder read them.

AWQ has 4 bits, stored zero points, and one group size for all: fewer bits are widened, larger groups split.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ovround.errors import UsageError
from ovround.exporters.checkpoints.gptq import transposed
from ovround.exporters.checkpoints.layout import (
    Array,
    Plan,
    Shapes,
    check_words,
    quantised,
    refuse_order,
)
from ovround.models.decoder import EMBEDDING, HEAD
from ovround.tensors.packing import pack_awq
from ovround.tensors.qtensor import QTensor
from ovround.tensors.reexpression import split, widened, with_zero_points
from ovround.tensors.scheme import QuantScheme

BITS, SMALLEST_GROUP = 4, 16


class Format:
    """At most 4 bits; no head, no embedding, no activation order."""

    def __init__(self, plan: Plan, shapes: Shapes) -> None:
        check_words("awq", plan, shapes, EMBEDDING, HEAD)
        sizes = set()
        for module, scheme in quantised(plan).items():
            if scheme.bits > BITS:
                raise UsageError(f"awq has 4 bits, `{module}` has {scheme.bits}", hint="auto_round and gptq take any")
            columns = shapes[f"{module}.weight"][1]
            sizes.add((-1, columns) if scheme.group_size == -1 else (scheme.group_size, scheme.group_size))
        whole_rows = bool(sizes) and all(stated == -1 for stated, _ in sizes)
        self._group_size = -1 if whole_rows else math.gcd(*(size for _, size in sizes))
        if 0 < self._group_size < SMALLEST_GROUP:
            raise UsageError(
                f"awq has one group size, and {self._group_size} is the largest that divides those of all layers",
                hint="auto_round and gptq take any",
            )

    def stored(self, tensor: QTensor) -> QTensor:
        if tensor.bits > BITS:
            raise UsageError(f"awq has 4 bits, a weight has {tensor.bits}", hint="auto_round and gptq take any")
        whole = with_zero_points(widened(tensor, BITS))
        return whole if self._group_size == -1 else split(whole, self._group_size)

    def encode(self, module: str, tensor: QTensor) -> Mapping[str, Array]:
        refuse_order("awq", module, tensor)
        return {
            "qweight": pack_awq(np.ascontiguousarray(tensor.codes.T)),
            "qzeros": pack_awq(np.ascontiguousarray(tensor.zeros().T)),
            "scales": transposed(tensor.scales),
        }

    def rest(self) -> Iterable[tuple[str, Array]]:
        return ()

    def settings(self, schemes: Mapping[str, QuantScheme], floats: Iterable[str]) -> dict[str, Any]:
        return {
            "quant_method": "awq", "bits": BITS, "group_size": self._group_size, "zero_point": True, "version": "gemm",
            "modules_to_not_convert": [*floats],
        }  # fmt: skip
