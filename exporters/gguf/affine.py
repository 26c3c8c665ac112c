"""The block types of llama.cpp that are an `AffineTensor`, byte for byte as they came: the inverse of `gguf.affine_blocks`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ovround.exporters.gguf.blocks import Bytes, packed_nibbles
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.group_values import GroupValues
from ovround.tensors.native_layout import halves_as_bytes

_PAIRS = np.array([0, 2, 4, 6], np.uint8)[:, None]


def encoded_affine(tensor: AffineTensor) -> tuple[str, Bytes] | None:
    """The type and the rows `[N, bytes a row]`; None for a grid that no type has."""
    kind = _KINDS.get(tensor.scheme.spec)
    if kind is None:
        return None
    blocks = _ENCODERS[kind](tensor)
    return kind, np.ascontiguousarray(np.concatenate(blocks, axis=-1).reshape(len(tensor.codes), -1))


def affine_kind(spec: str) -> str | None:
    """The type of an `AffineScheme` as `AffineScheme.spec` writes it."""
    return _KINDS.get(spec)


def _q4_1(tensor: AffineTensor) -> list[Bytes]:
    return [_halves(tensor.scales), _minus(tensor.minimums), packed_nibbles(_runs(tensor))]


def _q5_0(tensor: AffineTensor) -> list[Bytes]:
    codes = _runs(tensor)
    return [_halves(tensor.scales), _fifth_bits(codes), packed_nibbles(codes)]


def _q5_1(tensor: AffineTensor) -> list[Bytes]:
    codes = _runs(tensor)
    return [_halves(tensor.scales), _minus(tensor.minimums), _fifth_bits(codes), packed_nibbles(codes)]


def _q2_k(tensor: AffineTensor) -> list[Bytes]:
    scales = _factors(tensor.scales) | _factors(tensor.minimums) << np.uint8(4)
    return [scales, _bit_pairs(_supers(tensor)), _halves(tensor.scales), _halves(_given(tensor.minimums))]


def _q3_k(tensor: AffineTensor) -> list[Bytes]:
    codes = _supers(tensor)
    third = (codes >> np.uint8(2)).reshape(*codes.shape[:2], 8, 32) << np.arange(8, dtype=np.uint8)[:, None]
    factors = (_factors(tensor.scales).view(np.int8) + np.int8(32)).view(np.uint8)
    low = packed_nibbles(factors)
    high = np.bitwise_or.reduce((factors >> np.uint8(4)).reshape(*factors.shape[:2], 4, 4) << _PAIRS, axis=-2)
    return [np.bitwise_or.reduce(third, axis=-2), _bit_pairs(codes & np.uint8(3)), low, high, _halves(tensor.scales)]


def _q4_k(tensor: AffineTensor) -> list[Bytes]:
    return [*_k_head(tensor), _k_nibbles(_supers(tensor))]


def _q5_k(tensor: AffineTensor) -> list[Bytes]:
    codes = _supers(tensor)
    fifth = (codes >> np.uint8(4)).reshape(*codes.shape[:2], 8, 32) << np.arange(8, dtype=np.uint8)[:, None]
    return [*_k_head(tensor), np.bitwise_or.reduce(fifth, axis=-2), _k_nibbles(codes)]


def _q6_k(tensor: AffineTensor) -> list[Bytes]:
    codes = _supers(tensor)
    halves = (codes & np.uint8(15)).reshape(*codes.shape[:2], 2, 128)
    low = (halves[..., :64] | halves[..., 64:] << np.uint8(4)).reshape(*codes.shape[:2], 128)
    return [low, _bit_pairs(codes >> np.uint8(4)), _factors(tensor.scales), _halves(tensor.scales)]


def _k_head(tensor: AffineTensor) -> list[Bytes]:
    """d, e, and 8 scales and 8 minimums of 6 bits in 12 bytes: the high bits of the last four lie with the first four."""
    scales, minimums = _factors(tensor.scales), _factors(tensor.minimums)
    firsts = [six[..., :4] | six[..., 4:] >> np.uint8(4) << np.uint8(6) for six in (scales, minimums)]
    last = (scales[..., 4:] & np.uint8(15)) | minimums[..., 4:] << np.uint8(4)
    return [_halves(tensor.scales), _halves(_given(tensor.minimums)), *firsts, last]


def _k_nibbles(codes: Bytes) -> Bytes:
    """256 codes as four times 32 bytes, the first 32 of each 64 low."""
    fours = (codes & np.uint8(15)).reshape(*codes.shape[:2], 4, 2, 32)
    return (fours[..., 0, :] | fours[..., 1, :] << np.uint8(4)).reshape(*codes.shape[:2], 128)


def _runs(tensor: AffineTensor) -> Bytes:
    return tensor.codes.reshape(len(tensor.codes), -1, 32)


def _supers(tensor: AffineTensor) -> Bytes:
    return tensor.codes.reshape(len(tensor.codes), -1, 256)


def _given(values: GroupValues | None) -> GroupValues:
    if values is None:
        raise ValueError("the type has minimums, the tensor none")
    return values


def _factors(values: GroupValues | None) -> Bytes:
    """The factors of each block's groups, `[N, blocks, groups a block]`."""
    factors = _given(values).factors
    if factors is None:
        raise ValueError("the type has a factor for each group, the tensor none")
    return factors.reshape(*_given(values).blocks.shape, -1).view(np.uint8)


def _halves(values: GroupValues) -> Bytes:
    return halves_as_bytes(values.blocks)


def _minus(values: GroupValues | None) -> Bytes:
    return _halves(GroupValues(-_given(values).blocks))


def _fifth_bits(codes: Bytes) -> Bytes:
    return np.packbits(codes >> np.uint8(4), axis=-1, bitorder="little")


def _bit_pairs(codes: Bytes) -> Bytes:
    """`[N, blocks, 256]` codes of 2 bits as 64 bytes: four pairs of 32 bytes one after another, lowest first, twice."""
    halves = codes.reshape(*codes.shape[:2], 2, 4, 32) << _PAIRS
    joined: Bytes = np.bitwise_or.reduce(halves, axis=-2)
    return joined.reshape(*codes.shape[:2], 64)


_KINDS = {
    "4:32-m": "Q4_1", "5:32-16": "Q5_0", "5:32-m": "Q5_1", "2:16/256-m": "Q2_K", "3:16/256-4": "Q3_K",
    "4:32/256-m": "Q4_K", "5:32/256-m": "Q5_K", "6:16/256-32": "Q6_K",
}  # fmt: skip
_ENCODERS: dict[str, Callable[[AffineTensor], list[Bytes]]] = {
    "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip
