"""LFM2 with experts: after the first blocks each token takes a few, chosen by a sigmoid and a bias that balances them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.models.config_reader import ConfigReader, Names
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.lfm2 import lfm2_parts, mixers, modules
from ovround.models.ops import Experts, Routing
from ovround.models.parts.experts import ExpertMlp
from ovround.models.standard import read_shares

_NAMES: Names = {"rms_norm_eps": "norm_eps", "tie_word_embeddings": ("tie_embedding", "tie_word_embeddings")}
_LEAST_SUM = 1e-6  # transformers adds it to the sum of the chosen scores, which is hundreds of thousands of times that


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that an LFM2-MoE config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config, _NAMES)
    parts = lfm2_parts(read, intermediate_size=7168)
    routing = Routing(
        biased=read.flag("use_expert_bias", default=True), least_sum=_LEAST_SUM,
        factor=read.number("routed_scaling_factor", 1.0),
    )  # fmt: skip
    spec = Experts(
        read.integer("num_experts", 32), read.integer("num_experts_per_tok", 4),
        read.integer("moe_intermediate_size", 1792), read_shares(read, default=True), routing=routing,
    )  # fmt: skip
    hidden, dense = parts.config.hidden_size, read.integer("num_dense_layers", 2)
    experts = ExpertMlp(hidden, spec)
    names = {
        "mlp.experts": "feed_forward.experts", "mlp.gate": "feed_forward.gate",
        "mlp.gate.e_score_correction_bias": "feed_forward.expert_bias",
    }  # fmt: skip
    layout = Layout(
        {**modules(hidden), **names},
        experts={"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"},
        experts_count=spec.count,
        stacks={kind: f"feed_forward.experts.{kind}" for kind in ("gate_up_proj", "down_proj")},
    )
    mlps = [parts.mlp if layer < dense else experts for layer in range(parts.config.num_hidden_layers)]
    return parts.decoder(mixers(read, parts), mlps, layout=layout)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "lfm2_moe", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "layer_types": ["conv", "full_attention"], "num_dense_layers": 1, "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
    }  # fmt: skip
    unbiased = {
        "use_expert_bias": False, "norm_topk_prob": False, "routed_scaling_factor": 1.7, "num_dense_layers": 0,
        "tie_embedding": False, "conv_bias": True,
    }  # fmt: skip
    return [base, {**base, **unbiased}]
