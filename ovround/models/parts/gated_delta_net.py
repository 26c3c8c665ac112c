"""Gated delta nets (Yang et al. 2024): linear attention whose state forgets, and is corrected by each token.

The mixer of Qwen3-Next and Qwen3.5: a short convolution over query, key and value, the delta rule, and an output that is
normalised and gated by head.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovround.errors import ArchitectureError
from ovround.models.ops import Activation, Ops, T
from ovround.models.parts.causal_convolution import CausalConvolution
from ovround.models.parts.part import Linear, check_size
from ovround.models.state import State

RECURRENT = "recurrent"
NORM_EPS = 1e-6  # of the lengths of queries and keys, in the reference implementation and in every kernel
_LARGEST_HEAD = 1 << 12


@dataclass(frozen=True, slots=True)
class GatedDeltaRule:
    """The verb: query, key and value side by side `[B, T, 2 H_k D_k + H_v D_v]`, a and b `[B, T, H_v]` -> `[B, T, H_v D_v]`.

    With q and k of length 1, decay s_t = exp(-exp(A_log) softplus(a_t + dt_bias)) and share sigmoid(b_t), a value head does

        S_t = s_t S_(t-1) + k_t (x) share_t (v_t - s_t S_(t-1)^T k_t)        o_t = S_t^T q_t / sqrt(D_k)

    and H_v / H_k neighbours share a query and a key. The module `at` has `{at}.A_log` and `{at}.dt_bias` `[H_v]`; S stays as
    the state `recurrent` `[H_v, D_k, D_v]` in float32. A token whose query, key and value are zero leaves a state of zeros.
    """

    at: str
    key_heads: int
    value_heads: int
    key_size: int
    value_size: int
    name: str = "gated_delta_rule"

    @property
    def widths(self) -> tuple[int, int, int]:
        """Features of all queries, keys and values."""
        keys = self.key_heads * self.key_size
        return keys, keys, self.value_heads * self.value_size


@dataclass(frozen=True, slots=True)
class GatedDeltaNet:
    """The mixer; `key_heads` divide `value_heads`. Decay, convolution and the two gates' projections stay in float.

    `activation` is that of the convolution; the gate's is always silu.
    """

    hidden_size: int
    key_heads: int
    value_heads: int
    key_size: int
    value_size: int
    kernel_size: int
    norm_eps: float
    activation: Activation = "silu"
    name: str = "linear_attn"

    def __post_init__(self) -> None:
        check_size("linear_num_key_heads", self.key_heads)
        check_size("linear_num_value_heads", self.value_heads)
        check_size("linear_key_head_dim", self.key_size, _LARGEST_HEAD)
        check_size("linear_value_head_dim", self.value_size, _LARGEST_HEAD)
        if self.value_heads % self.key_heads:
            raise ArchitectureError(
                f"linear_num_value_heads {self.value_heads} is no multiple of linear_num_key_heads {self.key_heads}"
            )
        self._convolution("")  # checks its kernel

    @property
    def inner_size(self) -> int:
        return sum(self._rule("").widths) + self.value_heads * self.value_size

    def floats(self) -> dict[str, tuple[int, ...]]:
        gates = {f"in_proj_{gate}.weight": (self.value_heads, self.hidden_size) for gate in "ba"}
        rule = {"A_log": (self.value_heads,), "dt_bias": (self.value_heads,), "norm.weight": (self.value_size,)}
        return gates | self._convolution("").floats() | rule

    def linears(self) -> tuple[Linear, ...]:
        keys, _, values = self._rule("").widths
        sizes = {"q": keys, "k": keys, "v": values, "z": values}
        projections = (
            Linear(f"in_proj_{name}", size, self.hidden_size, fused="in_proj_qkvz") for name, size in sizes.items()
        )
        return (*projections, Linear("out_proj", self.hidden_size, values))

    def states(self) -> tuple[State, ...]:
        recurrent = State(RECURRENT, (self.value_heads, self.key_size, self.value_size), dtype="float32")
        return (*self._convolution("").states(), recurrent)

    def forward(self, ops: Ops[T], x: T, at: str, layer: int) -> T:
        q, k, v, z = (ops.linear(x, f"{at}.in_proj_{name}") for name in "qkvz")
        b, a = ops.linear(x, f"{at}.in_proj_b"), ops.linear(x, f"{at}.in_proj_a")
        mixed = self._convolution(f"{at}.").forward(ops, q, layer, beside=(k, v))
        if self.activation != "silu":
            mixed = ops.activation(mixed, self.activation)
        out = ops.rms_norm(
            ops.call(self._rule(at), (mixed, a, b), layer), f"{at}.norm", self.norm_eps, self.value_heads
        )
        return ops.linear(ops.mul(out, ops.activation(z, "silu")), f"{at}.out_proj")

    def _convolution(self, at: str) -> CausalConvolution:
        channels = sum(self._rule("").widths)
        return CausalConvolution(f"{at}conv1d", channels, self.kernel_size, silu=self.activation == "silu")

    def _rule(self, at: str) -> GatedDeltaRule:
        return GatedDeltaRule(at, self.key_heads, self.value_heads, self.key_size, self.value_size)
