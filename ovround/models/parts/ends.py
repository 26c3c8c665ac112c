"""The two ends of a model: what is done with embeddings before the first block, and with the last one's output."""

from __future__ import annotations

from dataclasses import dataclass

from ovround.models.ops import Ops, T
from ovround.models.parts.altup import MERGE, SPREAD, Streams
from ovround.models.parts.norms import Norm

EMBEDDING = "model.embed_tokens"
POSITIONS = "model.embed_positions"
EMBEDDING_NORM = "model.embed_layernorm"
NORM = "model.norm"
HEAD = "lm_head"
SHARED_IDS, SHARED_EMBEDDINGS = "ids", "embeddings"


def is_table(module: str) -> bool:
    """Whether rows of the module's weight are looked up: the embedding, and that of a part with one of its own."""
    return module.rpartition(".")[2] == "embed_tokens"


@dataclass(frozen=True, slots=True)
class Embedding:
    """Token embeddings times `scale`, plus learned `positions` where the model has them, then a norm.

    With `shared` the ids and the embeddings are left for blocks that read them (`Ops.share`). Then the `streams` are made of
    them that blocks compute on, where there are several.
    """

    scale: float = 1.0
    positions: bool = False
    norm: Norm | None = None
    shared: bool = False
    streams: Streams | None = None

    def tensors(self, vocab_size: int, hidden_size: int, positions: int) -> dict[str, tuple[int, ...]]:
        """Name and shape of each tensor, the embedding first; `positions` is how many a model has."""
        shapes: dict[str, tuple[int, ...]] = {f"{EMBEDDING}.weight": (vocab_size, hidden_size)}
        if self.positions:
            shapes[f"{POSITIONS}.weight"] = (positions, hidden_size)
        if self.norm is not None:
            shapes |= self.norm.tensors(EMBEDDING_NORM)
        return shapes if self.streams is None else shapes | self.streams.tensors(SPREAD)

    def forward(self, ops: Ops[T], ids: T) -> T:
        """Token ids `[B, T]` -> hidden states `[B, T, hidden_size]`."""
        x = ops.embedding(ids, EMBEDDING)
        if self.scale != 1:
            x = ops.scale(x, self.scale)
        if self.positions:
            x = ops.add(x, ops.position_embedding(ids, POSITIONS))
        if self.norm is not None:
            x = self.norm.forward(ops, x, EMBEDDING_NORM)
        if self.shared:
            ops.share(SHARED_IDS, ids)
            ops.share(SHARED_EMBEDDINGS, x)
        return x if self.streams is None else self.streams.spread(ops, x)


@dataclass(frozen=True, slots=True)
class Head:
    """The final norm and the projection to logits, which are multiplied by `scale` and bounded by `softcap`.

    Where blocks compute on several `streams`, one is made of them first.
    """

    norm: Norm
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None
    streams: Streams | None = None

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each tensor before the projection to logits."""
        merge = {} if self.streams is None else self.streams.tensors(MERGE)
        return merge | self.norm.tensors(NORM)

    def forward(self, ops: Ops[T], x: T, at: str) -> T:
        """Hidden states `[B, T, hidden_size]` -> logits `[B, T, vocab_size]` by the module `at`."""
        if self.streams is not None:
            x = self.streams.merged(ops, x)
        logits = ops.linear(self.norm.forward(ops, x, NORM), at)
        if self.scale != 1:
            logits = ops.scale(logits, self.scale)
        return logits if self.softcap is None else ops.softcap(logits, self.softcap)
