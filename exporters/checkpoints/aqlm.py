"""AQLM folders, as transformers reads them with the package `aqlm`; the layout is described in `checkpoint.formats.aqlm`.

Codes of up to 8 bits are stored in int8, of up to 16 in int16, so that a folder of 6-bit codes is larger than its weights need.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ovround.errors import UsageError
from ovround.exporters.checkpoints.layout import Array, Plan, Shapes, quantised
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

_BYTE_BITS = 8


class Format:
    """One layout of codebooks for every module that has any; nothing on an integer grid."""

    def __init__(self, plan: Plan, shapes: Shapes) -> None:
        for module, scheme in quantised(plan).items():
            raise UsageError(
                f"aqlm holds no integer grids, yet `{module}` has {scheme.bits} bits",
                hint="--codebooks 2x8:8; 16 bits leave a module in float",
            )
        self._layout: dict[str, int] = {}  # of the first weight, and so of all of them

    def stored(self, tensor: QTensor) -> QTensor:
        raise TypeError("aqlm holds no integer grids")

    def encode(self, module: str, tensor: QTensor) -> Mapping[str, Array]:
        raise TypeError(f"aqlm holds no integer grids, such as that of `{module}`")

    def encode_codebooks(self, module: str, weight: CodebookTensor) -> Mapping[str, Array]:
        """The tensors of a weight, by suffix; raises UsageError for other codebooks than the first weight's."""
        count, _, outputs, inputs = weight.codebooks.shape
        layout = {
            "in_group_size": inputs, "out_group_size": outputs, "num_codebooks": count,
            "nbits_per_codebook": weight.code_bits,
        }  # fmt: skip
        self._layout = self._layout or layout
        if layout != self._layout:
            raise UsageError(
                f"`{module}` has other codebooks than the modules before it; aqlm holds one layout for all"
            )
        return encode_codebooks(weight)

    def rest(self) -> Iterable[tuple[str, Array]]:
        return ()

    def settings(self, schemes: Mapping[str, QuantScheme], floats: Iterable[str]) -> dict[str, Any]:
        if not self._layout:
            return {}
        # transformers 4 compares this list with names of parameters, 5 with names of modules
        left = [name for module in floats for name in (module, f"{module}.weight")]
        return {"quant_method": "aqlm", **self._layout, "linear_weights_not_to_quantize": left}


def encode_codebooks(weight: CodebookTensor) -> Mapping[str, Array]:
    """The tensors of a weight, by suffix: codes int8 or int16, negative from half of the entries on."""
    bits = weight.code_bits
    codes = weight.codes.astype(np.int32)
    codes[codes >= 1 << (bits - 1)] -= 1 << bits
    return {
        "codes": codes.astype(np.int8 if bits <= _BYTE_BITS else np.int16),
        "codebooks": weight.codebooks,
        "scales": weight.scales.reshape(-1, 1, 1, 1),
    }
