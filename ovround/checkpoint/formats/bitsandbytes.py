"""Checkpoints of bitsandbytes, as QLoRA tools publish them: read as the numbers that they stand for.

4 bits (NF4 or FP4), two levels a byte with the first in the high nibble, blocks over the flattened weight:

    NAME.weight                                  U8 [N * K / 2, 1]
    NAME.weight.quant_map                        F32 [16]            the numbers of the levels
    NAME.weight.absmax                           F32 [blocks], or U8 where the scales are quantised too ("double quant")
    NAME.weight.nested_quant_map, .nested_absmax F32 [256], F32      the numbers of those, and their scales
    NAME.weight.quant_state.bitsandbytes__nf4    U8                  a JSON object: blocksize, shape, dtype, nested_offset ...

8 bits: NAME.weight I8 [N, K] and NAME.SCB F32 [N], the largest of each row: W = level * SCB / 127.

The levels are not evenly spaced, or their blocks run over rows, so no integer scheme keeps them. Source: bitsandbytes 0.50,
functional.py (QuantState, dequantize_4bit) and its CPU kernels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.files.element_types import TensorInfo
from ovround.checkpoint.formats.stored_weight import DecodedCheckpoint, Parts, StoredWeight, decoded, read_part
from ovround.checkpoint.hf import Checkpoint
from ovround.errors import CheckpointError, TensorError

_STATE = ".quant_state.bitsandbytes__"
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_MOST_STATE_BYTES = 1 << 16
_DAMAGED = "the checkpoint is damaged, or of a format that is not known here"


@dataclass(frozen=True, slots=True)
class FourBits:
    """A weight of 4-bit levels; `nested` is the block of the scales' own scales, 0 where those are floats."""

    kind: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    block: int
    nested: int = 0
    offset: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it is made of."""
        return (self.name, *self.scale_names)

    @property
    def scale_names(self) -> tuple[str, ...]:
        """Everything but the levels."""
        parts = ("quant_map", "absmax", *(("nested_quant_map", "nested_absmax") if self.nested else ()))
        return tuple(f"{self.name}.{part}" for part in parts)

    def check(self, parts: Parts) -> None:
        """Raise TensorError for parts of other sizes, and for a scale that is no number."""
        self._scales(parts)

    def values(self, parts: Parts) -> NDArray[np.float32]:
        """The numbers, rounded to `dtype` as bitsandbytes gives them when they are stored."""
        packed = parts[self.name][0].reshape(-1)
        levels = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1)[: math.prod(self.shape)]
        table = _floats(parts, f"{self.name}.quant_map", 16)
        scales = np.repeat(self._scales(parts), self.block)[: levels.size]
        values: NDArray[np.float32] = (table[levels] * scales).reshape(self.shape)
        return values

    def _scales(self, parts: Parts) -> NDArray[np.float32]:
        count = -(-math.prod(self.shape) // self.block)
        name = f"{self.name}.absmax"
        if not self.nested:
            scales = _floats(parts, name, count)
        else:
            codes, dtype = parts[name]
            if dtype != "U8" or codes.size != count:
                raise TensorError(f"`{name}` is {dtype} {list(codes.shape)}; U8 [{count}] is needed", hint=_DAMAGED)
            table = _floats(parts, f"{self.name}.nested_quant_map", 256)
            outer = _floats(parts, f"{self.name}.nested_absmax", -(-count // self.nested))
            scales = table[codes.reshape(-1)] * np.repeat(outer, self.nested)[:count] + np.float32(self.offset)
        if not np.isfinite(scales).all():
            raise TensorError(f"`{name}` holds a scale that is no number", hint=_DAMAGED)
        return scales


@dataclass(frozen=True, slots=True)
class EightBits:
    """A weight of int8 levels with one scale a row, in `scale`."""

    name: str
    scale: str
    shape: tuple[int, ...]
    kind: str = "bitsandbytes int8"
    dtype: str = "F32"

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it is made of."""
        return (self.name, self.scale)

    @property
    def scale_names(self) -> tuple[str, ...]:
        """The scales of the rows."""
        return (self.scale,)

    def check(self, parts: Parts) -> None:
        """Raise TensorError for another number of scales than rows."""
        _floats(parts, self.scale, self.shape[0])

    def values(self, parts: Parts) -> NDArray[np.float32]:
        """level * scale / 127."""
        scales = _floats(parts, self.scale, self.shape[0]) / np.float32(127)
        values: NDArray[np.float32] = parts[self.name][0].astype(np.float32) * scales[:, None]
        return values


