"""Weights for the native operator as initializers of an ONNX model: `QuantizedLinear` of the domain `ovround`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import onnx

from ovround.errors import VerifyError
from ovround.exporters.native_parts import parts_of, read_native
from ovround.exporters.onnx.external_data import DataFile, Entry
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.qtensor import QTensor

_UINT8 = int(onnx.TensorProto.UINT8)


@dataclass(frozen=True, slots=True)
class NativeLayout:
    """A weight `[N, K]` for the operator; `bits` is 0 where it is made of codebooks."""

    shape: tuple[int, int]
    bits: int
    symmetric: bool


def write_native(file: DataFile, name: str, weight: QTensor | CodebookTensor) -> NativeLayout:
    """Append a weight's parts."""
    for part, data in parts_of(name, weight):
        file.write(part, _UINT8, data.shape, data)
    if isinstance(weight, CodebookTensor):
        return NativeLayout(weight.shape, 0, False)
    return NativeLayout(weight.shape, weight.bits, weight.symmetric)


def read_native_weight(
    source: BinaryIO, entries: Mapping[str, Entry], name: str, layout: NativeLayout
) -> QTensor | CodebookTensor:
    """Read weight `name` back from a written model; raises VerifyError when its parts are missing or contradict it."""
    try:
        return read_native(
            lambda part: entries[part].read(source).reshape(entries[part].shape),
            name,
            layout.shape,
            bits=layout.bits,
            symmetric=layout.symmetric,
        )
    except (KeyError, ValueError, IndexError) as error:
        raise VerifyError(f"weight `{name}` cannot be read back: {error!r}") from error
