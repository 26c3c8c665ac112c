"""Nemotron-H: blocks of one part each, in any pattern: Mamba 2, attention without rotation, an MLP of squared ReLU, or experts.

The experts have no gate either, and of Nemotron 3 Super work on fewer features. Blocks behind the last one predict further
tokens; `checkpoint.leftovers` leaves them out by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.block import Block
from ovround.models.config_reader import ConfigReader, Names
from ovround.models.decoder import EMBEDDING, HEAD, Decoder
from ovround.models.deepseek_v3 import experts_count, read_routing
from ovround.models.layout import Layout
from ovround.models.mamba2_config import LINEAR, mamba_modules, read_kinds, read_mamba2
from ovround.models.ops import Experts
from ovround.models.parts.experts import ExpertMlp
from ovround.models.parts.mamba2 import Mamba2
from ovround.models.parts.norms import NormPlaces
from ovround.models.parts.part import Part
from ovround.models.parts.shared_expert import SharedExpertMlp
from ovround.models.standard import FULL, StandardParts, read_activation, read_parts, read_shares, with_biases

_NAMES: Names = {
    "rms_norm_eps": "layer_norm_epsilon", "hidden_act": "mlp_hidden_act", "mamba_n_heads": "mamba_num_heads",
    "mamba_d_head": "mamba_head_dim", "mamba_d_state": "ssm_state_size", "mamba_proj_bias": "use_bias",
    "mamba_n_groups": ("mamba_n_groups", "n_groups"), "mamba_d_conv": ("mamba_d_conv", "conv_kernel"),
    "mamba_conv_bias": ("mamba_conv_bias", "use_conv_bias"), "time_step_min": ("mamba_dt_min", "time_step_min"),
    "layer_types": ("layers_block_type", "layer_types"), "n_routed_experts": ("num_local_experts", "n_routed_experts"),
}  # fmt: skip
_MLP, _EXPERTS = "mlp", "moe"
_LETTERS = {"M": LINEAR, "*": FULL, "-": _MLP, "E": _EXPERTS}
_DEFAULT = (LINEAR, _EXPERTS, FULL, _MLP)
_NORM = NormPlaces((("norm", None),))
_MIXTURE = {
    "gate": "gate", "experts": "experts", "shared_expert.up_proj": "shared_experts.up_proj",
    "shared_expert.down_proj": "shared_experts.down_proj", "latent_in_proj": "fc1_latent_proj",
    "latent_out_proj": "fc2_latent_proj",
}  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Nemotron-H config.json describes; raises ArchitectureError for a variant that is not built."""
    kinds = _kinds(ConfigReader(config, _NAMES))
    read = ConfigReader({"head_dim": 128, **config, "num_hidden_layers": len(kinds)}, _NAMES)
    parts = read_parts(read, activation="relu2", positions=4096, eps=1e-5, intermediate_size=21504)
    parts = with_biases(parts, attention=False, output=False, mlp=parts.mlp.bias)
    parts = replace(parts, mlp=replace(parts.mlp, gated=False))
    mamba = _mamba(read, parts)
    of_kind: dict[str, Part] = {LINEAR: mamba, FULL: parts.attention, _MLP: parts.mlp}
    if _EXPERTS in kinds:
        of_kind[_EXPERTS] = _mixture(read, parts)
    blocks = tuple(Block(parts.norm, (of_kind[kind],), _NORM) for kind in kinds)
    # transformers does not tie the head, whatever `tie_word_embeddings` says.
    return Decoder(parts.config, parts.embedding, blocks, parts.head, HEAD, _layout(mamba, of_kind))


