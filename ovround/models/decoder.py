"""The decoder that most families share: embedding, blocks of attention and gated MLP with pre-norms, final norm, head.

A family file (`llama.py`) reads its config.json into a `DecoderConfig` and returns a `Decoder`; a family that differs
writes its own functions over the same `Ops`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovround.errors import ArchitectureError
from ovround.models.ops import Attention, Ops, T
from ovround.models.rope import Rope

EMBEDDING = "model.embed_tokens"
HEAD = "lm_head"
_FUSED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}
# Far beyond any model; they keep a hostile config.json from asking for endless work before its tensors are looked at.
_LARGEST = {"num_hidden_layers": 10_000, "max_position_embeddings": 1 << 24}
_LARGEST_SIZE = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes and switches, under Hugging Face's names."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: Rope
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool

    def __post_init__(self) -> None:
        for name in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "head_dim", "vocab_size", "max_position_embeddings",
        ):  # fmt: skip
            if not 0 < getattr(self, name) <= _LARGEST.get(name, _LARGEST_SIZE):
                allowed = f"1 to {_LARGEST.get(name, _LARGEST_SIZE)} is allowed"
                raise ArchitectureError(f"{name} is {getattr(self, name)!r:.40}; {allowed}")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ArchitectureError(
                f"{self.num_attention_heads} attention heads are no multiple of {self.num_key_value_heads} key/value heads"
            )


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model as functions over `Ops`; `head_at` is the module that gives the logits (the embedding where they are tied)."""

    config: DecoderConfig
    head_at: str

    @property
    def embedding_at(self) -> str:
        return EMBEDDING

    @property
    def norm_at(self) -> str:
        return "model.norm"

    def block_at(self, layer: int) -> str:
        return f"model.layers.{layer}"

    def embed(self, ops: Ops[T], ids: T) -> T:
        """Token ids `[B, T]` -> hidden states `[B, T, hidden_size]`."""
        return ops.embedding(ids, self.embedding_at)

    def block(self, ops: Ops[T], x: T, layer: int) -> T:
        """One transformer block, `[B, T, hidden_size]` -> the same."""
        at, eps = self.block_at(layer), self.config.rms_norm_eps
        x = ops.add(x, self._attention(ops, ops.rms_norm(x, f"{at}.input_layernorm", eps), layer))
        return ops.add(x, mlp(ops, ops.rms_norm(x, f"{at}.post_attention_layernorm", eps), f"{at}.mlp"))

    def head(self, ops: Ops[T], x: T) -> T:
        """Final norm and projection, `[B, T, hidden_size]` -> logits `[B, T, vocab_size]`."""
        return ops.linear(ops.rms_norm(x, self.norm_at, self.config.rms_norm_eps), self.head_at)

    def logits(self, ops: Ops[T], ids: T) -> T:
        """The whole model: token ids `[B, T]` -> logits `[B, T, vocab_size]`."""
        x = self.embed(ops, ids)
        for layer in range(self.config.num_hidden_layers):
            x = self.block(ops, x, layer)
        return self.head(ops, x)

    def _attention(self, ops: Ops[T], x: T, layer: int) -> T:
        at = f"{self.block_at(layer)}.self_attn"
        q, k, v = (ops.linear(x, f"{at}.{name}_proj") for name in "qkv")
        return ops.linear(ops.attention(q, k, v, layer, self.attention_spec), f"{at}.o_proj")

    @property
    def attention_spec(self) -> Attention:
        c = self.config
        return Attention(c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.head_dim**-0.5, c.rope)

    def tensors(self, part: int | None = None) -> dict[str, tuple[int, ...]]:
        """Name and shape of each tensor: of block `part`, or of what is outside the blocks when None."""
        c = self.config
        if part is None:
            shapes: dict[str, tuple[int, ...]] = {
                f"{self.embedding_at}.weight": (c.vocab_size, c.hidden_size),
                f"{self.norm_at}.weight": (c.hidden_size,),
            }
            if self.head_at != self.embedding_at:
                shapes[f"{self.head_at}.weight"] = (c.vocab_size, c.hidden_size)
            return shapes
        at = self.block_at(part)
        shapes = {f"{at}.{norm}.weight": (c.hidden_size,) for norm in ("input_layernorm", "post_attention_layernorm")}
        for name, (rows, columns, bias) in self._projections().items():
            shapes[f"{at}.{name}.weight"] = (rows, columns)
            if bias:
                shapes[f"{at}.{name}.bias"] = (rows,)
        return shapes

    def linears(self, layer: int) -> tuple[str, ...]:
        """The projections of block `layer`, in the order in which they are computed: what quantisation replaces."""
        return tuple(f"{self.block_at(layer)}.{name}" for name in self._projections())

    def fused(self, layer: int) -> tuple[tuple[str, ...], ...]:
        """`linears(layer)`, those together that engines compute in one multiplication and that therefore share their bits."""
        groups: dict[str, list[str]] = {}
        for name in self.linears(layer):
            parent, _, last = name.rpartition(".")
            groups.setdefault(f"{parent}.{_FUSED.get(last, last)}", []).append(name)
        return tuple(tuple(group) for group in groups.values())

    def _projections(self) -> dict[str, tuple[int, int, bool]]:
        c = self.config
        q, kv = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        return {
            "self_attn.q_proj": (q, c.hidden_size, c.attention_bias),
            "self_attn.k_proj": (kv, c.hidden_size, c.attention_bias),
            "self_attn.v_proj": (kv, c.hidden_size, c.attention_bias),
            "self_attn.o_proj": (c.hidden_size, q, c.attention_bias),
            "mlp.gate_proj": (c.intermediate_size, c.hidden_size, c.mlp_bias),
            "mlp.up_proj": (c.intermediate_size, c.hidden_size, c.mlp_bias),
            "mlp.down_proj": (c.hidden_size, c.intermediate_size, c.mlp_bias),
        }


def mlp(ops: Ops[T], x: T, at: str) -> T:
    """Gated MLP, `[B, T, hidden_size]` -> the same."""
    gate = ops.silu(ops.linear(x, f"{at}.gate_proj"))
    return ops.linear(ops.mul(gate, ops.linear(x, f"{at}.up_proj")), f"{at}.down_proj")
