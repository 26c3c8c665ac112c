"""Olive checkpoints, the layout of ONNX Runtime in a Hugging Face folder.

qweight uint8 [N, K * bits / 8]          little-endian streams along K (`ovround.tensors.packing.pack_rows`)
scales  float [N, G]                     qzeros uint8 [N, ceil(G * bits / 8)], may be absent where symmetric
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ovround.checkpoint.formats.packed import (
    Array,
    Part,
    assembled,
    groups_of,
    quantised_by,
    read_scheme,
    row_parts,
    stored_scales,
)
from ovround.errors import CheckpointError
from ovround.tensors.packing import unpack_rows
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

OLIVE_BITS = (2, 4, 8)


class Format:
    """A folder of Olive: `overrides` gives exceptions by exact name; head and embedding take part where `lm_head`, `embeds` say so."""

    mark = "qweight"

    def __init__(self, quantization: Mapping[str, Any]) -> None:
        overrides = quantization.get("overrides") or {}
        if not isinstance(overrides, Mapping) or not all(isinstance(value, Mapping) for value in overrides.values()):
            raise CheckpointError("quantization_config: overrides is no object of objects")
        self._general = {key: quantization[key] for key in ("bits", "group_size", "symmetric") if key in quantization}
        self._overrides: Mapping[str, Mapping[str, Any]] = overrides
        self._takes_part = {
            name: bool(quantization.get(flag)) for name, flag in (("lm_head", "lm_head"), ("embed_tokens", "embeds"))
        }

    def scheme(self, module: str) -> QuantScheme | None:
        if not self._takes_part.get(module.rpartition(".")[2], True):
            return None
        settings = {**self._general, **self._overrides.get(module, {})}
        return read_scheme(settings, OLIVE_BITS, symmetric="symmetric", where=f"`{module}`")

    def parts(self, module: str, shape: tuple[int, int]) -> Mapping[str, Part]:
        scheme = self.scheme(module)
        if scheme is None:
            return {}
        zeros = -(-groups_of(scheme, shape[1]) * scheme.bits // 8)
        return {
            **row_parts(scheme, shape, "qweight", "scales", "U8"),
            "qzeros": Part(("U8",), (shape[0], zeros), optional=scheme.symmetric),
        }

    def decode(self, module: str, shape: tuple[int, int], arrays: Mapping[str, Array]) -> QTensor:
        scheme = quantised_by(self.scheme(module))
        scales = stored_scales(arrays["scales"])
        zero_points = np.full(scales.shape, 1 << (scheme.bits - 1), np.uint8)
        if "qzeros" in arrays:
            zero_points = unpack_rows(arrays["qzeros"], scheme.bits, scales.shape[1])
        return assembled(unpack_rows(arrays["qweight"], scheme.bits, shape[1]), scales, zero_points, scheme)
