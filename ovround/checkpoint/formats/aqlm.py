"""AQLM checkpoints (Hugging Face layout): additive codebooks, any number and size, such as 1x16, 2x8 and Kx8.

codes     int8|int16 [N / out, K / in, M]   codes from 2^(B-1) on are stored as negative numbers
codebooks float16 [M, 2^B, out, in]         scales float16 [N / out, 1, 1, 1]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ovround.checkpoint.formats.packed import FLOATS, Array, Part, float16_exactly
from ovround.errors import CheckpointError
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.scheme import QuantScheme

_SIZES = {"in_group_size": 1024, "out_group_size": 1024, "num_codebooks": 64, "nbits_per_codebook": 16}


class Format:
    """A folder of AQLM: one layout for every module that has codes."""

    mark = "codes"

    def __init__(self, quantization: Mapping[str, Any]) -> None:
        for key, most in _SIZES.items():
            value = quantization.get(key)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise CheckpointError(f"quantization_config: {key} is {value!r:.40}; 1 to {most} can be read")
        self._inputs, self._outputs, self._books, self._bits = (int(quantization[key]) for key in _SIZES)

    def scheme(self, module: str) -> QuantScheme | None:
        return None  # codebooks have no integer scheme

    def parts(self, module: str, shape: tuple[int, int]) -> Mapping[str, Part]:
        rows, columns = shape
        if rows % self._outputs or columns % self._inputs:
            raise CheckpointError(
                f"`{module}` [{rows}, {columns}] is no multiple of vectors of {self._outputs} outputs and {self._inputs} inputs"
            )
        groups = rows // self._outputs
        codes = ("I8",) if self._bits <= 8 else ("I16",)
        return {
            "codes": Part(codes, (groups, columns // self._inputs, self._books)),
            "codebooks": Part(FLOATS, (self._books, 1 << self._bits, self._outputs, self._inputs)),
            "scales": Part(FLOATS, (groups, 1, 1, 1)),
        }

    def decode(self, module: str, shape: tuple[int, int], arrays: Mapping[str, Array]) -> CodebookTensor:
        codes = arrays["codes"].astype(np.int32) & ((1 << self._bits) - 1)
        return CodebookTensor(
            codes.astype(np.uint16), float16_exactly(arrays["codebooks"]), float16_exactly(arrays["scales"]).reshape(-1)
        )
