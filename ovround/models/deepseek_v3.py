"""DeepSeek-V3, DeepSeek-R1 and Kimi-K2: latent attention, and experts chosen from groups by sigmoid scores and a bias.

Blocks behind the last one predict further tokens; `checkpoint.leftovers` leaves them out by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout, fused_rows
from ovround.models.ops import Experts, ExpertWeights, Routing
from ovround.models.parts.experts import ExpertMlp
from ovround.models.parts.latent_attention import LatentAttention, LatentHeads
from ovround.models.parts.part import Part
from ovround.models.parts.shared_expert import SharedExpertMlp
from ovround.models.rope import rope_from_config
from ovround.models.standard import StandardParts, read_parts, read_shares

SHARED = {f"mlp.shared_expert.{name}": f"mlp.shared_experts.{name}" for name in ("gate_proj", "up_proj", "down_proj")}
LATENT = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a DeepSeek-V3 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, {"n_routed_experts": ("num_local_experts", "n_routed_experts")})
    refuse_other_choices(read, "sigmoid", "noaux_tc")
    parts = read_parts(without_bias(read), positions=4096)
    attention = read_latent(read, parts, query_rank=1536)
    routing = read_routing(read, groups=8, top_groups=4, factor=2.5)
    mixture = read_mixture(read, parts, routing, weights=read_shares(read, default=True), count=256, top_k=8, size=2048)
    first = read.integer("first_k_dense_replace", 3)
    mlps = [parts.mlp if layer < first else mixture for layer in range(parts.config.num_hidden_layers)]
    return parts.decoder([attention], mlps, layout=latent_layout(attention, mixture))


def without_bias(read: ConfigReader) -> ConfigReader:
    """`read` for `read_parts`: MLPs without biases, and heads that only latent attention has."""
    return ConfigReader({**read.config, "mlp_bias": False, "num_key_value_heads": None, "head_dim": None})


def read_latent(
    read: ConfigReader,
    parts: StandardParts,
    *,
    query_rank: int | None,
    sizes: Mapping[str, int] = LATENT,
    interleaved: bool | None = None,
) -> LatentAttention:
    """Latent attention by DeepSeek's keys, with the family's defaults for what may be missing.

    `q_lora_rank` null: queries are one projection. YaRN's `mscale_all_dim` stretches the scores as transformers does
    (`yarn_apply_mscale`). Without `interleaved`, `rope_interleave` says whether neighbours are pairs.
    """
    heads = parts.attention.spec.num_heads
    read.refuse("num_key_value_heads", heads)
    rank, nope, turned, value = (read.integer(key, size) for key, size in sizes.items())
    rope = rope_from_config({**read.config, "head_dim": turned}, turned)
    scale = max(nope + turned, 1) ** -0.5
    stated = read.config.get("rope_scaling") or read.config.get("rope_parameters") or {}
    stretch = ConfigReader(stated).number("mscale_all_dim", 0.0)
    if rope.variant != "default" and stretch and rope.factor > 1:
        scale *= (0.1 * stretch * math.log(rope.factor) + 1) ** 2
    if interleaved is None:
        interleaved = read.flag("rope_interleave", default=True)
    if "q_lora_rank" in read.config:
        query_rank = read.integer("q_lora_rank", 0) if read.config["q_lora_rank"] is not None else None
    bias = read.flag("attention_bias", default=False)
    latent = LatentHeads(heads, rank, nope, value, scale, rope, interleaved)
    # the two norms inside have transformers' default, whatever config.json says of the others
    return LatentAttention(parts.config.hidden_size, latent, query_rank, bias, norm_eps=1e-6)


def latent_layout(attention: LatentAttention, mixture: Part | None = None) -> Layout:
    """Where DeepSeek's checkpoints keep the projections that they join, and the shared experts."""
    heads = attention.heads
    joined = fused_rows("self_attn.kv_a_proj_with_mqa", heads.latent_rank, heads.rope.dim)
    by_head = fused_rows("self_attn.kv_b_proj", heads.nope_dim, heads.value_dim)
    names = ("kv_a_proj", "k_rope_proj", "k_b_proj", "v_b_proj")
    modules = {f"self_attn.{name}": place for name, place in zip(names, (*joined, *by_head), strict=True)}
    return Layout({**modules, **SHARED}, experts_count=experts_count(mixture))


def experts_count(mixture: Part | None) -> int:
    """How many experts a mixture has."""
    experts = mixture.experts if isinstance(mixture, SharedExpertMlp) else mixture
    return experts.spec.count if isinstance(experts, ExpertMlp) else 0


def refuse_other_choices(read: ConfigReader, scores: str, *methods: str) -> None:
    """Refuse what DeepSeek's own code would choose experts by, and this family's does not."""
    read.refuse("scoring_func", scores)
    read.refuse("topk_method", *methods)
    read.refuse("moe_layer_freq", 1)


def read_routing(
    read: ConfigReader, *, groups: int = 1, top_groups: int = 1, factor: float = 1.0, least_sum: float = 1e-20
) -> Routing:
    """DeepSeek-V3's choice of experts by its keys, with the family's defaults."""
    return Routing(
        groups=read.integer("n_group", groups),
        top_groups=read.integer("topk_group", top_groups),
        factor=read.number("routed_scaling_factor", factor),
        least_sum=least_sum,
    )


def read_mixture(
    read: ConfigReader,
    parts: StandardParts,
    routing: Routing,
    *,
    weights: ExpertWeights,
    count: int | None,
    top_k: int | None,
    size: int | None,
    shared: int | None = 1,
    bias_axes: int = 0,
) -> Part:
    """Experts by DeepSeek's keys, and `n_shared_experts` beside them as one MLP; the family's defaults, None for none."""
    inner = read.integer("moe_intermediate_size", size)
    spec = Experts(
        read.integer("n_routed_experts", count),
        read.integer("num_experts_per_tok", top_k),
        inner,
        weights,
        parts.mlp.activation,
        routing=routing,
    )
    experts = ExpertMlp(parts.config.hidden_size, spec, bias_axes=bias_axes)
    beside = read.integer("n_shared_experts", shared)
    if not beside:
        return experts
    return SharedExpertMlp(experts, replace(parts.mlp, intermediate_size=inner * beside), gated=False)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "deepseek_v3", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 160, "max_position_embeddings": 256, "q_lora_rank": 96,
        "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 32, "moe_intermediate_size": 64,
        "n_routed_experts": 8, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2, "first_k_dense_replace": 1,
    }  # fmt: skip
    yarn = {
        "type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "mscale": 0.8, "mscale_all_dim": 1.2,
        "beta_fast": 32, "beta_slow": 1,
    }  # fmt: skip
    other = {"q_lora_rank": None, "rope_interleave": False, "attention_bias": True, "norm_topk_prob": False}
    sizes = {"v_head_dim": 16, "kv_lora_rank": 64, "n_shared_experts": 2, "first_k_dense_replace": 0, "n_group": 1}
    return [base, {**base, **other, **sizes, "topk_group": 1, "rope_scaling": yarn, "tie_word_embeddings": True}]
