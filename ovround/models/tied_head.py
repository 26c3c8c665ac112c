"""A head that is tied to the embedding, and what unties it.

A decoder is tied where its config.json says so: `head_at` is the embedding. Two things untie it. The checkpoint stores a
quantised head, or the plan gives the head another scheme than the embedding. Preparation decides that once. Later rooms ask
`Decoder.head_at`, and read `lm_head.weight` like any other tensor.
"""

from __future__ import annotations

from dataclasses import replace

from ovround.models.decoder import HEAD, Decoder
from ovround.tensors.tensor_source import TensorSource


def with_head(decoder: Decoder, *, own: bool) -> Decoder:
    """`decoder` with a head that has a weight of its own, or that is tied to the embedding."""
    return replace(decoder, head_at=HEAD if own else decoder.embedding_at)


def sources_of_untied(tied: Decoder) -> dict[str, TensorSource]:
    """Where the tensors of a decoder that was `tied` lie in its checkpoint: the head's weight is the embedding's."""
    sources = tied.sources()
    return {**sources, f"{HEAD}.weight": sources[f"{tied.embedding_at}.weight"]}
