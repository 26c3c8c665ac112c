"""Granite 3 with experts and, beside them, one that every token takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models import granitemoe
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a granitemoeshared config.json describes; raises ArchitectureError for a variant that is not built."""
    return granitemoe.sparse(config, shared_size=ConfigReader(config).integer("shared_intermediate_size", 0))


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    (plain,) = granitemoe.smallest_configs()
    return [{**plain, "model_type": "granitemoeshared", "shared_intermediate_size": 64, "tie_word_embeddings": True}]
