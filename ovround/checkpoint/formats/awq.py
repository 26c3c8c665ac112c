"""AWQ checkpoints (AutoAWQ, GEMM version), and the layout that auto_round shares with them.

qweight int32 [K, N / 8]   eight outputs a word, in the order `ovround.tensors.packing.AWQ_ORDER`
qzeros  int32 [G, N / 8]   the same           scales float [G, N]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ovround.checkpoint.formats.packed import (
    FLOATS,
    Array,
    Part,
    assembled,
    groups_of,
    quantised_by,
    read_scheme,
    stored_scales,
)
from ovround.errors import CheckpointError
from ovround.tensors.packing import unpack_awq
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

AWQ_BITS = (4,)


class Format:
    """AutoAWQ's own folders: one scheme for all modules except those in `modules_to_not_convert`, and never the head."""

    mark = "qweight"

    def __init__(self, quantization: Mapping[str, Any]) -> None:
        version = str(quantization.get("version") or "gemm").lower()
        if version != "gemm":
            raise CheckpointError(
                f"quantization_config: AWQ version is `{version:.40}`; gemm can be read",
                hint="gemv, marlin and exllama hold the same integers in other orders: start from the GEMM checkpoint",
            )
        zero_point = quantization.get("zero_point", True)
        settings = {
            "bits": quantization.get("bits", quantization.get("w_bit")),
            "group_size": quantization.get("group_size", quantization.get("q_group_size", -1)),
            "sym": not zero_point if isinstance(zero_point, bool) else zero_point,
        }
        self._scheme = read_scheme(settings, AWQ_BITS, symmetric="sym", where="the model")
        kept = quantization.get("modules_to_not_convert") or []
        if not isinstance(kept, list):
            raise CheckpointError(f"quantization_config: modules_to_not_convert is {kept!r:.40}; a list is needed")
        self._kept = tuple(str(name) for name in kept)

    def scheme(self, module: str) -> QuantScheme | None:
        return None if any(name in module for name in self._kept) else self._scheme

    def parts(self, module: str, shape: tuple[int, int]) -> Mapping[str, Part]:
        return awq_parts(self.scheme(module), shape)

    def decode(self, module: str, shape: tuple[int, int], arrays: Mapping[str, Array]) -> QTensor:
        return decode_awq(self.scheme(module), shape, arrays)


def awq_parts(scheme: QuantScheme | None, shape: tuple[int, int]) -> dict[str, Part]:
    """The tensors of a weight `[N, K]` in this layout."""
    if scheme is None:
        return {}
    rows, columns = shape
    groups, words = groups_of(scheme, columns), -(-rows // 8)
    return {
        "qweight": Part(("I32",), (columns, words)),
        "qzeros": Part(("I32",), (groups, words)),
        "scales": Part(FLOATS, (groups, rows)),
    }


def decode_awq(scheme: QuantScheme | None, shape: tuple[int, int], arrays: Mapping[str, Array]) -> QTensor:
    """The weight `[N, K]` in these tensors; raises ValueError for what `assembled` refuses."""
    scheme = quantised_by(scheme)
    codes = np.ascontiguousarray(unpack_awq(arrays["qweight"], shape[0]).T)
    zero_points = unpack_awq(arrays["qzeros"], shape[0]).T
    return assembled(codes, np.ascontiguousarray(stored_scales(arrays["scales"]).T), zero_points, scheme)
