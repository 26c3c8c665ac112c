"""Granite 4: Mamba 2, and attention in some blocks, mostly without rotation; a shared MLP, alone or beside experts; multipliers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.models.config_reader import ConfigReader, Names
from ovround.models.decoder import Decoder
from ovround.models.granite import with_multipliers
from ovround.models.layout import Fused, Layout, fused_rows
from ovround.models.mamba2_config import LINEAR, mamba_modules, read_kinds, read_mamba2
from ovround.models.ops import Experts
from ovround.models.parts.experts import ExpertMlp
from ovround.models.parts.part import Part
from ovround.models.parts.shared_expert import SharedExpertMlp
from ovround.models.standard import read_parts, rotated, with_biases

_NAMES: Names = {"layer_types": ("layers_block_type", "layer_types")}


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Granite 4 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, _NAMES)
    parts = read_parts(read, intermediate_size=11008)
    if config.get("position_embedding_type") == "rope":
        parts = rotated(read, parts)
    parts = with_multipliers(read, parts)
    bias, layers = parts.attention.bias, parts.config.num_hidden_layers
    experts_size, parts = parts.mlp.intermediate_size, with_biases(parts, attention=bias, output=bias, mlp=False)
    mamba = read_mamba2(read, parts)
    kinds = read_kinds(read, layers) or (LINEAR,) * layers
    mixers: list[Part] = [mamba if kind == LINEAR else parts.attention for kind in kinds]
    shared = replace(parts.mlp, intermediate_size=read.integer("shared_intermediate_size", 1024))
    count = read.integer("num_local_experts", 8)
    mlp: Part = shared
    if count:
        spec = Experts(count, read.integer("num_experts_per_tok", 2), experts_size, "share", shared.activation)
        mlp = SharedExpertMlp(ExpertMlp(parts.config.hidden_size, spec), shared, gated=False)
    layout = Layout(
        mamba_modules(mamba) | _modules("mlp.shared_expert" if count else "mlp", shared.intermediate_size),
        experts_count=count,
        experts_joined=True,
        stacks={
            "gate_up_proj": "block_sparse_moe.input_linear.weight",
            "down_proj": "block_sparse_moe.output_linear.weight",
        },
    )
    return parts.decoder(mixers, [mlp], residual_scale=read.number("residual_multiplier", 1.0), layout=layout)


def _modules(shared_at: str, size: int) -> dict[str, str | Fused]:
    gate, up = fused_rows("shared_mlp.input_linear", size, size)
    return {
        f"{shared_at}.gate_proj": gate, f"{shared_at}.up_proj": up, f"{shared_at}.down_proj": "shared_mlp.output_linear",
        "mlp.gate": "block_sparse_moe.router.layer",
    }  # fmt: skip


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "granitemoehybrid", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "mamba_n_heads": 4, "mamba_d_state": 16, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 96,
    }  # fmt: skip
    multipliers = {
        "embedding_multiplier": 12.0, "attention_multiplier": 0.2, "residual_multiplier": 0.22, "logits_scaling": 8.0,
    }  # fmt: skip
    dense = {
        "num_local_experts": 0, "mamba_n_groups": 2, "mamba_proj_bias": True, "mamba_conv_bias": False,
        "attention_bias": True, "mamba_d_head": 32,
    }  # fmt: skip
    experts = {
        "num_local_experts": 4, "num_experts_per_tok": 2, "position_embedding_type": "rope", "tie_word_embeddings": True,
    }  # fmt: skip
    return [{**base, **multipliers, **experts}, {**base, **dense}]
