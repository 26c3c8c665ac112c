"""The protocol of a quantised checkpoint format that is read: which tensors make a weight, and how they become one.

A format is a file beside this one with a class `Format`, made from the `quantization_config` of config.json. It never opens
a file: the reader in `quantised.py` checks names, types and shapes against `parts`, and hands over the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.files.element_types import FLOAT_TYPES
from ovround.checkpoint.pattern import Pattern
from ovround.errors import CheckpointError
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.float_tensor import STORAGE, FloatTensor
from ovround.tensors.qtensor import QTensor, Scales, narrowest
from ovround.tensors.scheme import QuantScheme

Array = NDArray[Any]
Packed = QTensor | AffineTensor | CodebookTensor
FLOATS = tuple(FLOAT_TYPES)
_FLOAT_TYPES = {np.dtype(storage).name: dtype for dtype, storage in STORAGE.items()}


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a packed weight: the safetensors types and the shape that it may have."""

    dtypes: tuple[str, ...]
    shape: tuple[int, ...]
    optional: bool = False


class Format(Protocol):
    """A format, opened for one checkpoint. Every method may raise CheckpointError for what cannot be read."""

    mark: str
    """The suffix of the tensor that shows a module to be packed, such as `qweight`."""

    def scheme(self, module: str) -> QuantScheme | None:
        """The scheme that the configuration gives `module`; None where it stays in float."""
        ...

    def parts(self, module: str, shape: tuple[int, int]) -> Mapping[str, Part]:
        """The tensors of a packed weight `[N, K]`, by suffix."""
        ...

    def decode(self, module: str, shape: tuple[int, int], arrays: Mapping[str, Array]) -> Packed:
        """The weight in `arrays`, by suffix; raises ValueError for contents that contradict each other."""
        ...


@dataclass(frozen=True, slots=True)
class Rule:
    """Settings for the modules that `pattern` matches; `stays_float` overrides them."""

    pattern: Pattern
    settings: Mapping[str, Any]
    stays_float: bool = False


def compiled(pattern: object) -> Pattern:
    """A regular expression of a configuration; raises CheckpointError for invalid ones."""
    return Pattern(str(pattern))


def read_scheme(
    settings: Mapping[str, Any], allowed: Sequence[int], *, symmetric: str, where: str
) -> QuantScheme | None:
    """The scheme in `settings`, whose key for symmetry is `symmetric`; None for 16 bits and more.

    Raises CheckpointError for invalid values.
    """
    bits, group_size, sym = settings.get("bits"), settings.get("group_size", -1), settings.get(symmetric, True)
    if isinstance(bits, int) and not isinstance(bits, bool) and bits >= 16:
        return None
    if not isinstance(bits, int) or isinstance(bits, bool) or bits not in allowed:
        raise CheckpointError(
            f"quantization_config: bits of {where} are {bits!r:.40}; {', '.join(map(str, allowed))} can be read"
        )
    if not isinstance(group_size, int) or isinstance(group_size, bool) or not (group_size == -1 or group_size > 0):
        raise CheckpointError(f"quantization_config: group_size of {where} is {group_size!r:.40}; -1 or more is needed")
    if not isinstance(sym, bool):
        raise CheckpointError(f"quantization_config: {symmetric} of {where} is {sym!r:.40}; true or false is needed")
    return QuantScheme(bits, group_size, sym)


def quantised_by(scheme: QuantScheme | None) -> QuantScheme:
    """The scheme of a packed weight; raises ValueError where the configuration gives it none."""
    if scheme is None:
        raise ValueError("it is packed, yet its configuration leaves it in float")
    return scheme


def row_parts(scheme: QuantScheme, shape: tuple[int, int], codes: str, scales: str, word: str) -> dict[str, Part]:
    """Each row's codes as a stream along K in words of type `word`, and its scales `[N, G]`, under these names."""
    rows, columns = shape
    width = {"U8": 8, "I32": 32}[word]
    return {
        codes: Part((word,), (rows, -(-columns * scheme.bits // width))),
        scales: Part(FLOATS, (rows, groups_of(scheme, columns))),
    }


def group_of(scheme: QuantScheme, columns: int) -> int:
    """Inputs a group: all of them for -1, and for a group size beyond them."""
    return columns if scheme.group_size == -1 else min(scheme.group_size, columns)


def groups_of(scheme: QuantScheme, columns: int) -> int:
    """Groups a row; the last one may be short."""
    return -(-columns // group_of(scheme, columns))


def float16_exactly(values: Array) -> NDArray[np.float16]:
    """Values as float16; raises ValueError where that would round, or where one is not finite."""
    wide = FloatTensor(values, _FLOAT_TYPES[values.dtype.name]).float32()
    if not np.isfinite(wide).all():
        raise ValueError("scales hold NaN or infinity")
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float16)
    lost = int((narrow.astype(np.float32) != wide).sum())
    if lost:
        raise ValueError(f"{lost} of {wide.size} scales are no float16 numbers, and would be rounded")
    return narrow


def stored_scales(values: Array) -> Scales:
    """Scales as float16 where that is exact for all of them, as float32 otherwise; raises ValueError for one that is not finite."""
    wide = FloatTensor(values, _FLOAT_TYPES[values.dtype.name]).float32()
    if not np.isfinite(wide).all():
        raise ValueError("scales hold NaN or infinity")
    return narrowest(wide)


def assembled(
    codes: NDArray[np.uint8],
    scales: Scales,
    zero_points: NDArray[Any],
    scheme: QuantScheme,
) -> QTensor:
    """A weight from codes `[N, K]`, scales `[N, G]` and zero points `[N, G]` of any integer type.

    A last group that is short, and a zero point of `2^bits`, which no container of `bits` holds, are re-expressed. Raises
    ValueError where a symmetric weight has other zero points than `2^(bits-1)`.
    """
    columns, bits, group = codes.shape[1], scheme.bits, group_of(scheme, codes.shape[1])
    if scheme.symmetric:
        wrong = int((zero_points != 1 << (bits - 1)).sum())
        if wrong:
            raise ValueError(f"{wrong} zero points are not {1 << (bits - 1)}, which a symmetric {bits}-bit scheme has")
    common = int(np.gcd(group, columns))
    if common != group:
        times = group // common
        scales = np.repeat(scales, times, axis=1)[:, : columns // common]
        zero_points = np.repeat(zero_points, times, axis=1)[:, : columns // common]
    if scheme.symmetric:
        return QTensor(codes, scales, None, bits)
    top = int(zero_points.max(initial=0))
    if top > 255:
        raise ValueError(f"zero point {top} does not fit 8 bits")
    width = bits if top < 1 << bits else 8
    return QTensor(codes, scales, np.ascontiguousarray(zero_points, np.uint8), width)


def grouped_columns(
    codes: NDArray[np.uint8], group_of_column: NDArray[np.integer[Any]], scheme: QuantScheme
) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
    """Codes with the columns of each group together, and their new order; None where they were together already.

    Raises ValueError when the groups are not those of the configuration.
    """
    columns = codes.shape[1]
    group, groups = group_of(scheme, columns), groups_of(scheme, columns)
    regular = np.arange(columns) // group
    if np.array_equal(group_of_column, regular):
        return codes, None
    if not np.array_equal(np.sort(group_of_column), regular):
        low, high = int(group_of_column.min()), int(group_of_column.max())
        raise ValueError(f"g_idx goes from {low} to {high}; {groups} groups of {group} inputs each are needed")
    order = np.argsort(group_of_column, kind="stable").astype(np.int32)
    return np.ascontiguousarray(codes[:, order]), order
