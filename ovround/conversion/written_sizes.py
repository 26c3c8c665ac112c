"""How many bytes each weight of a conversion takes in a format, before anything is written or even downloaded."""

from __future__ import annotations

from collections.abc import Mapping

from ovround.exporters.formats import sizes_of
from ovround.models.decoder import Decoder
from ovround.quant.plan import Plan


def written_sizes(format_name: str, decoder: Decoder, plan: Plan, item_bytes: Mapping[str, int]) -> dict[str, int]:
    """Bytes by weight; `item_bytes` are those of an element of each tensor in the source, for what stays in float."""
    sizes = sizes_of(format_name)
    return {
        name: sizes.weight_bytes(name, shape, plan.get(name.removesuffix(".weight")), item_bytes.get(name, 0))
        for name, shape in decoder.every_tensor().items()
    }
