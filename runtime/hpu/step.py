"""One step of the model in fixed shapes, and the greedy loop, which leaves the device only when it has ended.

A step is made of regions: embedding, one block a layer, head. Layers that are alike run the same compiled block on their
own weights, so a deep model compiles no longer than a shallow one (vLLM's plugin for Gaudi compiles by regions too).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ovround.models.calls import attention_specs, shared_caches, shared_reads
from ovround.models.decoder import Decoder
from ovround.runtime.hpu.cache import Cache
from ovround.runtime.hpu.operator import Convert
from ovround.runtime.hpu.static_ops import Constants, LayerCache, Places, StaticOps
from ovround.runtime.hpu.weights import Stored

Run = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, bool], torch.Tensor]
"""A `Step`, as whoever compiles it wants it called."""

CallRegion = Callable[..., Any]
"""`call(key, function, *arguments)`: what `function` gives; calls of one key have arguments of one shape."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """The tensors of a block, or of all that is outside the blocks; a block's by the names of the first one like it.

    `reads` names what a block reads of those before it (`Ops.shared`), outside of them what any block reads; `states_of` is the
    layer whose states a block works on.
    """

    weights: dict[str, torch.Tensor]
    packed: dict[str, Stored]
    layer: int = 0
    constants: Constants = field(default_factory=Constants)
    reads: tuple[str, ...] = ()
    states_of: int = 0
    state_names: tuple[str, ...] = ()


class Step(torch.nn.Module):
    """Tokens in, logits out, states into the cache in between: shapes follow from those of the arguments.

    The cache that `show` names is written to; graphs that are captured with its addresses must go when it moves.
    """

    def __init__(
        self, decoder: Decoder, weights: Mapping[str, torch.Tensor], packed: Mapping[str, Stored], convert: Convert,
        device: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.decoder, self.convert = decoder, convert
        blocks = [decoder.block_at(layer) for layer in range(decoder.config.num_hidden_layers)]
        kinds: dict[Hashable, int] = {}
        self.blocks: list[Region] = []
        for layer, at in enumerate(blocks):
            inside = {name: weight for name, weight in weights.items() if name.startswith(f"{at}.")}
            stored = {name: weight for name, weight in packed.items() if name.startswith(f"{at}.")}
            like = kinds.setdefault((decoder.blocks[layer], _shapes(inside, stored, len(at))), layer)
            first = blocks[like]
            renamed = {f"{first}{name[len(at) :]}": weight for name, weight in inside.items()}
            words = {f"{first}{name[len(at) :]}": weight for name, weight in stored.items()}
            states_of = next(iter(shared_caches(decoder, layer)), layer)
            reads, names = shared_reads(decoder, layer), tuple(state.name for state in decoder.state(states_of))
            self.blocks.append(
                Region(renamed, words, like, _constants(decoder, layer, device), reads, states_of, names)
            )
        ours = tuple(f"{at}." for at in blocks)
        self.outside = Region(
            {name: weight for name, weight in weights.items() if not name.startswith(ours)},
            {name: weight for name, weight in packed.items() if not name.startswith(ours)},
            reads=tuple(dict.fromkeys(name for part in self.blocks for name in part.reads)),
        )
        self.call: CallRegion = lambda key, function, *arguments: function(*arguments)
        self.cache: Cache | None = None

    def show(self, cache: Cache) -> None:
        """Work on `cache` from now on."""
        self.cache = cache

    def forward(
        self, ids: torch.Tensor, held: torch.Tensor, counts: torch.Tensor, length: torch.Tensor, room: torch.Tensor,
        every: bool,
    ) -> torch.Tensor:  # fmt: skip
        """ids int32 `[B, T]` after `held` int32 `[B]` tokens a row -> logits float32 `[B, V]` after each row's last.

        The first `counts` int64 `[B]` tokens of a row are no padding; a row may have none. `length` int32 `[]` is how long the
        longest text is with all that is on its way; `room` has S elements, the places of a row. `every`: logits `[B, T, V]`.
        """
        if self.cache is None:
            raise RuntimeError("the step has no cache")
        shape, size = tuple(ids.shape), room.shape[0]
        decoder, convert = self.decoder, self.convert
        x, positions, slots, *left = self.call(
            ("embed", shape, size), embed, decoder, self.outside, convert, ids, held, size
        )
        shared = dict(zip(self.outside.reads, left, strict=True))
        for part in self.blocks:
            memory = (positions, slots, length, counts, size, *(shared[name] for name in part.reads))
            states = self.cache.layers[part.states_of]
            x = self.call(("block", part.layer, shape, size), block, decoder, part, convert, x, *memory, *states)
        logits: torch.Tensor = self.call(
            ("head", shape, every), head, decoder, self.outside, convert, x, None if every else counts
        )
        return logits

    def tensors(self) -> list[torch.Tensor]:
        """All weights as they lie at rest."""
        parts = [self.outside, *self.blocks]
        floats = [weight for part in parts for weight in part.weights.values()]
        return floats + [words for part in parts for stored in part.packed.values() for words in stored.tensors()]


def embed(
    decoder: Decoder, part: Region, convert: Convert, ids: torch.Tensor, held: torch.Tensor, room: int
) -> tuple[torch.Tensor, ...]:
    """Hidden states `[B, T, hidden_size]`, positions int32 `[B, T]`, places in the cache int64 `[B * T]`.

    Then what the embedding leaves for blocks.
    """
    batch, tokens = ids.shape
    positions = held.unsqueeze(1) + torch.arange(tokens, dtype=held.dtype, device=held.device)
    starts = torch.arange(batch, dtype=torch.int64, device=held.device) * room
    slots = (starts.unsqueeze(1) + positions).flatten()
    ops = StaticOps(part.weights, part.packed, convert, Places(positions, slots, held, held))
    x = decoder.embed(ops, ids)
    return x, positions, slots, *(ops.shared(name) for name in part.reads)


def block(
    decoder: Decoder, part: Region, convert: Convert, x: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor,
    length: torch.Tensor, counts: torch.Tensor, room: int, *shared_and_states: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """One block `[B, T, hidden_size]` -> the same; what its states gain by the tokens goes to their slots."""
    shared, states = shared_and_states[: len(part.reads)], shared_and_states[len(part.reads) :]
    cache = LayerCache(dict(zip(part.state_names, states, strict=True)), room, part.constants)
    ops = StaticOps(part.weights, part.packed, convert, Places(positions, slots, length, counts), cache)
    ops.shared_values = dict(zip(part.reads, shared, strict=True))
    return decoder.block(ops, x, part.layer)


def head(
    decoder: Decoder, part: Region, convert: Convert, x: torch.Tensor, counts: torch.Tensor | None
) -> torch.Tensor:  # fmt: skip
    """Logits float32 `[B, V]` after the first `counts` `[B]` tokens, or `[B, T, V]` of all where it is None."""
    batch, tokens, _ = x.shape
    if counts is not None:
        last = (counts - 1).clamp(min=0)
        x = x.flatten(0, 1).index_select(0, last + torch.arange(batch, device=x.device) * tokens).unsqueeze(1)
    logits = decoder.head(StaticOps(part.weights, part.packed, convert), x).float()
    return logits if counts is None else logits.squeeze(1)


def greedy(
    run: Run,
    ids: torch.Tensor,
    held: torch.Tensor,
    room: torch.Tensor,
    count: int,
    after: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """The `count` likeliest tokens one after the other, int32 `[B, count]`, on the device; `after` each step.

    ids int32 `[B, 1]` follow `held` int32 `[B]` tokens; no value is read on the host, and each choice is fed back.
    """
    counts = torch.ones_like(held, dtype=torch.int64)
    chosen = []
    for _ in range(count):
        length = (held.max() + 1).to(torch.int32)
        ids = run(ids, held, counts, length, room, False).argmax(-1, keepdim=True).to(torch.int32)
        held = held + 1
        chosen.append(ids)
        after()
    return torch.cat(chosen, dim=1)


def _constants(decoder: Decoder, layer: int, device: str) -> Constants:
    spec = next(
        iter(attention_specs(decoder, layer)), None
    )  # a block has one at most: its states have names of their own
    return Constants() if spec is None else Constants.of(spec, device)


def _shapes(weights: Mapping[str, torch.Tensor], packed: Mapping[str, Stored], skip: int) -> Hashable:
    """Names within the block, kinds and shapes: what must be equal for two layers to share a graph."""
    floats = [(name[skip:], tuple(weight.shape)) for name, weight in sorted(weights.items())]
    words = [
        (name[skip:], type(stored).__name__, tuple(tuple(words.shape) for words in stored.tensors()))
        for name, stored in sorted(packed.items())
    ]
    return (tuple(floats), tuple(words))
