"""Projections of one input as one MatMulNBits: query, key and value; gate and up.

One node instead of three gives ONNX Runtime's threads one long piece of work where they had three short ones with a wait after
each. The rows of codes, scales and zero points follow each other. So each projection is still there, bit for bit, as a range of
rows that `ovround.joint` in the model's metadata names (`external_data.FUSED_KEY`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ovround.exporters.exporter import Weight
from ovround.exporters.onnx.matmul_nbits import layout_of
from ovround.models.decoder import Decoder
from ovround.tensors.qtensor import QTensor


@dataclass(frozen=True, slots=True)
class FusedWeight:
    """The weight `name` `[N, K]`, made of others: `rows` says how many of N each has, in order."""

    name: str
    rows: Mapping[str, int]


def fused_weights(decoder: Decoder) -> dict[str, FusedWeight]:
    """The fused weight of each weight that can be part of one, by the part's name."""
    fused: dict[str, FusedWeight] = {}
    for layer in range(decoder.config.num_hidden_layers):
        shapes = decoder.tensors(layer)
        for joined_at, group in decoder.same_input(layer).items():
            rows = {f"{name}.weight": shapes[f"{name}.weight"][0] for name in group}
            fused |= dict.fromkeys(rows, FusedWeight(f"{joined_at}.weight", rows))
    return fused


def fuse(weights: Sequence[Weight]) -> QTensor | None:
    """All rows as one tensor; None where the weights differ in their scheme, or one has an activation order."""
    quantised = [weight for weight in weights if isinstance(weight, QTensor) and weight.order is None]
    kinds = {(layout_of(w).stored_bits, w.bits, w.symmetric, w.group_size) for w in quantised}
    if len(quantised) < len(weights) or len(kinds) > 1:
        return None
    zero_points = [weight.zero_points for weight in quantised if weight.zero_points is not None]
    return QTensor(
        np.concatenate([weight.codes for weight in quantised]),
        np.concatenate([weight.scales for weight in quantised]),
        np.concatenate(zero_points) if zero_points else None,
        quantised[0].bits,
    )


def to_metadata(weights: Sequence[FusedWeight]) -> str:
    """The value of `FUSED_KEY` in the model's metadata."""
    return json.dumps({weight.name: dict(weight.rows) for weight in weights}, sort_keys=False)
