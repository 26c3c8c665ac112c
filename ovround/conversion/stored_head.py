"""A head of its own in a checkpoint whose config.json ties it to the embedding.

transformers ties the two only where they are equal, as in files of torch, which hold both names. Otherwise it keeps the head.
"""

from __future__ import annotations

from ovround.checkpoint import Checkpoint, GgufCheckpoint, GgufFloats, PackedCheckpoint, mapped, mapped_packed
from ovround.models.decoder import HEAD, Decoder
from ovround.models.tied_head import stored_apart, with_head

_GGUF_HEAD = "output"


def with_stored_head(decoder: Decoder, source: Checkpoint | PackedCheckpoint) -> tuple[Decoder, tuple[str, ...]]:
    """`decoder`, untied where `source` has a head of its own, and a sentence that says so.

    That is a head that is quantised, or differs from the embedding. Reads both where a tied decoder's head is stored.
    """
    if decoder.head_at == HEAD:
        return decoder, ()
    file = source.inner if isinstance(source, GgufFloats) else source
    if isinstance(file, GgufCheckpoint) and f"{_GGUF_HEAD}.weight" not in file.tensors:
        return decoder, ()  # its places give the embedding for a head that is not there
    own = with_head(decoder, own=True)
    if isinstance(source, Checkpoint):
        stored = source
    elif mapped_packed(source, own.sources(), own.every_tensor()).packed(HEAD):
        return own, ()
    else:
        stored = source.stored
    tensors = mapped(stored, own.sources(), own.every_tensor())
    if not stored_apart(decoder, tensors.tensors().__contains__, tensors.read):
        return decoder, ()
    said = f"`{HEAD}` differs from `{decoder.embedding_at}`, to which config.json ties it: it is kept, as transformers keeps it"
    return own, (said,)
