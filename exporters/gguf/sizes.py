"""How many bytes weights take in a GGUF file, before they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ovround.exporters.gguf.blocks import bits_a_weight
from ovround.exporters.sizes import packed_bytes
from ovround.models.decoder import Decoder
from ovround.tensors.scheme import QuantScheme, WeightScheme

_PADDING = 31  # tensors begin at multiples of 32
_FLOAT_BYTES = 4  # what is no matrix is float32


def weight_bytes(name: str, shape: tuple[int, ...], scheme: WeightScheme | None, item_bytes: int) -> int:
    """At most so many bytes for weight `name`, padding included."""
    if isinstance(scheme, QuantScheme):
        bits = bits_a_weight(scheme.bits, scheme.group_size, scheme.symmetric)
        return int(math.prod(shape) * bits / 8) + _PADDING
    return packed_bytes(shape, scheme, _FLOAT_BYTES if len(shape) == 1 else item_bytes) + _PADDING


def graph_bytes(decoder: Decoder) -> int:
    """Nothing: a GGUF file has no graph. The header, mostly the tokenizer, is counted with the small files."""
    return 0


def scratch_bytes(weights: Mapping[str, int]) -> int:
    """Nothing: tensors are written to their place."""
    return 0
