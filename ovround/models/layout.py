"""Where a family's checkpoint keeps what the decoder calls by Llama's names.

The decoder, the plan, the exporters and the tuner know one set of names. A family whose checkpoint says otherwise gives a
`Layout`; joined projections are taken apart by rows as they are read, which no grid notices, since a scale never spans rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ovround.tensors.tensor_source import Rows, TensorSource

BLOCKS = "model.layers"
_EXPERT = re.compile(r"mlp\.experts\.(\d+)\.(\w+)")
_IN_BLOCK = re.compile(rf"{re.escape(BLOCKS)}\.(\d+)\.(.+)")


@dataclass(frozen=True, slots=True)
class Fused:
    """A part of the checkpoint's module `name`, which holds several."""

    name: str
    rows: Rows


@dataclass(frozen=True, slots=True)
class OfAllLayers:
    """The checkpoint's module `name` outside the blocks, which holds that of all `layers` one after the other along `axis`.

    None: all layers have the same.
    """

    name: str
    layers: int
    axis: Literal[0, 1] | None

    def source(self, kind: str, shape: tuple[int, ...], layer: int) -> TensorSource:
        """Where one layer's tensor of `shape` lies."""
        name = f"{self.name}.{kind}"
        if self.axis is None:
            return TensorSource(name, shape)
        size = shape[self.axis]
        start, stop = layer * size, (layer + 1) * size
        whole = tuple(count * self.layers if axis == self.axis else count for axis, count in enumerate(shape))
        if self.axis == 0:
            return TensorSource(name, whole, Rows(start, stop, whole[0]))
        return TensorSource(name, whole, columns=slice(start, stop))


Module = str | Fused | OfAllLayers
"""Where a module lies in a checkpoint."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The checkpoint's name of each module that has another than Llama's, those in a block without the block's name.

    Of a tensor that has not its module's name, that of the tensor.

    `blocks` stands in for `model.layers`; `transposed` linear layers lie as `[K, N]`; norms are stored less `norm_offset`, but
    for the modules `whole_norms` of a block;
    `ignored` ends the names of buffers that old checkpoints hold and nobody reads. `experts` says what the modules of
    each of `experts_count` are called; transformers 5 joins them, `[E, 2I, H]` and `[E, H, I]`, and checkpoints come either way.
    `stacked_experts` always lie so, `[E, K, N]`, their biases `[E, N]` beside them (gpt-oss). `stacks` names the joined tensors
    of a block where they are not transformers' (Granite); with one for `up_proj` there is no gate beside it. `experts_joined`:
    no checkpoint holds them apart.
    """

    modules: Mapping[str, Module] = field(default_factory=dict)
    blocks: str = BLOCKS
    transposed: bool = False
    norm_offset: float = 0.0
    whole_norms: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    experts: Mapping[str, str] = field(default_factory=dict)
    experts_count: int = 0
    stacked_experts: bool = False
    stacks: Mapping[str, str] = field(default_factory=dict)
    experts_joined: bool = False

    def source(self, name: str, shape: tuple[int, ...]) -> TensorSource:
        """Where tensor `name` of `shape` lies."""
        module, _, kind = name.rpartition(".")
        inside = _IN_BLOCK.fullmatch(module)
        expert = _EXPERT.fullmatch(inside[2]) if inside else None
        if inside and expert and self.stacked_experts:
            stack = f"{self.blocks}.{inside[1]}.mlp.experts.{expert[2]}{'_bias' if kind == 'bias' else ''}"
            transposed = len(shape) > 1
            return TensorSource(stack, (self.experts_count, *shape[::-1]), transposed=transposed, index=int(expert[1]))
        if inside and expert and kind == "weight" and len(shape) == 2:
            return self._expert(f"{self.blocks}.{inside[1]}", int(expert[1]), expert[2], shape)
        own = inside[2] if inside else module
        renamed = self.modules.get(f"{own}.{kind}")
        if inside and isinstance(renamed, str):
            return TensorSource(f"{self.blocks}.{inside[1]}.{renamed}", shape)
        stored = self.modules.get(own, own)
        if inside and isinstance(stored, OfAllLayers):
            return stored.source(kind, shape, int(inside[1]))
        rows = stored.rows if isinstance(stored, Fused) else None
        path = stored.name if isinstance(stored, Fused) else stored
        if rows is not None:
            shape = (shape[0] // (rows.stop - rows.start) * rows.size, *shape[1:])
        transposed = self.transposed and inside is not None and len(shape) == 2
        alike = f"{self.blocks}.{inside[1]}.{inside[2]}.{kind}" if inside and inside[2] == "mlp.gate" else ""
        less = kind == "weight" and "norm" in module.rpartition(".")[2] and own not in self.whole_norms
        add = self.norm_offset if less else 0.0
        full = f"{self.blocks}.{inside[1]}.{path}.{kind}" if inside else f"{path}.{kind}"
        other = TensorSource(alike, shape) if alike not in ("", full) else None  # the router beside joined experts
        return TensorSource(full, shape[::-1] if transposed else shape, rows, transposed, add, otherwise=other)

    def _expert(self, block: str, expert: int, last: str, shape: tuple[int, ...]) -> TensorSource:
        """`last` of one expert: a tensor of its own, or a part of one that holds all experts' gate and up, or down."""
        at = f"{block}.{self.modules.get('mlp.experts', 'mlp.experts')}"
        count, (rows, columns) = self.experts_count, shape
        whole, kind, part = (count, rows, columns), last, None
        if last != "down_proj" and last not in self.stacks:
            start = rows * (last == "up_proj")
            whole, kind, part = (count, 2 * rows, columns), "gate_up_proj", Rows(start, start + rows, 2 * rows)
        own = f"{block}.{self.stacks[kind]}" if kind in self.stacks else f"{at}.{kind}"
        joined = TensorSource(own, whole, part, index=expert)
        usual = f"{block}.mlp.experts.{kind}"
        if own != usual and kind not in self.stacks:
            joined = TensorSource(usual, whole, part, index=expert, otherwise=joined)
        return TensorSource(f"{at}.{expert}.{self.experts.get(last, last)}.weight", shape, otherwise=joined)


def fused_rows(name: str, *sizes: int) -> tuple[Fused, ...]:
    """The parts of a module that holds them one after the other, `sizes` rows each; repeated to the end of its rows."""
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return tuple(Fused(name, Rows(end - size, end, sum(sizes))) for size, end in zip(sizes, ends, strict=True))


def attention_of(name: str, *sizes: int) -> dict[str, Module]:
    """Query, key and value projections that the module `name` holds together, `sizes` rows each, by head or all at once."""
    return dict(zip((f"self_attn.{letter}_proj" for letter in "qkv"), fused_rows(name, *sizes), strict=True))
