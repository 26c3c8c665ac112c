"""How many bytes a weight takes in `model.onnx.data`, before it is written; the layout is that of `matmul_nbits.py`."""

from __future__ import annotations

import math

import numpy as np

from ovround.exporters.onnx.external_data import CACHE_LINE, LARGE_BYTES, PAGE
from ovround.exporters.onnx.matmul_nbits import layout_of
from ovround.models.calls import ropes
from ovround.models.decoder import Decoder
from ovround.options.convert_options import QuantScheme
from ovround.tensors.qtensor import QTensor


def weight_bytes(shape: tuple[int, ...], scheme: QuantScheme | None, item_bytes: int, *, table: bool) -> int:
    """Bytes of a weight, with the most padding that its parts can need; `item_bytes` an element where `scheme` is None.

    A `table` takes as much as any other weight.
    """
    if scheme is None:
        return _padded(math.prod(shape) * item_bytes)
    rows, columns = shape
    groups = columns // (columns if scheme.group_size == -1 else scheme.group_size)
    row = QTensor(np.zeros((1, columns), np.uint8), np.ones((1, groups), np.float16), None, scheme.bits)
    layout = layout_of(row)
    zero_points = 0 if scheme.symmetric else rows * -(-layout.blocks * layout.stored_bits // 8)
    return _padded(rows * layout.blocks * layout.blob_bytes) + _padded(4 * rows * layout.blocks) + _padded(zero_points)


def graph_bytes(decoder: Decoder) -> int:
    """What the tables of rotary positions take, at most."""
    stored = (rope for rope in ropes(decoder) if not rope.follows_length)
    return sum(2 * _padded(4 * decoder.config.max_position_embeddings * (rope.dim // 2)) for rope in stored)


def _padded(size_bytes: int) -> int:
    return size_bytes + (-size_bytes % CACHE_LINE if size_bytes < LARGE_BYTES else PAGE + CACHE_LINE)
