"""How many bytes a weight takes, before it is written: what every format answers in its own `sizes.py`.

`ovround.exporters.formats.sizes_of` gives a format's answer. What a weight takes outside any format is `exact_bits`, and in
containers that have no 3 bits `packed_bytes`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from ovround.models.decoder import Decoder
from ovround.models.parts.ends import is_table
from ovround.tensors.native_layout import TILE_ROWS
from ovround.tensors.scheme import AffineScheme, Codebooks, QuantScheme, WeightScheme

SCALE_BITS = 16  # scales are float16
_CODE_CONTAINER = 2  # codes of codebooks fill whole bytes: they take at most twice their bits and more
_GROUP_BYTES = 6  # at most: a scale, a zero point, and the place of a group in an activation order


class Sizes(Protocol):
    """The sizes of one format; a module with these functions."""

    def weight_bytes(self, name: str, shape: tuple[int, ...], scheme: WeightScheme | None, item_bytes: int) -> int:
        """At most so many bytes for weight `name`, padding included; `item_bytes` an element where `scheme` is None."""
        ...

    def graph_bytes(self, decoder: Decoder) -> int:
        """At most so many bytes for the constants of the graph itself, in the weights file."""
        ...

    def scratch_bytes(self, weights: Mapping[str, int]) -> int:
        """What the exporter holds on the disk beside its output while it writes `weights`, their bytes by name."""
        ...


def exact_bits(shape: tuple[int, ...], scheme: WeightScheme) -> float:
    """Bits of codes, scales and zero points, or codes and codebooks, of a weight `[N, K]`: its information, unpadded."""
    if isinstance(scheme, Codebooks | AffineScheme):
        return scheme.size_bits(shape)
    group_bits = SCALE_BITS + (0 if scheme.symmetric else scheme.bits)
    return math.prod(shape) * scheme.bits + groups_of(shape, scheme) * group_bits


def packed_bytes(shape: tuple[int, ...], scheme: WeightScheme | None, item_bytes: int) -> int:
    """About the bytes of a weight in a safetensors file, where codes of 2 and 3 bits may take 4."""
    if scheme is None:
        return math.prod(shape) * item_bytes
    if isinstance(scheme, Codebooks):
        return int(scheme.size_bits(shape) / 8 * _CODE_CONTAINER)
    if isinstance(scheme, AffineScheme):  # for the native operator, whose rows fill tiles
        return int(scheme.size_bits((shape[0] + -shape[0] % TILE_ROWS, *shape[1:])) / 8)
    return int(math.prod(shape) * max(scheme.bits, 4) / 8 + groups_of(shape, scheme) * _GROUP_BYTES)


def affine_extra_bytes(name: str, shape: tuple[int, ...], scheme: WeightScheme | None, alignment: int) -> int:
    """What an affine weight takes beyond `packed_bytes`: padding of its parts, and of an embedding the rows of a byte a code."""
    if not isinstance(scheme, AffineScheme):
        return 0
    parts = 3 * alignment
    if not is_table(name.removesuffix(".weight")):
        return parts
    return 3 * parts + int((scheme.size_bits(shape) + (8 - scheme.bits) * math.prod(shape)) / 8)


def groups_of(shape: tuple[int, ...], scheme: QuantScheme) -> int:
    """Groups of a whole weight `[N, K]`."""
    return math.prod(shape) // (shape[-1] if scheme.group_size == -1 else scheme.group_size)
