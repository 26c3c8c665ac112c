"""A head that is tied to the embedding: who untied it, and where its weight lies then.

A family's decoder is tied where its config.json says so (`head_at` is the embedding). It becomes untied for two reasons: the
checkpoint stores a quantised head, or the plan gives the head a scheme that is not the embedding's. Preparation decides that
once; later rooms ask `Decoder.head_at` and read `lm_head.weight` like any other tensor.
"""

from __future__ import annotations

from dataclasses import replace

from ovround.models.decoder import HEAD, Decoder
from ovround.tensors.tensor_source import TensorSource


def with_own_head(decoder: Decoder) -> Decoder:
    """`decoder` with a head that has a weight of its own."""
    return replace(decoder, head_at=HEAD)


def sources_of_untied(tied: Decoder) -> dict[str, TensorSource]:
    """Where the tensors of `with_own_head(tied)` lie in a tied checkpoint: the head's weight is the embedding's."""
    sources = tied.sources()
    return {**sources, f"{HEAD}.weight": sources[f"{tied.embedding_at}.weight"]}
