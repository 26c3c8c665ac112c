"""Multi-head latent attention (DeepSeek-V2, section 2.1): keys and values of all heads come from one short vector a token.

Heads differ in what they make of the vector, so the cache holds the vector and one rotated key, not heads. Engines never
make keys and values of it: a query is multiplied by its head's part of `k_b_proj` instead, and what attention gives by its
part of `v_b_proj` (the paper's "absorbed" form). All heads then share one key and one value, and the verb `attention` with
its cache, windows and kernels does the rest. torch, which tunes the two projections as linear layers, expands them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovround.errors import ArchitectureError
from ovround.models.ops import Attention, Ops, T
from ovround.models.parts.attention import PositionScale
from ovround.models.parts.part import Linear, check_size
from ovround.models.rope import Rope
from ovround.models.state import State


@dataclass(frozen=True, slots=True)
class LatentHeads:
    """The verb: queries `[B, T, H * (N + P)]`, latent `[B, T, R]` and key `[B, T, P]` to rotate -> `[B, T, H * V]`.

    Of a query's or key's features the N first come from the latent (`nope_dim`), the P last are rotated (`rope.dim`); in
    pairs of neighbours where `interleaved`. `{at}.k_b_proj` is `[H * N, R]`, `{at}.v_b_proj` `[H * V, R]`.
    """

    num_heads: int
    latent_rank: int
    nope_dim: int
    value_dim: int
    scale: float
    rope: Rope
    interleaved: bool = True
    name: str = "latent_attention"

    @property
    def attention(self) -> Attention:
        """What attends in the absorbed form: one key head, rotated features first, then the latent ones."""
        size = self.rope.dim + self.latent_rank
        return Attention(self.num_heads, 1, size, self.scale, self.rope)

    @property
    def expanded(self) -> Attention:
        """What attends where keys are computed for each head: rotated features first."""
        size = self.rope.dim + self.nope_dim
        return Attention(self.num_heads, self.num_heads, size, self.scale, self.rope)

    def rotated_order(self) -> list[int]:
        """The features of a rotated part, such that feature j turns with j + P / 2."""
        dim = self.rope.dim
        return [*range(0, dim, 2), *range(1, dim, 2)] if self.interleaved else list(range(dim))

    def query_order(self) -> list[int]:
        """The features of a query head with the rotated ones first."""
        return [self.nope_dim + feature for feature in self.rotated_order()] + list(range(self.nope_dim))


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """A mixer; `heads` says what the verb computes. Without `query_rank` queries are one projection.

    With `query_scale` queries are multiplied by a number of their position.
    """

    hidden_size: int
    heads: LatentHeads
    query_rank: int | None
    bias: bool = False
    norm_eps: float = 1e-6
    query_scale: PositionScale | None = None
    name: str = "self_attn"

    def __post_init__(self) -> None:
        heads = self.heads
        sizes = {
            "num_attention_heads": heads.num_heads, "kv_lora_rank": heads.latent_rank,
            "qk_nope_head_dim": heads.nope_dim, "v_head_dim": heads.value_dim,
        }  # fmt: skip
        for name, size in sizes.items():
            check_size(name, size)
        if self.query_rank is not None:
            check_size("q_lora_rank", self.query_rank)
        if heads.rope.dim % 2:
            raise ArchitectureError(f"qk_rope_head_dim is {heads.rope.dim}; an even number is needed")

    @property
    def inner_size(self) -> int:
        heads = self.heads
        return heads.num_heads * (2 * heads.expanded.head_dim + heads.value_dim)

    def floats(self) -> dict[str, tuple[int, ...]]:
        query = {} if self.query_rank is None else {"q_a_layernorm.weight": (self.query_rank,)}
        return {**query, "kv_a_layernorm.weight": (self.heads.latent_rank,)}

    def linears(self) -> tuple[Linear, ...]:
        heads, hidden, rank = self.heads, self.hidden_size, self.heads.latent_rank
        queries = heads.num_heads * (heads.nope_dim + heads.rope.dim)
        if self.query_rank is None:
            first: tuple[Linear, ...] = (Linear("q_proj", queries, hidden),)
        else:
            first = (
                Linear("q_a_proj", self.query_rank, hidden, self.bias, fused="qkv_a_proj"),
                Linear("q_b_proj", queries, self.query_rank),
            )
        joined = "kv_a_proj_with_mqa" if self.query_rank is None else "qkv_a_proj"
        return (
            *first,
            Linear("kv_a_proj", rank, hidden, self.bias, fused=joined),
            Linear("k_rope_proj", heads.rope.dim, hidden, self.bias, fused=joined),
            Linear("k_b_proj", heads.num_heads * heads.nope_dim, rank, decoded=True),
            Linear("v_b_proj", heads.num_heads * heads.value_dim, rank, decoded=True),
            Linear("o_proj", hidden, heads.num_heads * heads.value_dim, self.bias),
        )

    def states(self) -> tuple[State, ...]:
        shape = (1, 0, self.heads.attention.head_dim)
        return (State("key", shape, grows=1), State("value", shape, grows=1))

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        if self.query_rank is None:
            q = ops.linear(x, f"{at}.q_proj")
        else:
            q = ops.rms_norm(ops.linear(x, f"{at}.q_a_proj"), f"{at}.q_a_layernorm", self.norm_eps)
            q = ops.linear(q, f"{at}.q_b_proj")
        if self.query_scale is not None:  # before the rotation, with which a factor commutes
            q = ops.call(self.query_scale, (q,), layer)
        latent = ops.rms_norm(ops.linear(x, f"{at}.kv_a_proj"), f"{at}.kv_a_layernorm", self.norm_eps)
        attended = ops.call(self.heads, (q, latent, ops.linear(x, f"{at}.k_rope_proj")), layer)
        return ops.linear(attended, f"{at}.o_proj")
