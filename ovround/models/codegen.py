"""CodeGen: GPT-J whose query, value and key are joined, in four shards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.decoder import Decoder
from ovround.models.gptj import MODULES, read_gptj
from ovround.models.layout import Fused, Layout, fused_rows
from ovround.models.parts.norms import PARALLEL_SHARED

_SHARDS = 4
_IGNORED = (".attn.causal_mask", ".attn.bias", ".attn.masked_bias")


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a CodeGen config.json describes; raises ArchitectureError for a variant that is not built."""
    parts = read_gptj(config)
    hidden = parts.config.hidden_size
    if hidden % _SHARDS:
        raise ArchitectureError(f"config.json: `n_embd` is {hidden}; a multiple of {_SHARDS} is needed")
    rows = fused_rows("attn.qkv_proj", *[hidden // _SHARDS] * 3)
    joined: dict[str, str | Fused] = dict(
        zip(("self_attn.q_proj", "self_attn.v_proj", "self_attn.k_proj"), rows, strict=True)
    )
    return parts.decoder(
        places=PARALLEL_SHARED, layout=Layout({**MODULES, **joined}, "transformer.h", ignored=_IGNORED)
    )


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "codegen", "n_embd": 96, "n_layer": 2, "n_head": 6, "vocab_size": 160, "n_positions": 256,
        "rotary_dim": 16, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return [base]
