"""How many bytes weights take in `openvino_model.bin`, before they are written; the layout is that of `compressed.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ovround.exporters.openvino.storage import ALIGNMENT, ELEMENT_BITS, EXPERT, element_type, is_table
from ovround.exporters.sizes import affine_extra_bytes, groups_of, packed_bytes
from ovround.models.calls import attention_specs
from ovround.models.decoder import Decoder
from ovround.tensors.scheme import QuantScheme, WeightScheme

_CONSTANTS = 128  # axes, shapes and epsilons that the graph holds once, and again in each block: more than there are
_CONSTANTS_PER_BLOCK = 32


def weight_bytes(name: str, shape: tuple[int, ...], scheme: WeightScheme | None, item_bytes: int) -> int:
    """Bytes of weight `name`, with the padding after each of its parts."""
    if not isinstance(scheme, QuantScheme):
        extra = affine_extra_bytes(name, shape, scheme, ALIGNMENT)
        return _padded(packed_bytes(shape, scheme, item_bytes)) + extra
    groups = groups_of(shape, scheme)
    width = ELEMENT_BITS[element_type(scheme.bits, scheme.symmetric, table=is_table(name))]
    zero_point_bits = 8 if width == 2 else width
    zero_points = groups if not scheme.symmetric else 1 if width == 2 else 0  # symmetric 2 bits share a single one
    codes = _padded(-(-math.prod(shape) * width // 8))
    return codes + _padded(2 * groups) + _padded(-(-zero_points * zero_point_bits // 8))


def graph_bytes(decoder: Decoder) -> int:
    """At most so many bytes for the graph's own constants."""
    blocks = decoder.config.num_hidden_layers
    frequencies = 4  # of as many rotations as a model has, each perhaps in a short and a long form
    head_dim = max((spec.head_dim for spec in attention_specs(decoder)), default=0)
    return ALIGNMENT * (_CONSTANTS + _CONSTANTS_PER_BLOCK * blocks) + frequencies * _padded(2 * head_dim)


def scratch_bytes(weights: Mapping[str, int]) -> int:
    """The serialiser's own weights file: zeros, one constant for each size that occurs; experts of a layer are one weight."""
    stacks: dict[str, int] = {}
    for name, size in weights.items():
        stack = EXPERT.sub("*", name)
        stacks[stack] = stacks.get(stack, 0) + size
    return sum(set(stacks.values()))


def _padded(size_bytes: int) -> int:
    return size_bytes + -size_bytes % ALIGNMENT
