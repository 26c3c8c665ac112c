"""Per-layer inputs: each block has an embedding table of its own, whose row a token is given once more (Gemma 3n and 4)."""

from __future__ import annotations

from dataclasses import dataclass

from ovround.models.ops import Activation, Ops, T
from ovround.models.parts.ends import SHARED_EMBEDDINGS, SHARED_IDS
from ovround.models.parts.known_ids import KnownIds
from ovround.models.parts.part import Linear, check_size
from ovround.models.state import State

_HALF = 2**-0.5


@dataclass(frozen=True, slots=True)
class PerLayerInput:
    """projection(activation(gate(x)) * given), where `given` comes from the token alone.

    `given` is (norm(model_projection(embedding) / sqrt(hidden_size)) + sqrt(size) * row of the table) / sqrt(2). With `partial`
    the table has fewer rows than the vocabulary; the first one serves ids beyond it.
    """

    hidden_size: int
    size: int
    vocab_size: int
    activation: Activation
    norm_eps: float
    partial: bool = False
    name: str = "per_layer_input"

    def __post_init__(self) -> None:
        check_size("hidden_size_per_layer_input", self.size)
        check_size("vocab_size_per_layer_input", self.vocab_size)

    @property
    def inner_size(self) -> int:
        return 3 * self.size

    def floats(self) -> dict[str, tuple[int, ...]]:
        """The table among them: rows are looked up, so it is quantised as the embedding is (`ends.is_table`)."""
        return {"embed_tokens.weight": (self.vocab_size, self.size), "projection_norm.weight": (self.size,)}

    def linears(self) -> tuple[Linear, ...]:
        hidden, size = self.hidden_size, self.size
        return (
            Linear("model_projection", size, hidden),
            Linear("gate", size, hidden),
            Linear("projection", hidden, size),
        )

    def states(self) -> tuple[State, ...]:
        return ()

    def given(self, ops: Ops[T], at: str, layer: int) -> T:
        """`[B, T, size]` for the tokens of this step."""
        ids = ops.shared(SHARED_IDS)
        if self.partial:
            ids = ops.call(KnownIds(self.vocab_size), (ids,), layer)
        row = ops.embedding(ids, f"{at}.embed_tokens")
        projected = ops.linear(ops.shared(SHARED_EMBEDDINGS), f"{at}.model_projection")
        # A norm of y / sqrt(hidden_size) is one of y with a larger epsilon.
        projected = ops.rms_norm(projected, f"{at}.projection_norm", self.norm_eps * self.hidden_size)
        return ops.add(ops.scale(projected, _HALF), ops.scale(row, _HALF * self.size**0.5))

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        gate = ops.activation(ops.linear(x, f"{at}.gate"), self.activation)
        return ops.linear(ops.mul(gate, self.given(ops, at, layer)), f"{at}.projection")
