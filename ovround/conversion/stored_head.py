"""The head that a checkpoint stores, which decides over what its config.json says of tying."""

from __future__ import annotations

from ovround.checkpoint import Checkpoint, PackedCheckpoint, mapped, mapped_packed
from ovround.models.decoder import HEAD, Decoder
from ovround.models.tied_head import stored_apart, with_head


def with_stored_head(decoder: Decoder, source: Checkpoint | PackedCheckpoint) -> Decoder:
    """`decoder`, untied where `source` has a head of its own: one that is quantised, or differs from the embedding.

    Reads head and embedding where the decoder is tied and a head is stored all the same.
    """
    if decoder.head_at == HEAD:
        return decoder
    own = with_head(decoder, own=True)
    if isinstance(source, Checkpoint):
        stored = source
    elif mapped_packed(source, own.sources(), own.every_tensor()).packed(HEAD):
        return own
    else:
        stored = source.stored
    tensors = mapped(stored, own.sources(), own.every_tensor())
    return own if stored_apart(decoder, tensors.tensors().__contains__, tensors.read) else decoder
