"""A block of Gemma 3n: attention beside a learned residual, then an MLP, on one of several streams, all of which it corrects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ovround.models.block import Block
from ovround.models.ops import Ops, T
from ovround.models.parts.altup import AddToOthers, CorrectStreams, MixStreams, TakeStream
from ovround.models.parts.laurel import Laurel
from ovround.models.parts.norms import NormPlaces
from ovround.models.parts.part import Linear, Part
from ovround.models.parts.per_layer_input import PerLayerInput
from ovround.models.parts.scale_by import ScaleBy
from ovround.models.state import State

PLACES = NormPlaces(
    (
        ("input_layernorm", "post_attention_layernorm"),
        (None, None),
        ("pre_feedforward_layernorm", "post_feedforward_layernorm"),
        (None, "post_per_layer_input_norm"),
    )
)
_SCALE = "altup.correct_output_scale"


@dataclass(frozen=True, slots=True)
class AltUpBlock:
    """`block` has mixer, laurel, MLP and per-layer input as parts at `PLACES`; it gives tensors, and is not computed itself.

    `active` of `count` streams is the one that the parts see. `scaled`: what the per-layer input reads is multiplied by
    `correct_output_scale`.
    """

    block: Block
    count: int
    active: int = 0
    scaled: bool = True

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.block.parts

    @property
    def places(self) -> NormPlaces:
        return self.block.places

    @property
    def residual_scale(self) -> float:
        return self.block.residual_scale

    def tensors(self, at: str) -> dict[str, tuple[int, ...]]:
        """Name and shape of each tensor of the block `at`; those of `altup` stay in float."""
        hidden, count = self.block.norm.size, self.count
        shapes = self.block.tensors(at) | self.block.norm.tensors(f"{at}.altup.router_norm")
        shapes |= {
            f"{at}.altup.modality_router.weight": (count, hidden),
            f"{at}.altup.prediction_coefs.weight": (count * count, count),
            f"{at}.altup.correction_coefs.weight": (count, count),
        }
        return shapes | ({f"{at}.{_SCALE}": (hidden,)} if self.scaled else {})

    def linears(self, at: str) -> Iterator[tuple[str, Linear]]:
        return self.block.linears(at)

    def fused(self, at: str) -> dict[str, list[tuple[str, Linear]]]:
        return self.block.fused(at)

    def states(self) -> tuple[State, ...]:
        return self.block.states()

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        """Streams -> the same."""
        count, take = self.count, TakeStream(self.active, self.count)
        mixer, laurel, mlp, given = self.parts
        coefficients = ops.linear(
            self._modalities(ops, ops.call(take, (x,), layer), at), f"{at}.altup.prediction_coefs"
        )
        x = ops.call(MixStreams(count), (x, coefficients), layer)
        active = ops.call(take, (x,), layer)

        normed = self._norm(ops, active, at, "input_layernorm")
        attended = mixer.forward(ops, normed, f"{at}.{mixer.name}", layer)
        attended = ops.add(active, self._norm(ops, attended, at, "post_attention_layernorm"))
        y = ops.scale(ops.add(attended, laurel.forward(ops, normed, f"{at}.{laurel.name}", layer)), 2**-0.5)
        change = mlp.forward(ops, self._norm(ops, y, at, "pre_feedforward_layernorm"), f"{at}.{mlp.name}", layer)
        y = ops.add(y, self._norm(ops, change, at, "post_feedforward_layernorm"))

        coefficients = ops.linear(self._modalities(ops, y, at), f"{at}.altup.correction_coefs")
        innovation = ops.add(y, ops.scale(active, -1.0))
        x = ops.call(CorrectStreams(count), (x, innovation, coefficients), layer)
        first = ops.call(take, (x,), layer)
        if self.scaled:
            first = ops.call(ScaleBy(f"{at}.{_SCALE}"), (first,), layer)
        added = given.forward(ops, first, f"{at}.{given.name}", layer)
        return ops.call(AddToOthers(count), (x, self._norm(ops, added, at, "post_per_layer_input_norm")), layer)

    def _modalities(self, ops: Ops[T], x: T, at: str) -> T:
        """What coefficients are computed from, `[B, T, count]`."""
        normed = ops.scale(self._norm(ops, x, at, "altup.router_norm"), 1 / self.block.norm.size)
        return ops.softcap(ops.linear(normed, f"{at}.altup.modality_router"), 1.0)

    def _norm(self, ops: Ops[T], x: T, at: str, name: str) -> T:
        return self.block.norm.forward(ops, x, f"{at}.{name}")


def altup_block(block: Block, count: int, active: int, *, scaled: bool) -> AltUpBlock:
    """The block; raises ValueError where the parts of `block` are not those of Gemma 3n."""
    kinds = [type(part) for part in block.parts]
    if len(kinds) != len(PLACES.names) or kinds[1] is not Laurel or kinds[3] is not PerLayerInput:
        raise ValueError(f"parts of a block with streams: {kinds}")
    return AltUpBlock(block, count, active, scaled)
