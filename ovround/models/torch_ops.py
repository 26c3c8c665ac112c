"""`Ops` computed by torch: to tune, to evaluate the unquantised model, and as the reference of the parity tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from ovround.models.ops import Activation, Attention, Experts, Routing, rotated_norms, shared_name, sinks_name
from ovround.models.rope import Rope
from ovround.models.torch_functions import rms_norm, turn
from ovround.models.verbs import Verb, implementation

_SHORT = 512  # tokens: beyond, the scores of all heads would fill the memory
_QUERIES = 128  # queries at a time


class TorchOps:
    """Computes on the weights it is given, in their own floating-point type; a residual stream of another stays in that.

    Positions start at 0 for every row; `keep_cache` keeps each layer's state so that the next call continues after it.
    `activation_groups` names the linear layers whose input an engine rounds to 8 bits, and how many features share a scale.
    """

    backend = "torch"

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        *,
        keep_cache: bool = False,
        activation_groups: Mapping[str, int] | None = None,
    ) -> None:
        self.weights = weights
        self.keep_cache = keep_cache
        self.activation_groups = activation_groups or {}
        self.shared_values: dict[str, torch.Tensor] = {}
        self._states: dict[tuple[int, str], torch.Tensor] = {}
        self._tables: dict[Rope, tuple[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]] = {}

    def embedding(self, ids: torch.Tensor, at: str) -> torch.Tensor:
        return F.embedding(ids, self.weights[f"{at}.weight"])

    def linear(self, x: torch.Tensor, at: str) -> torch.Tensor:
        if at in self.activation_groups:
            x = round_to_8_bits(x, self.activation_groups[at])
        return self.product(x, at)

    def product(self, x: torch.Tensor, at: str) -> torch.Tensor:
        """`linear` of inputs that are rounded already where the engine rounds them."""
        weight, bias = self.weights[f"{at}.weight"], self.weights.get(f"{at}.bias")
        return F.linear(x.to(weight.dtype), weight, bias)

    def position_embedding(self, ids: torch.Tensor, at: str) -> torch.Tensor:
        keys = (state.shape[2] for (_, name), state in self._states.items() if name == "key")
        past, tokens = next(keys, 0), ids.shape[1]
        rows: torch.Tensor = self.weights[f"{at}.weight"][past : past + tokens]
        return rows.expand(ids.shape[0], tokens, -1)

    def rms_norm(self, x: torch.Tensor, at: str, eps: float, heads: int = 1) -> torch.Tensor:
        parts, weight = x.unflatten(-1, (heads, -1)), self.weights[f"{at}.weight"]
        if weight.dtype == torch.bfloat16:
            return rms_norm(parts, weight, eps).flatten(-2)
        return F.rms_norm(parts, (parts.shape[-1],), weight, eps).flatten(-2)

    def layer_norm(self, x: torch.Tensor, at: str, eps: float) -> torch.Tensor:
        weight = self.weights[f"{at}.weight"]
        return F.layer_norm(x.to(weight.dtype), (x.shape[-1],), weight, self.weights.get(f"{at}.bias"), eps)

    def attention(
        self, q: torch.Tensor, k: torch.Tensor | None, v: torch.Tensor | None, layer: int, spec: Attention
    ) -> torch.Tensor:
        batch, tokens, _ = q.shape
        query = q.view(batch, tokens, spec.num_heads, spec.head_dim)
        key, value = self._keys_and_values(k, v, layer, spec, q.dtype)
        past = key.shape[2] - tokens
        if spec.rope is not None:
            query = rotate(query, *self._rotation(spec.rope, past, tokens, q), spec.rope.interleaved)
        if spec.rotated_norm_eps is not None:
            query = self.rms_norm(query, rotated_norms(layer)[0], spec.rotated_norm_eps)
        query = query.transpose(1, 2)
        plain = spec.softcap is None and not spec.sinks
        simple = not past and not spec.alibi and plain and (spec.sliding_window or tokens) >= tokens
        if simple and q.dtype == torch.bfloat16 and q.device.type == "cpu" and tokens <= _SHORT:
            return _short_attention(query, key, value, spec.scale)
        mask = None if simple else _mask(spec, past, tokens, q)
        if spec.sinks:
            out = _attention_with_sinks(query, key, value, mask, spec.scale, self.weights[sinks_name(layer)])
        elif spec.softcap is not None:
            out = _capped_attention(query, key, value, mask, spec.scale, spec.softcap)
        else:
            out = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, scale=spec.scale, enable_gqa=True
            )
        return out.transpose(1, 2).reshape(batch, tokens, -1)

    def _keys_and_values(
        self, k: torch.Tensor | None, v: torch.Tensor | None, layer: int, spec: Attention, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All that a query may see, `[B, H_kv, S, D]`: the layer's own, which are kept, or those of another layer."""
        names = ("key", "value")
        if spec.cache_of is not None:
            key, value = (self.shared(shared_name(spec.cache_of, name)).to(dtype) for name in names)
            return key, value
        if k is None or v is None:
            raise ValueError(f"layer {layer} has no keys and values, and reads none")
        # a value may be of another size than a key
        key, value = (part.unflatten(-1, (spec.num_key_value_heads, -1)) for part in (k, v))
        held_key, held_value = (self.past(layer, name) for name in names)
        if spec.rope is not None:
            past = 0 if held_key is None else held_key.shape[2]
            key = rotate(key, *self._rotation(spec.rope, past, k.shape[1], k), spec.rope.interleaved)
        if spec.rotated_norm_eps is not None:
            key = self.rms_norm(key, rotated_norms(layer)[1], spec.rotated_norm_eps)
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        if held_key is not None and held_value is not None:
            key, value = torch.cat([held_key, key], dim=2), torch.cat([held_value, value], dim=2)
        for name, kept in zip(names, (key, value), strict=True):
            self.keep(layer, name, kept)
            if spec.shared:
                self.share(shared_name(layer, name), kept)
        return key, value

    def share(self, name: str, value: torch.Tensor) -> None:
        self.shared_values[name] = value

    def shared(self, name: str) -> torch.Tensor:
        return self.shared_values[name]

    def experts(self, x: torch.Tensor, at: str, spec: Experts, routed: torch.Tensor | None = None) -> torch.Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen = self.routed(x if routed is None else routed, at, spec)
        weights, chosen = weights.flatten(0, 1), chosen.flatten(0, 1)
        out = torch.zeros_like(tokens)
        for expert in range(spec.count):  # one that nobody chose computes on no rows: its gradient is 0, not missing
            rows, rank = (chosen == expert).nonzero(as_tuple=True)
            given, inside = tokens[rows], f"{at}.experts.{expert}"
            down = self.linear(self._gated(given, inside, spec), f"{inside}.down_proj")
            out = out.index_add(0, rows, down * weights[rows, rank, None])
        return out.view_as(x)

    def _gated(self, x: torch.Tensor, at: str, spec: Experts) -> torch.Tensor:
        """What an expert's down projection gets, `[rows, intermediate_size]`."""
        if not spec.gated:
            return self.activation(self.linear(x, f"{at}.up_proj"), spec.activation)
        if spec.clamped is None:
            gate = self.activation(self.linear(x, f"{at}.gate_proj"), spec.activation)
            return gate * self.linear(x, f"{at}.up_proj")
        both, limit = self.linear(x, f"{at}.gate_up_proj"), spec.clamped.limit
        gate, up = both[..., ::2].clamp(max=limit), both[..., 1::2].clamp(-limit, limit)
        return gate * (spec.clamped.alpha * gate).sigmoid() * (up + 1)

    def routed(self, x: torch.Tensor, at: str, spec: Experts) -> tuple[torch.Tensor, torch.Tensor]:
        """Each token's weights, in the type of `x`, and numbers of its experts, `[B, T, top_k]`."""
        logits = F.linear(x, self.weights[f"{at}.gate.weight"], self.weights.get(f"{at}.gate.bias")).float()
        if spec.routing is not None:
            bias = self.weights[f"{at}.gate.e_score_correction_bias"] if spec.routing.biased else None
            weights, chosen = _routed(logits, bias, spec, spec.routing)
        elif spec.weights == "sparsemixer":
            weights, chosen = _sparsemixer(logits, spec)
        else:
            weights, chosen = logits.softmax(-1).topk(spec.top_k, dim=-1)
            if spec.weights == "share":
                weights = weights / weights.sum(-1, keepdim=True)
        if spec.scaled:
            weights = weights * self.weights[f"{at}.gate.scale"][chosen]
        return weights.to(x.dtype), chosen

    def call(self, verb: Verb, inputs: Sequence[torch.Tensor], layer: int) -> torch.Tensor:
        computed: torch.Tensor = implementation(self.backend, verb.name)(self, verb, inputs, layer)
        return computed

    def activation(self, x: torch.Tensor, kind: Activation) -> torch.Tensor:
        if kind == "silu":
            return F.silu(x)
        if kind == "sigmoid":
            return x.sigmoid()
        if kind == "hardtanh":
            return F.hardtanh(x)
        if kind in ("relu", "relu2"):
            return F.relu(x) if kind == "relu" else F.relu(x).square()
        return F.gelu(x, approximate="tanh" if kind == "gelu_tanh" else "none")

    def softcap(self, x: torch.Tensor, cap: float) -> torch.Tensor:
        return (x / cap).tanh() * cap

    def scale(self, x: torch.Tensor, factor: float) -> torch.Tensor:
        return x * factor

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    def mul(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x * y

    def past(self, layer: int, name: str) -> torch.Tensor | None:
        """The layer's state `name` after the last step, `[B, ...]`; None before the first."""
        return self._states.get((layer, name))

    def keep(self, layer: int, name: str, value: torch.Tensor) -> None:
        """Leave the layer's state for the next step, where there is to be one."""
        if self.keep_cache:
            self._states[layer, name] = value

    def _rotation(self, rope: Rope, past: int, tokens: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin `[T, dim / 2]` of positions past .. past + tokens."""
        at, known = (past, tokens), self._tables.get(rope)
        if known is None or known[0] != at:
            cos, sin = _turns(rope, past, past + tokens)
            known = at, (cos.to(like.device, like.dtype), sin.to(like.device, like.dtype))
            self._tables[rope] = known
        return known[1]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # numpy is no part of a compiled graph
def _turns(rope: Rope, past: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin `[T, dim / 2]` of positions past .. length."""
    cos, sin = rope.cos_sin(length, length)
    return torch.from_numpy(cos[past:]), torch.from_numpy(sin[past:])


def _mask(spec: Attention, past: int, tokens: int, like: torch.Tensor) -> torch.Tensor:
    """What is added to the scores, `[1, T, S]` or by head `[H, T, S]`: ALiBi, and -inf where a query may not look."""
    total = past + tokens
    allowed = torch.ones(tokens, total, dtype=torch.bool, device=like.device).tril(past)
    if spec.sliding_window is not None:
        allowed = allowed.triu(past - spec.sliding_window + 1)
    if not spec.alibi:
        mask = torch.zeros(1, tokens, total, dtype=like.dtype, device=like.device)
    else:
        distances = torch.arange(1 - total, 1, device=like.device, dtype=torch.float32)
        slopes = torch.tensor(spec.slopes(), device=like.device)
        mask = (slopes.view(-1, 1, 1) * distances).to(like.dtype).expand(-1, tokens, -1)
    return mask.masked_fill(~allowed, -torch.inf)


def _sparsemixer(logits: torch.Tensor, spec: Experts) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and numbers of the experts, `[B, T, top_k]`, for router logits `[B, T, E]`."""
    left, weights, chosen = logits, [], []
    for _ in range(spec.top_k):
        highest, expert = left.max(-1, keepdim=True)
        far = (highest - logits) / torch.maximum(logits.abs(), highest) > spec.tolerance
        weights.append(left.masked_fill(far, -torch.inf).softmax(-1).gather(-1, expert))
        chosen.append(expert)
        left = left.scatter(-1, expert, -torch.inf)
    return torch.cat(weights, -1), torch.cat(chosen, -1)


def _routed(
    logits: torch.Tensor, bias: torch.Tensor | None, spec: Experts, routing: Routing
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and numbers of the experts, `[B, T, top_k]`, for router logits `[B, T, E]`."""
    scores = logits.softmax(-1) if routing.scores == "softmax" else logits.sigmoid()
    choice = scores if bias is None else scores + bias.flatten().float()
    if routing.top_groups < routing.groups:
        groups = choice.unflatten(-1, (routing.groups, -1))
        best = groups.amax(-1) if routing.group_score == "highest" else groups.topk(2, dim=-1).values.sum(-1)
        among = torch.zeros_like(best).scatter(-1, best.topk(routing.top_groups, dim=-1).indices, 1.0)
        choice = groups.masked_fill(among.unsqueeze(-1) == 0, -torch.inf).flatten(-2)
    chosen = choice.topk(spec.top_k, dim=-1).indices
    weights = scores.gather(-1, chosen)
    if spec.weights == "share":
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=routing.least_sum)
    return weights * routing.factor, chosen


def _capped_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, scale: float, cap: float
) -> torch.Tensor:
    """Attention whose scores are bounded by `cap`, query `[B, H, T, D]`, key and value `[B, H_kv, S, D]` -> `[B, H, T, D]`."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (heads.repeat_interleave(repeats, dim=1) for heads in (key, value))
    scores = (query @ key.transpose(-1, -2) * (scale / cap)).tanh() * cap
    return (scores if mask is None else scores + mask).softmax(-1) @ value


def _attention_with_sinks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    sinks: torch.Tensor,
) -> torch.Tensor:
    """Attention with one more score a head, `sinks` `[H]`, and no value for it; shapes as in `_capped_attention`."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (heads.repeat_interleave(repeats, dim=1) for heads in (key, value))
    scores = query @ key.transpose(-1, -2) * scale
    scores = scores if mask is None else scores + mask
    sink = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat([scores, sink], -1).softmax(-1)[..., :-1] @ value


