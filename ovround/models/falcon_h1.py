"""Falcon-H1: in each block attention and Mamba 2 side by side, then an MLP; multipliers almost everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.layout import Layout
from ovround.models.mamba2_config import mamba_modules, read_mamba2
from ovround.models.parts.ends import Embedding
from ovround.models.parts.mamba2 import Mamba2
from ovround.models.parts.side_by_side import Branch, SideBySide
from ovround.models.standard import StandardParts, read_parts, rotated

_LAYOUT = {
    **{f"mixer.self_attn.{letter}_proj": f"self_attn.{letter}_proj" for letter in "qkvo"},
    **{f"mlp.{kind}_proj": f"feed_forward.{kind}_proj" for kind in ("gate", "up", "down")},
    "post_attention_layernorm": "pre_ff_layernorm", "model.norm": "model.final_layernorm",
}  # fmt: skip


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a Falcon-H1 config.json describes; raises ArchitectureError for a variant that is not built."""
    read = ConfigReader(config)
    parts = rotated(read, read_parts(read, positions=8192, eps=1e-5))
    mamba = _mamba(read, parts)
    spec = parts.attention.spec
    # The multiplier of keys is one of scores, since a rotation keeps lengths.
    spec = replace(spec, scale=spec.scale * read.number("key_multiplier", 1.0))
    mixer = SideBySide((
        Branch(mamba, output_scale=read.number("ssm_out_multiplier", 1.0)),
        Branch(
            replace(parts.attention, spec=spec),
            read.number("attention_in_multiplier", 1.0),
            read.number("attention_out_multiplier", 1.0),
        ),
    ))  # fmt: skip
    gate, down = _factors(read, "mlp_multipliers", 2)
    parts = replace(
        parts,
        embedding=Embedding(scale=read.number("embedding_multiplier", 1.0)),
        head=replace(parts.head, scale=read.number("lm_head_multiplier", 1.0)),
    )
    layout = Layout({**_LAYOUT, **mamba_modules(mamba, "mixer.mamba")})
    return parts.decoder([mixer], [replace(parts.mlp, gate_scale=gate, output_scale=down)], layout=layout)


def _mamba(read: ConfigReader, parts: StandardParts) -> Mamba2:
    stated = "mamba_d_ssm" not in read.config or read.config["mamba_d_ssm"] is not None  # null: `mamba_expand` says it
    mamba = read_mamba2(read, parts, size=read.integer("mamba_d_ssm", 1024) if stated else None)
    z, x, b, c, steps = _factors(read, "ssm_multipliers", 5)
    normed, before = read.flag("mamba_rms_norm", default=False), read.flag("mamba_norm_before_gate", default=True)
    return replace(
        mamba,
        gate="alone" if not normed else "after_norm" if before else "before_norm",
        output_bias=read.flag("projectors_bias", default=False),
        input_scale=read.number("ssm_in_multiplier", 1.0),
        factors=(z, x, b, c, steps),
    )


def _factors(read: ConfigReader, key: str, count: int) -> tuple[float, ...]:
    """The `count` numbers at `key`, 1 where it is absent."""
    if read.value(key)[1] is None:
        return (1.0,) * count
    factors = read.numbers(key)
    if len(factors) != count:
        raise ArchitectureError(f"config.json: `{key}` has {len(factors)} numbers; {count} are needed")
    return factors


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "falcon_h1", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 256,
        "mamba_n_heads": 4, "mamba_d_state": 16,
    }  # fmt: skip
    multipliers = {
        "embedding_multiplier": 5.6, "lm_head_multiplier": 0.4, "mlp_multipliers": [0.9, 0.6], "key_multiplier": 0.4,
        "attention_in_multiplier": 1.2, "attention_out_multiplier": 0.9, "ssm_multipliers": [0.4, 0.8, 0.6, 0.7, 0.5],
        "ssm_in_multiplier": 1.3, "ssm_out_multiplier": 0.3,
    }  # fmt: skip
    normed = {"mamba_rms_norm": True, "mamba_norm_before_gate": False, "mamba_n_groups": 2, "mamba_d_ssm": None}
    biased = {"attention_bias": True, "mlp_bias": True, "mamba_proj_bias": True, "projectors_bias": True}
    return [
        {**base, **multipliers, "mamba_d_ssm": 96},
        {**base, **normed, **biased, "mamba_d_head": 32, "mamba_conv_bias": False, "tie_word_embeddings": True},
    ]
