"""GPT-J: attention and MLP side by side after one layer norm, a part of each head rotated, neighbouring features as pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ovround.errors import ArchitectureError
from ovround.models.config_reader import ConfigReader
from ovround.models.decoder import Decoder
from ovround.models.gpt2 import IGNORED, NAMES
from ovround.models.layout import Layout
from ovround.models.parts.norms import PARALLEL_SHARED
from ovround.models.rope import Rope
from ovround.models.standard import StandardParts, read_parts, with_biases

MODULES = {
    "model.embed_tokens": "transformer.wte", "model.norm": "transformer.ln_f", "input_layernorm": "ln_1",
    "self_attn.o_proj": "attn.out_proj", "mlp.up_proj": "mlp.fc_in", "mlp.down_proj": "mlp.fc_out",
}  # fmt: skip
_OWN = {f"self_attn.{name}": f"attn.{name}" for name in ("q_proj", "k_proj", "v_proj")}


def read_gptj(config: Mapping[str, Any]) -> StandardParts:
    """The parts that GPT-J and CodeGen share."""
    own = dict.fromkeys(("head_dim", "num_key_value_heads"))
    read = ConfigReader({**config, **own}, NAMES)
    read.refuse("tie_word_embeddings", False)
    hidden = read.integer("hidden_size")
    parts = read_parts(
        read, activation="gelu_new", positions=2048, eps=1e-5, norm="layer", intermediate_size=4 * hidden
    )
    parts = with_biases(parts, attention=False, output=False, mlp=True)
    spec, dim = parts.attention.spec, read.integer("rotary_dim", 64)
    if dim > spec.head_dim:
        raise ArchitectureError(f"config.json: `rotary_dim` is {dim}; a head has {spec.head_dim} features")
    attention = replace(parts.attention, spec=replace(spec, rope=Rope(dim, 1e4, interleaved=True)))
    return replace(parts, attention=attention, mlp=replace(parts.mlp, gated=False), head=replace(parts.head, bias=True))


def from_config(config: Mapping[str, Any]) -> Decoder:
    """The decoder that a GPT-J config.json describes; raises ArchitectureError for a variant that is not built."""
    layout = Layout(MODULES | _OWN, "transformer.h", ignored=IGNORED)
    return read_gptj(config).decoder(places=PARALLEL_SHARED, layout=layout)


def smallest_configs() -> list[dict[str, Any]]:
    """The smallest config.json files that exercise every variant, for parity tests on random weights."""
    base = {
        "model_type": "gptj", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 160, "n_positions": 256,
        "rotary_dim": 8, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return [base]
