"""How many bytes weights take in `model.onnx.data`, before they are written; the layout is that of `matmul_nbits.py`."""

from __future__ import annotations

from collections.abc import Mapping

from ovround.exporters.onnx.external_data import CACHE_LINE, LARGE_BYTES, PAGE
from ovround.exporters.onnx.matmul_nbits import layout_for
from ovround.exporters.sizes import affine_extra_bytes, packed_bytes
from ovround.models.calls import ropes
from ovround.models.decoder import Decoder
from ovround.tensors.scheme import QuantScheme, WeightScheme


def weight_bytes(name: str, shape: tuple[int, ...], scheme: WeightScheme | None, item_bytes: int) -> int:
    """Bytes of weight `name`, with the most padding that its parts can need."""
    if not isinstance(scheme, QuantScheme):
        extra = affine_extra_bytes(name, shape, scheme, PAGE + CACHE_LINE)
        return _padded(packed_bytes(shape, scheme, item_bytes)) + extra
    rows, columns = shape
    group_size = columns if scheme.group_size == -1 else scheme.group_size
    layout = layout_for((rows, columns), scheme.bits, group_size, symmetric=scheme.symmetric)
    zero_points = 0 if scheme.symmetric else rows * -(-layout.blocks * layout.stored_bits // 8)
    return _padded(rows * layout.blocks * layout.blob_bytes) + _padded(4 * rows * layout.blocks) + _padded(zero_points)


def graph_bytes(decoder: Decoder) -> int:
    """At most so many bytes for the tables of rotary positions."""
    stored = (rope for rope in ropes(decoder) if not rope.follows_length)
    return sum(2 * _padded(4 * decoder.config.max_position_embeddings * (rope.dim // 2)) for rope in stored)


def scratch_bytes(weights: Mapping[str, int]) -> int:
    """Nothing: tensors go to their final place."""
    return 0


def _padded(size_bytes: int) -> int:
    return size_bytes + (-size_bytes % CACHE_LINE if size_bytes < LARGE_BYTES else PAGE + CACHE_LINE)
