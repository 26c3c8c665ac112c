"""A head of its own in a checkpoint whose config.json ties it to the embedding.

transformers ties the two only where they are equal, as in files of torch, which hold both names. Otherwise it keeps the head.
"""

from __future__ import annotations

import numpy as np

from ovround.checkpoint import Checkpoint
from ovround.models.decoder import HEAD, Decoder
from ovround.models.tied_head import with_head


def with_stored_head(decoder: Decoder, stored: Checkpoint) -> tuple[Decoder, tuple[str, ...]]:
    """`decoder` untied where `stored` has a head with other values than the embedding, and a sentence that says so."""
    if decoder.head_at == HEAD:
        return decoder, ()
    head, embedding = (decoder.layout.source(f"{at}.weight", ()).name for at in (HEAD, decoder.embedding_at))
    infos = stored.tensors()
    embedding = embedding if embedding in infos else embedding.partition(".")[2]
    if head not in infos or embedding not in infos or infos[head].shape != infos[embedding].shape:
        return decoder, ()
    if infos[head].dtype == infos[embedding].dtype and np.array_equal(
        stored.read(head).data, stored.read(embedding).data
    ):
        return decoder, ()
    said = f"`{head}` differs from `{embedding}`, to which config.json ties it: it is kept, as transformers keeps it"
    return with_head(decoder, own=True), (said,)