def open_bitsandbytes(checkpoint: Checkpoint) -> DecodedCheckpoint:
    """`checkpoint` with its weights decoded as they are read; raises CheckpointError where none is of bitsandbytes."""
    infos = {name: info for file in checkpoint.files for name, info in file.tensors.items()}
    weights: dict[str, StoredWeight] = {}
    beside = []
    for name, info in infos.items():
        if _STATE in name:
            weight, _, kind = name.partition(_STATE)
            weights[weight] = _four_bits(checkpoint, weight, kind, name, infos)
            beside.append(name)
        elif name.endswith(".SCB"):
            weight = f"{name.removesuffix('.SCB')}.weight"
            weights[weight] = _eight_bits(weight, name, info, infos)
            beside.append(f"{name.removesuffix('.SCB')}.weight_format")
    if not weights:
        raise CheckpointError(
            f"`{checkpoint.folder}` is quantised by `bitsandbytes`, yet it has no weight of 4 or 8 bits",
            hint="remove quantization_config from its config.json if the weights are floats: "
            "transformers rounds them only when it loads them",
        )
    return decoded(checkpoint, weights, beside)


def _four_bits(
    checkpoint: Checkpoint, weight: str, kind: str, state_name: str, infos: Mapping[str, TensorInfo]
) -> FourBits:
    if infos[state_name].size_bytes > _MOST_STATE_BYTES:
        raise TensorError(f"`{state_name}` has {infos[state_name].size_bytes} bytes; it is a small JSON object")
    try:
        state = json.loads(read_part(checkpoint, state_name)[0].tobytes())
        shape, block = tuple(state["shape"]), state["blocksize"]
        nested, offset = state.get("nested_blocksize", 0), state.get("nested_offset", 0.0)
        dtype = _DTYPES[state["dtype"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TensorError(f"`{state_name}` is no state of a quantised weight: {error!r:.80}", hint=_DAMAGED) from error
    if not all(isinstance(size, int) and size > 0 for size in (*shape, block)) or not len(shape):
        raise TensorError(f"`{state_name}`: shape {shape!r:.40}, blocksize {block!r:.20}", hint=_DAMAGED)
    if not isinstance(nested, int) or nested < 0 or not isinstance(offset, int | float):
        raise TensorError(
            f"`{state_name}`: nested_blocksize {nested!r:.20}, nested_offset {offset!r:.20}", hint=_DAMAGED
        )
    stored = FourBits(f"bitsandbytes {kind.upper()}", weight, shape, dtype, block, nested, float(offset))
    missing = next((name for name in stored.names if name not in infos), None)
    if missing is not None:
        raise TensorError(
            f"`{checkpoint.folder}` has no tensor `{missing}`, which bitsandbytes calls for", hint=_DAMAGED
        )
    levels = infos[weight]
    if levels.dtype != "U8" or 2 * math.prod(levels.shape) != math.prod(shape) + math.prod(shape) % 2:
        raise TensorError(
            f"tensor `{weight}` is {levels.dtype} {list(levels.shape)}; {list(shape)} needs two levels a byte",
            hint=_DAMAGED,
        )
    return stored


def _eight_bits(weight: str, scale: str, info: TensorInfo, infos: Mapping[str, TensorInfo]) -> EightBits:
    levels = infos.get(weight)
    if levels is None or levels.dtype != "I8" or len(levels.shape) != 2 or info.shape != levels.shape[:1]:
        found = "missing" if levels is None else f"{levels.dtype} {list(levels.shape)}"
        raise TensorError(
            f"`{scale}` {list(info.shape)} and `{weight}` ({found}) do not belong together", hint=_DAMAGED
        )
    return EightBits(weight, scale, levels.shape)


def _floats(parts: Parts, name: str, count: int) -> NDArray[np.float32]:
    values, dtype = parts[name]
    if dtype != "F32" or values.size != count:
        raise TensorError(f"`{name}` is {dtype} {list(values.shape)}; F32 [{count}] is needed", hint=_DAMAGED)
    result: NDArray[Any] = values.reshape(-1)
    if not np.isfinite(result).all():
        raise TensorError(f"`{name}` holds NaN or infinity", hint=_DAMAGED)
    return result
