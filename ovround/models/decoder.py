"""The decoder that families compose: embedding, blocks of parts between norms, final norm, head.

A family file (`llama.py`) reads its config.json into parts and returns a `Decoder`; a `Layout` says what its checkpoint
calls otherwise. The names used here, Llama's, are those of every backend. Only the parts know what a block is made of.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ovround.models.block import Block
from ovround.models.layout import BLOCKS, Layout
from ovround.models.ops import Ops, T
from ovround.models.parts.ends import EMBEDDING, HEAD, NORM, Embedding, Head
from ovround.models.parts.experts import EXPERTS
from ovround.models.parts.part import LARGEST_SIZE, Linear, check_size
from ovround.models.state import State
from ovround.tensors.tensor_source import TensorSource

__all__ = ["EMBEDDING", "EXPERTS", "HEAD", "Decoder", "DecoderConfig"]

# Far beyond any model; they keep a hostile config.json from asking for endless work before its tensors are looked at.
_LARGEST = {"num_hidden_layers": 10_000, "max_position_embeddings": 1 << 24}


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The sizes that every model has, under Hugging Face's names."""

    hidden_size: int
    num_hidden_layers: int
    vocab_size: int
    max_position_embeddings: int

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"):
            check_size(name, getattr(self, name), _LARGEST.get(name, LARGEST_SIZE))


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model as functions over `Ops`; `head_at` is the module that gives the logits (the embedding where they are tied).

    A block need not be like the next one. `linears(layer)` and the like name modules; `layer` counts from 0.
    """

    config: DecoderConfig
    embedding: Embedding
    blocks: tuple[Block, ...]
    lm_head: Head
    head_at: str
    layout: Layout = field(default_factory=Layout)

    def __post_init__(self) -> None:
        if len(self.blocks) != self.config.num_hidden_layers:
            raise ValueError(f"{len(self.blocks)} blocks for {self.config.num_hidden_layers} layers")

    @property
    def embedding_at(self) -> str:
        return EMBEDDING

    @property
    def norm_at(self) -> str:
        return NORM

    def block_at(self, layer: int) -> str:
        return f"{BLOCKS}.{layer}"

    def embed(self, ops: Ops[T], ids: T) -> T:
        """Token ids `[B, T]` -> hidden states `[B, T, hidden_size]`."""
        return self.embedding.forward(ops, ids)

    def block(self, ops: Ops[T], x: T, layer: int) -> T:
        """One transformer block, `[B, T, hidden_size]` -> the same."""
        return self.blocks[layer].forward(ops, x, self.block_at(layer), layer)

    def head(self, ops: Ops[T], x: T) -> T:
        """Final norm and projection, `[B, T, hidden_size]` -> logits `[B, T, vocab_size]`."""
        return self.lm_head.forward(ops, x, self.head_at)

    def logits(self, ops: Ops[T], ids: T) -> T:
        """The whole model: token ids `[B, T]` -> logits `[B, T, vocab_size]`."""
        x = self.embed(ops, ids)
        for layer in range(self.config.num_hidden_layers):
            x = self.block(ops, x, layer)
        return self.head(ops, x)

    def state(self, layer: int) -> tuple[State, ...]:
        """What block `layer` keeps between steps."""
        return self.blocks[layer].states()

    def states(self) -> tuple[tuple[State, ...], ...]:
        """What each block keeps between steps, by layer."""
        return tuple(block.states() for block in self.blocks)

    def tensors(self, layer: int | None = None) -> dict[str, tuple[int, ...]]:
        """Name and shape of each tensor: of block `layer`, or of what is outside the blocks when None."""
        if layer is None:
            return self.first_tensors() | self.last_tensors()
        return self.blocks[layer].tensors(self.block_at(layer))

    def first_tensors(self) -> dict[str, tuple[int, ...]]:
        """Those of `tensors()` that `embed` reads, the embedding first."""
        c = self.config
        return self.embedding.tensors(c.vocab_size, c.hidden_size, c.max_position_embeddings)

    def last_tensors(self) -> dict[str, tuple[int, ...]]:
        """Those of `tensors()` that only `head` reads: the final norm's, and the head's unless it is the embedding."""
        c, shapes = self.config, self.lm_head.norm.tensors(self.norm_at)
        if self.head_at != self.embedding_at:
            shapes[f"{self.head_at}.weight"] = (c.vocab_size, c.hidden_size)
            if self.lm_head.bias:
                shapes[f"{self.head_at}.bias"] = (c.vocab_size,)
        return shapes

    def head_tensors(self) -> tuple[str, ...]:
        """The names of all that `head` reads, the embedding among them where the head is tied to it."""
        return tuple(dict.fromkeys((*self.last_tensors(), f"{self.head_at}.weight")))

    def every_tensor(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each tensor of the model."""
        shapes = self.tensors()
        for layer in range(self.config.num_hidden_layers):
            shapes |= self.tensors(layer)
        return shapes

    def sources(self) -> dict[str, TensorSource]:
        """Where each tensor lies in a checkpoint of the family."""
        return {name: self.layout.source(name, shape) for name, shape in self.every_tensor().items()}

    def unused_tensors(self) -> tuple[str, ...]:
        """Endings of the names of tensors that a checkpoint of the family may hold without their being used, and of a tied head."""
        tied = (self.layout.source(f"{HEAD}.weight", ()).name,) if self.head_at != HEAD else ()
        return (*self.layout.ignored, *tied)

    def linears(self, layer: int) -> tuple[str, ...]:
        """The linear layers of block `layer`, in the order in which they are computed: what quantisation replaces."""
        return tuple(module for module, _ in self._linears(layer))

    def fused(self, layer: int) -> tuple[tuple[str, ...], ...]:
        """`linears(layer)`, those together that engines compute in one multiplication and that therefore share their bits."""
        groups = self.blocks[layer].fused(self.block_at(layer)).values()
        return tuple(tuple(module for module, _ in group) for group in groups)

    def same_input(self, layer: int) -> dict[str, tuple[str, ...]]:
        """Those of `fused(layer)` that read the same input on every token, by the name of the module that they can be fused to."""
        groups = self.blocks[layer].fused(self.block_at(layer)).items()
        return {
            fused_at: tuple(module for module, _ in group)
            for fused_at, group in groups
            if len(group) > 1 and not any(linear.stack for _, linear in group)
        }

    def expert_stacks(self, layer: int) -> dict[str, tuple[str, ...]]:
        """Those of `linears(layer)` that differ only in the expert they belong to, by the name of the tensor that holds all."""
        stacks: dict[str, list[str]] = {}
        for module, linear in self._linears(layer):
            if linear.stack:
                stacks.setdefault(module.removesuffix(linear.name) + linear.stack, []).append(module)
        return {stacked_at: tuple(stack) for stacked_at, stack in stacks.items()}

    def token_shares(self) -> dict[str, float]:
        """For each linear layer of a block, the part of all tokens that it computes on: below 1 for an expert's."""
        layers = range(self.config.num_hidden_layers)
        return {module: linear.token_share for layer in layers for module, linear in self._linears(layer)}

    def stacked(self) -> frozenset[str]:
        """The linear layers that engines hold in one tensor with others: those of experts."""
        return frozenset(
            module
            for layer in range(self.config.num_hidden_layers)
            for module, linear in self._linears(layer)
            if linear.stack
        )

    def decoded(self) -> frozenset[str]:
        """The linear layers whose numbers engines need, decoded; see `Linear`."""
        layers = range(self.config.num_hidden_layers)
        return frozenset(module for layer in layers for module, linear in self._linears(layer) if linear.decoded)

    @property
    def largest_stack(self) -> int:
        """How many linear layers the largest of `expert_stacks` has, 0 for a model without experts."""
        layers = {block: layer for layer, block in enumerate(self.blocks)}.values()
        return max((len(stack) for layer in layers for stack in self.expert_stacks(layer).values()), default=0)

    @property
    def inner_size(self) -> int:
        """Features that a token has inside the parts of a block, of the block with the most."""
        return max(sum(part.inner_size for part in block.parts) for block in set(self.blocks))

    def _linears(self, layer: int) -> list[tuple[str, Linear]]:
        return list(self.blocks[layer].linears(self.block_at(layer)))
