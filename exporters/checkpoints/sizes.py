"""How many bytes weights take in safetensors shards, before they are written."""

from __future__ import annotations

from collections.abc import Mapping

from ovround.exporters.checkpoints.shards import SHARD_BYTES
from ovround.exporters.sizes import packed_bytes
from ovround.models.decoder import Decoder
from ovround.tensors.scheme import WeightScheme


def weight_bytes(name: str, shape: tuple[int, ...], scheme: WeightScheme | None, item_bytes: int) -> int:
    """About the bytes of weight `name`; shards pad nothing."""
    return packed_bytes(shape, scheme, item_bytes)


def graph_bytes(decoder: Decoder) -> int:
    """Nothing: a checkpoint has no graph."""
    return 0


def scratch_bytes(weights: Mapping[str, int]) -> int:
    """One shard, which the disk holds twice until its header is written."""
    return min(sum(weights.values()), SHARD_BYTES)