def _mixture(read: ConfigReader, parts: StandardParts) -> SharedExpertMlp:
    """Experts by DeepSeek-V3's keys, without a gate, beside one of another size that every token takes."""
    spec = Experts(
        read.integer("n_routed_experts", 8),
        read.integer("num_experts_per_tok", 2),
        read.integer("moe_intermediate_size", 7688),
        read_shares(read, default=True),
        parts.mlp.activation,
        routing=read_routing(read),
        gated=False,
    )
    latent = None if read.config.get("moe_latent_size") is None else read.integer("moe_latent_size")
    experts = ExpertMlp(parts.config.hidden_size, spec, latent_size=latent, latent_bias=parts.mlp.bias)
    size = read.integer("moe_shared_expert_intermediate_size", 7688)
    return SharedExpertMlp(experts, replace(parts.mlp, intermediate_size=size), gated=False)


def _mamba(read: ConfigReader, parts: StandardParts) -> Mamba2:
    heads, head_dim = read.integer("mamba_n_heads", 128), read.integer("mamba_d_head", 64)
    least = read.number("time_step_min", 0.001)  # transformers bounds the steps by this, not by `time_step_limit`
    mamba = read_mamba2(read, parts, size=heads * head_dim, groups=8, state_size=128, least_step=least)
    return replace(mamba, activation=read_activation(read, "mamba_hidden_act", "silu"))


def _kinds(read: ConfigReader) -> tuple[str, ...]:
    """What each block is made of; the number of layers follows from it."""
    name, stated = read.value("layer_types")
    if isinstance(stated, list):
        return read_kinds(read, len(stated), _MLP, _EXPERTS) or ()
    if stated is not None:
        raise ArchitectureError(f"config.json: `{name}` is {stated!r:.40}; a list is needed")
    pattern = read.config.get("hybrid_override_pattern")
    if pattern is None:
        return _DEFAULT
    if not isinstance(pattern, str) or not pattern or set(pattern) - set(_LETTERS):
        raise ArchitectureError(
            f"config.json: `hybrid_override_pattern` is {pattern!r:.60}; letters of {''.join(_LETTERS)} are needed"
        )
    return tuple(_LETTERS[letter] for letter in pattern)


def _layout(mamba: Mamba2, of_kind: Mapping[str, Part]) -> Layout:
    modules = {
        **{f"self_attn.{letter}_proj": f"mixer.{letter}_proj" for letter in "qkvo"},
        **{f"mlp.{kind}_proj": f"mixer.{kind}_proj" for kind in ("up", "down")},
        **mamba_modules(mamba, stored="mixer"),
        **{f"mlp.{ours}": f"mixer.{stored}" for ours, stored in _MIXTURE.items()},
        EMBEDDING: "backbone.embeddings", "model.norm": "backbone.norm_f",
    }  # fmt: skip
    stacks = {kind: f"mixer.experts.{kind}" for kind in ("up_proj", "down_proj")}
    count = experts_count(of_kind.get(_EXPERTS))
    return Layout(modules, blocks="backbone.layers", experts_count=count, stacks=stacks)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "nemotron_h", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 160, "max_position_embeddings": 256, "mamba_num_heads": 4,
        "mamba_head_dim": 24, "n_groups": 2, "ssm_state_size": 16, "hybrid_override_pattern": "M-*M",
    }  # fmt: skip
    biased = {"use_bias": True, "mlp_bias": True, "use_conv_bias": False, "n_groups": 1, "tie_word_embeddings": True}
    kinds = {"layers_block_type": ["attention", "mlp", "mamba"], "hybrid_override_pattern": None}
    mixture = {
        "hybrid_override_pattern": "MEM*E", "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
        "moe_shared_expert_intermediate_size": 64, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5,
    }  # fmt: skip
    latent = {
        "hybrid_override_pattern": "ME*-", "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "moe_latent_size": 32,
        "mlp_bias": True, "norm_topk_prob": False, "mlp_hidden_act": "silu",
    }  # fmt: skip
    return [
        base, {**base, **biased, **kinds, "time_step_min": 1e-4}, {**base, **mixture}, {**base, **mixture, **latent},
    ]  # fmt: skip
