"""A head that is tied to the embedding, and what unties it.

A decoder is tied where its config.json says so: `head_at` is the embedding. Three things untie it. The checkpoint stores a
quantised head, or one that differs from the embedding (transformers does not tie it either), or the plan gives the head
another scheme than the embedding. Preparation decides that once. Later rooms ask
`Decoder.head_at`, and read `lm_head.weight` like any other tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ovround.models.decoder import HEAD, Decoder
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.tensor_source import TensorSource


def with_head(decoder: Decoder, *, own: bool) -> Decoder:
    """`decoder` with a head that has a weight of its own, or that is tied to the embedding."""
    return replace(decoder, head_at=HEAD if own else decoder.embedding_at)


def sources_of_untied(tied: Decoder) -> dict[str, TensorSource]:
    """Where the tensors of a decoder that was `tied` lie in its checkpoint: the head's weight is the embedding's."""
    sources = tied.sources()
    return {**sources, f"{HEAD}.weight": sources[f"{tied.embedding_at}.weight"]}


def stored_apart(decoder: Decoder, has: Callable[[str], bool], read: Callable[[str], FloatTensor]) -> bool:
    """Whether a checkpoint of a tied decoder stores a head that differs from the embedding.

    `has` and `read` are asked for tensors of the decoder that is untied, `lm_head.weight` among them. As in transformers, a
    stored head of other values is used, whatever config.json says; an equal one is the embedding.
    """
    head, embedding = f"{HEAD}.weight", f"{decoder.embedding_at}.weight"
    if decoder.head_at == HEAD or not has(head) or not has(embedding):
        return False
    stored, tied = read(head), read(embedding)
    if stored.shape != tied.shape:
        return True  # the check of headers names it
    if stored.dtype == tied.dtype:
        return not np.array_equal(stored.data, tied.data)
    return not np.array_equal(stored.float32(), tied.float32())
