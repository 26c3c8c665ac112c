"""How many bytes a weight takes in `openvino_model.bin`, before it is written; the layout is that of `openvino.compressed`.

It stands outside that package because the package imports openvino_tokenizers, and that torch: 7 s, to say that a size is
out of reach.
"""

from __future__ import annotations

import math

from ovround.models.calls import attention_specs
from ovround.models.decoder import Decoder
from ovround.options.convert_options import QuantScheme

ALIGNMENT = 64
_CONSTANTS = 128  # axes, shapes and epsilons that the graph holds once, and again in each block: more than there are
_CONSTANTS_PER_BLOCK = 32


def weight_bytes(shape: tuple[int, ...], scheme: QuantScheme | None, item_bytes: int, *, table: bool) -> int:
    """Bytes of a weight with the padding behind each of its parts; `item_bytes` an element where `scheme` is None.

    `table` says that a Gather reads it.
    """
    if scheme is None:
        return _padded(math.prod(shape) * item_bytes)
    rows, columns = shape
    groups = rows * (columns // (columns if scheme.group_size == -1 else scheme.group_size))
    width = stored_bits(scheme.bits, table=table)
    each = 8 if width == 2 else width  # bits of a zero point; where 2 bits are symmetric there is a single one
    count = groups if not scheme.symmetric else 1 if width == 2 else 0
    return _padded(-(-rows * columns * width // 8)) + _padded(2 * groups) + _padded(-(-count * each // 8))


def stored_bits(bits: int, *, table: bool) -> int:
    """The width of the element type that codes of `bits` bits are stored in."""
    return 4 if bits == 3 or (bits == 2 and table) else bits


def graph_bytes(decoder: Decoder) -> int:
    """What the graph's own constants take, at most."""
    blocks = decoder.config.num_hidden_layers
    frequencies = 4  # of as many rotations as a model has, each perhaps in a short and a long form
    size = max((spec.head_dim for spec in attention_specs(decoder)), default=0)
    return ALIGNMENT * (_CONSTANTS + _CONSTANTS_PER_BLOCK * blocks) + frequencies * _padded(2 * size)


def _padded(size_bytes: int) -> int:
    return size_bytes + -size_bytes % ALIGNMENT
