"""Where a family's checkpoint keeps what the decoder calls by Llama's names.

The decoder, the plan, the exporters and the tuner know one set of names. A family whose checkpoint says otherwise gives a
`Layout`; joined projections are taken apart by rows as they are read, which no grid notices, since a scale never spans rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

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
class Layout:
    """The checkpoint's name of each module that has another than Llama's, those in a block without the block's name.

    Of a tensor that has not its module's name, that of the tensor.

    `blocks` stands in for `model.layers`; `transposed` linear layers lie as `[K, N]`; norms are stored less `norm_offset`;
    `ignored` ends the names of buffers that old checkpoints hold and nobody reads. `experts` says what the modules of
    each of `experts_count` are called; transformers 5 joins them, `[E, 2I, H]` and `[E, H, I]`, and checkpoints come either way.
    `stacked_experts` always lie so, `[E, K, N]`, their biases `[E, N]` beside them (gpt-oss). `stacks` names the joined tensors
    of a block where they are not transformers' (Granite).
    """

    modules: Mapping[str, str | Fused] = field(default_factory=dict)
    blocks: str = BLOCKS
    transposed: bool = False
    norm_offset: float = 0.0
    ignored: tuple[str, ...] = ()
    experts: Mapping[str, str] = field(default_factory=dict)
    experts_count: int = 0
    stacked_experts: bool = False
    stacks: Mapping[str, str] = field(default_factory=dict)

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
        rows = stored.rows if isinstance(stored, Fused) else None
        path = stored.name if isinstance(stored, Fused) else stored
        if rows is not None:
            shape = (shape[0] // (rows.stop - rows.start) * rows.size, *shape[1:])
        transposed = self.transposed and inside is not None and len(shape) == 2
        alike = f"{self.blocks}.{inside[1]}.{inside[2]}.{kind}" if inside and inside[2] == "mlp.gate" else ""
        add = self.norm_offset if kind == "weight" and "norm" in module.rpartition(".")[2] else 0.0
        full = f"{self.blocks}.{inside[1]}.{path}.{kind}" if inside else f"{path}.{kind}"
        other = TensorSource(alike, shape) if alike not in ("", full) else None  # the router beside joined experts
        return TensorSource(full, shape[::-1] if transposed else shape, rows, transposed, add, otherwise=other)

    def _expert(self, block: str, expert: int, last: str, shape: tuple[int, ...]) -> TensorSource:
        """`last` of one expert: a tensor of its own, or a part of one that holds all experts' gate and up, or down."""
        at = f"{block}.{self.modules.get('mlp.experts', 'mlp.experts')}"
        count, (rows, columns) = self.experts_count, shape
        kind = "down_proj" if last == "down_proj" else "gate_up_proj"
        name = f"{block}.{self.stacks.get(kind, f'mlp.experts.{kind}')}"
        if last == "down_proj":
            stacked = TensorSource(name, (count, rows, columns), index=expert)
        else:
            start = rows * (last == "up_proj")
            stacked = TensorSource(name, (count, 2 * rows, columns), Rows(start, start + rows, 2 * rows), index=expert)
        return TensorSource(f"{at}.{expert}.{self.experts.get(last, last)}.weight", shape, otherwise=stacked)


def fused_rows(name: str, *sizes: int) -> tuple[Fused, ...]:
    """The parts of a module that holds them one after the other, `sizes` rows each; repeated to the end of its rows."""
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return tuple(Fused(name, Rows(end - size, end, sum(sizes))) for size, end in zip(sizes, ends, strict=True))


def attention_of(name: str, *sizes: int) -> dict[str, str | Fused]:
    """Query, key and value projections that the module `name` holds together, `sizes` rows each, by head or all at once."""
    return dict(zip((f"self_attn.{letter}_proj" for letter in "qkv"), fused_rows(name, *sizes), strict=True))