def _short_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention from plain matrix products, query `[B, H, T, D]`, key and value `[B, H_kv, T, D]` -> `[B, T, H*D]`.

    Query heads that share a key head are rows of one product; a part of the queries sees only the keys up to its end. With
    8 windows of 256 tokens in bfloat16, forward and backward take 0.4 of what torch's own kernel takes on a CPU.
    """
    batch, heads, tokens, size = query.shape
    shared, repeat = key.shape[1], heads // key.shape[1]
    grouped = query.reshape(batch, shared, repeat, tokens, size)
    parts = []
    for start in range(0, tokens, _QUERIES):
        end = min(start + _QUERIES, tokens)
        rows = grouped[:, :, :, start:end].reshape(batch * shared, -1, size)
        seen_key, seen_value = (seen[:, :, :end].reshape(batch * shared, end, -1) for seen in (key, value))
        hidden = torch.full((end - start, end), -torch.inf, dtype=query.dtype).triu_(start + 1).repeat(repeat, 1)
        scores = torch.baddbmm(hidden.expand(batch * shared, -1, -1), rows, seen_key.transpose(1, 2), alpha=scale)
        part = torch.bmm(scores.softmax(-1), seen_value)
        parts.append(part.view(batch, heads, end - start, -1))
    return torch.cat(parts, 2).transpose(1, 2).reshape(batch, tokens, -1)


def round_to_8_bits(x: torch.Tensor, group: int) -> torch.Tensor:
    """`[B, T, K]` as engines round activations: symmetric int8, one scale for `group` features of a row; gradients pass through.

    A last group that K does not fill stands alone. Scale: largest magnitude / 127, as in ONNX Runtime's MatMulNBits with
    accuracy level 4 and in OpenVINO's dynamic quantisation on CPUs.
    """
    with torch.no_grad():
        padded = F.pad(x, (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))
        scale = padded.abs().amax(-1, keepdim=True).div_(127).clamp_min_(torch.finfo(torch.float32).tiny)
        rounded = (padded / scale).round_().mul_(scale).flatten(-2)[..., : x.shape[-1]]
        change: torch.Tensor = rounded - x
    return x + change


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, interleaved: bool = False) -> torch.Tensor:
    """`[B, T, H, D]`, its first features turned by cos, sin `[T, dim / 2]`: feature j with feature j + dim / 2.

    Where pairs are `interleaved`, feature 2j with 2j + 1.
    """
    size = 2 * cos.shape[-1]
    if interleaved:
        halves = x[..., :size].unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        pairs = rotate(halves, cos, sin).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        return torch.cat([pairs, x[..., size:]], dim=-1)
    cos, sin = torch.cat([cos, cos], -1).unsqueeze(1), torch.cat([-sin, sin], -1).unsqueeze(1)
    if size == x.shape[-1]:
        return turn(x, cos, sin)
    return torch.cat([turn(x[..., :size], cos, sin), x[..., size:]], dim=-1)
