"""Weights that are stored as 4-bit or 8-bit floats with scales, read as the numbers that they stand for.

No integer grid holds such levels. So the checkpoint is read like one in floating point, and quantised from there. What is
recognised, by the tensors of a module:

| tensors | format | weight |
|---|---|---|
| `weight` F8, `weight_scale_inv` or `weight_scale` | FP8: DeepSeek, Qwen, compressed-tensors, modelopt, fbgemm | level * scale |
| `weight_packed` U8, `weight_scale` F8_E4M3, `weight_global_scale` | NVFP4 of compressed-tensors | level * (scale / global scale) |
| `weight` U8, `weight_scale` F8_E4M3, `weight_scale_2` | NVFP4 of modelopt | level * (scale * second scale) |
| `weight_packed` U8, `weight_scale` U8 or F8_E8M0 | MXFP4 of compressed-tensors | level * 2^(scale - 127), a bfloat16 number |

A scale serves a tensor, a row, or a block; `weight_block_size` states the block, or the scales' shape implies it. The products are
rounded to float32, as compressed-tensors and transformers compute them. modelopt's `pre_quant_scale`, by which a layer's input
would be multiplied, multiplies the weight's columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.files.element_types import ARRAY_TYPES, FLOAT_TYPES, TensorInfo, as_float
from ovround.checkpoint.formats.small_floats import TABLES, decode_e8m0, decode_fp4, decode_fp8
from ovround.checkpoint.formats.stored_weight import DecodedCheckpoint, Parts, StoredWeight, decoded
from ovround.checkpoint.hf import Checkpoint
from ovround.errors import TensorError

_E8M0 = ("F8_E8M0", "U8")
_NVFP4_GROUP, _MXFP4_GROUP = 16, 32
_BESIDE = ("weight_zero_point", "weight_shape")  # of old compressed-tensors; a float's zero point is 0
_DAMAGED = "the checkpoint is damaged, or of a format that is not known here"


@dataclass(frozen=True, slots=True)
class StoredFloats:
    """A weight `[..., N, K]`: the names of its levels and scales, and the outputs and inputs of a block that share a scale."""

    kind: str
    levels: str
    scale: str
    shape: tuple[int, ...]
    block: tuple[int, int]
    tensor_scale: str = ""
    divides: bool = False  # by the scale of the whole tensor, instead of multiplying with it
    column_scale: str = ""

    @property
    def dtype(self) -> str:
        """What the numbers are read as: MXFP4's are exactly bfloat16."""
        return "BF16" if self.kind == "MXFP4" else "F32"

    @property
    def highest(self) -> float:
        """The size of the highest level."""
        return 57344.0 if "e5m2" in self.kind else 448.0 if self.kind.startswith("FP8") else 6.0

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it is made of."""
        return tuple(filter(None, (self.levels, self.scale, self.tensor_scale, self.column_scale)))

    @property
    def scale_names(self) -> tuple[str, ...]:
        """The tensors that scale the levels, `column_scale` aside."""
        return tuple(filter(None, (self.scale, self.tensor_scale)))

    def check(self, parts: Parts) -> None:
        """Raise TensorError where a level times its scale would be no number."""
        _scales(self, parts)

    def values(self, parts: Parts) -> NDArray[np.float32]:
        """The numbers `[N, K]`, or `[E, N, K]` where all experts are read at once."""
        codes, kind = parts[self.levels]
        values = decode_fp8(codes, kind) if kind in TABLES else decode_fp4(codes)
        values *= _spread(_scales(self, parts), self.block, values.shape)
        if self.column_scale:
            values *= _numbers(*parts[self.column_scale]).reshape(-1)
        return values


def open_decoded(checkpoint: Checkpoint, block_size: object = None) -> DecodedCheckpoint | None:
    """`checkpoint` with its small floats decoded as they are read; None where it has none.

    `block_size` is the configuration's `weight_block_size`. Raises TensorError for parts that do not belong together.
    """
    infos = {name: info for file in checkpoint.files for name, info in file.tensors.items()}
    weights: dict[str, StoredWeight] = {}
    for name, info in infos.items():
        stored = _recognised(name, info, infos, block_size)
        if stored is not None:
            weights[f"{name.rpartition('.')[0]}.weight"] = stored
    if not weights:
        return None
    return decoded(checkpoint, weights, (f"{name.removesuffix('weight')}{end}" for name in weights for end in _BESIDE))


def _recognised(
    name: str, info: TensorInfo, infos: Mapping[str, TensorInfo], block_size: object
) -> StoredFloats | None:
    """The weight whose levels `name` holds; None for every other tensor."""
    module, _, last = name.rpartition(".")

    def beside(suffix: str) -> str:
        return f"{module}.{suffix}" if f"{module}.{suffix}" in infos else ""

    scale, columns = beside("weight_scale_inv") or beside("weight_scale"), beside("pre_quant_scale")
    if not scale or last not in ("weight", "weight_packed") or len(info.shape) < 2:
        return None
    if last == "weight" and info.dtype in TABLES:
        kind = f"FP8 ({info.dtype.removeprefix('F8_').lower()})"
        block = _block(name, info.shape, scale, infos[scale], block_size)
        return StoredFloats(kind, name, scale, info.shape, block, column_scale=columns)
    if info.dtype != "U8":
        return None
    shape = (*info.shape[:-1], 2 * info.shape[-1])
    if infos[scale].dtype == "F8_E4M3":
        second, divides = beside("weight_scale_2"), False
        if not second:
            second, divides = beside("weight_global_scale"), True
        if not second:
            raise TensorError(f"`{name}` is NVFP4, and the scale of the whole tensor is missing", hint=_DAMAGED)
        _check_groups(name, shape, scale, infos[scale], _NVFP4_GROUP)
        return StoredFloats("NVFP4", name, scale, shape, (1, _NVFP4_GROUP), second, divides, columns)
    if infos[scale].dtype in _E8M0 and last == "weight_packed":
        _check_groups(name, shape, scale, infos[scale], _MXFP4_GROUP)
        return StoredFloats("MXFP4", name, scale, shape, (1, _MXFP4_GROUP), column_scale=columns)
    return None


def _check_groups(name: str, shape: tuple[int, ...], scale: str, info: TensorInfo, group: int) -> None:
    if info.shape != (*shape[:-1], shape[-1] // group) or shape[-1] % group:
        raise _apart(name, shape, scale, info)


def _block(name: str, shape: tuple[int, ...], scale: str, info: TensorInfo, block_size: object) -> tuple[int, int]:
    """The outputs and inputs that share a scale; raises TensorError where the scales' shape leaves it open."""
    rows, columns = shape[-2:]
    if info.dtype not in FLOAT_TYPES and info.dtype not in _E8M0:
        raise TensorError(f"tensor `{scale}` is {info.dtype}; scales are {', '.join((*FLOAT_TYPES, *_E8M0))}")
    if math.prod(info.shape[len(shape) - 2 :]) == 1 and info.shape[: len(shape) - 2] in ((), shape[:-2]):
        return rows, columns
    grid = (rows, 1) if info.shape == (rows,) else info.shape[-2:]
    if info.shape not in ((rows,), (*shape[:-2], *grid)) or not all(grid):
        raise _apart(name, shape, scale, info)
    stated = block_size if isinstance(block_size, list) and len(block_size) == 2 else [0, 0]
    fits = all(isinstance(size, int) and size > 0 for size in stated)
    if fits and grid == (-(-rows // stated[0]), -(-columns // stated[1])):
        return stated[0], stated[1]
    if rows % grid[0] or columns % grid[1]:
        raise _apart(name, shape, scale, info)
    return rows // grid[0], columns // grid[1]


def _apart(name: str, shape: tuple[int, ...], scale: str, info: TensorInfo) -> TensorError:
    return TensorError(f"`{name}` {list(shape)} and `{scale}` {list(info.shape)} do not belong together", hint=_DAMAGED)


def _scales(stored: StoredFloats, parts: Parts) -> NDArray[np.float32]:
    """One number a block; raises TensorError where a level times its scale would be no number."""
    scale = _numbers(*parts[stored.scale])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if stored.tensor_scale:
            whole = _numbers(*parts[stored.tensor_scale]).reshape(-1)
            if whole.size != 1:
                raise TensorError(f"`{stored.tensor_scale}` has {whole.size} values; 1 is needed", hint=_DAMAGED)
            scale = scale / whole[0] if stored.divides else scale * whole[0]
        highest = scale * np.float32(stored.highest)
    if not np.isfinite(highest).all():
        raise TensorError(
            f"`{stored.scale}` ({stored.kind}) has a scale with which a level is no float32 number: "
            f"{scale[~np.isfinite(highest)].flat[0]:g}",
            hint=_DAMAGED,
        )
    return scale


def _spread(scale: NDArray[np.float32], block: tuple[int, int], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """One scale a block as something that can be multiplied with weights of `shape`."""
    rows, columns = shape[-2:]
    grid = (-(-rows // block[0]), -(-columns // block[1]))
    scale = scale.reshape(*(shape[:-2] if scale.size > math.prod(grid) else ()), *grid)
    for axis, size in ((-2, block[0]), (-1, block[1])):
        if scale.shape[axis] > 1:
            scale = np.repeat(scale, size, axis=axis)
    return np.ascontiguousarray(scale[..., :rows, :columns])


def _numbers(data: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    if dtype in _E8M0:
        return decode_e8m0(data)
    if dtype in TABLES:
        return decode_fp8(data, dtype)
    if dtype not in FLOAT_TYPES:
        raise TensorError(
            f"a scale is {dtype}; {', '.join(name for name in ARRAY_TYPES if name in FLOAT_TYPES)} can be read"
        )
    return as_float(data, dtype).float32()
