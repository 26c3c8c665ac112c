"""The keys of a GGUF file that state a decoder's sizes and factors, by llama.cpp's names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovround.checkpoint.gguf.rope import FREQUENCIES, LONG, SHORT
from ovround.errors import UsageError
from ovround.exporters.gguf.computation import COMPUTATIONS, HINT, attention_of, exact_context, experts_of
from ovround.models.decoder import Decoder
from ovround.models.parts.dense import DenseMlp
from ovround.models.parts.shared_expert import SharedExpertMlp
from ovround.models.rope import Rope

_PLAIN_THETA = 10000.0
_QUANTIZATION_VERSION = 2
_STATES_WINDOW = ("phi3",)  # old versions need the key; new ones compute without a window
_BETA_FAST, _BETA_SLOW = 32.0, 1.0


def decoder_metadata(architecture: str, decoder: Decoder) -> dict[str, Any]:
    """Keys and values; raises UsageError for a rotation that llama.cpp does not have."""
    config, attention = decoder.config, attention_of(decoder)
    spec, norm = attention.spec, decoder.lm_head.norm
    keys: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "context_length": exact_context(decoder, architecture),
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": spec.num_heads,
        "attention.head_count_kv": spec.num_key_value_heads,
        "attention.key_length": spec.head_dim,
        "attention.value_length": spec.head_dim,
        "attention.layer_norm_epsilon" if norm.kind == "layer" else "attention.layer_norm_rms_epsilon": norm.eps,
        **_feed_forward(decoder),
        **_windows(architecture, decoder),
        **_factors(architecture, decoder),
        **_rotation(decoder),
    }
    if architecture in ("gptneox", "stablelm"):
        keys["use_parallel_residual"] = decoder.blocks[0].places.parallel
    return {f"{architecture}.{key}": value for key, value in keys.items()} | {
        "general.quantization_version": _QUANTIZATION_VERSION
    }


def rope_tensors(decoder: Decoder) -> dict[str, NDArray[np.float32]]:
    """The factors that each frequency is divided by, where a rotation is stated so, `[dim / 2]`: Llama 3's and LongRoPE's."""
    rope = _rope(decoder)
    if rope is None:
        return {}
    if rope.variant == "llama3":
        plain = Rope(rope.dim, rope.theta).inverse_frequencies()
        return {FREQUENCIES: plain / rope.inverse_frequencies()}
    if rope.variant == "longrope":
        return {
            LONG: np.asarray(rope.long_factor, np.float32),
            SHORT: np.asarray(rope.short_factor, np.float32),
        }
    return {}


def _feed_forward(decoder: Decoder) -> dict[str, int]:
    part, experts = decoder.blocks[-1].parts[1], experts_of(decoder)
    if experts is None:
        return {"feed_forward_length": part.intermediate_size if isinstance(part, DenseMlp) else part.inner_size}
    spec = experts.spec
    keys = {
        "feed_forward_length": spec.intermediate_size, "expert_count": spec.count, "expert_used_count": spec.top_k,
        "expert_feed_forward_length": spec.intermediate_size,
    }  # fmt: skip
    if isinstance(part, SharedExpertMlp):
        keys["expert_shared_feed_forward_length"] = part.shared.intermediate_size
    return keys


def _windows(architecture: str, decoder: Decoder) -> dict[str, int]:
    if COMPUTATIONS[architecture].window_period == 1 and architecture not in _STATES_WINDOW:
        return {}
    specs = [attention_of(decoder, layer).spec for layer in range(len(decoder.blocks))]
    window = next((spec.sliding_window for spec in specs if spec.sliding_window is not None), None)
    if window is None:
        return dict.fromkeys(["attention.sliding_window"] if architecture in _STATES_WINDOW else [], 0)
    return {"attention.sliding_window": window}


def _factors(architecture: str, decoder: Decoder) -> dict[str, float]:
    spec, keys, fixed = attention_of(decoder).spec, dict[str, float](), COMPUTATIONS[architecture]
    if fixed.factors:
        keys = {
            "attention.scale": spec.scale, "embedding_scale": decoder.embedding.scale,
            "residual_scale": decoder.blocks[0].residual_scale, "logit_scale": 1 / decoder.lm_head.scale,
        }  # fmt: skip
    if fixed.softcaps:
        for key, cap in (("attn", spec.softcap), ("final", decoder.lm_head.softcap)):
            if cap is None:
                raise UsageError(f"format gguf: `{architecture}` without a cap of its logits or scores", hint=HINT)
            keys[f"{key}_logit_softcapping"] = cap
    return keys


def _rope(decoder: Decoder) -> Rope | None:
    """The rotation of the layers that see the whole text, or else of any layer."""
    specs = [attention_of(decoder, layer).spec for layer in range(len(decoder.blocks))]
    ropes = [spec.rope for spec in specs if spec.sliding_window is None and spec.rope is not None]
    return next(iter([*ropes, *(spec.rope for spec in specs if spec.rope is not None)]), None)


def _rotation(decoder: Decoder) -> dict[str, Any]:
    rope = _rope(decoder)
    if rope is None:
        return {}
    keys: dict[str, Any] = {"rope.dimension_count": rope.dim, "rope.freq_base": rope.theta}
    for layer in range(len(decoder.blocks)):
        other = attention_of(decoder, layer).spec.rope
        if other is not None and other != rope:
            if other.variant != "default" or other.theta != _PLAIN_THETA:
                raise UsageError(
                    f"format gguf: layers with a sliding window turn by base {other.theta:g} ({other.variant}), "
                    "llama.cpp's by 10000",
                    hint=HINT,
                )
            keys["rope.freq_base_swa"] = other.theta
    if rope.variant == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.factor}
    elif rope.variant == "yarn":
        keys |= _yarn(rope)
    elif rope.variant == "longrope":
        keys |= {  # whose type llama.cpp knows by its tensors
            "rope.scaling.attn_factor": rope.attention_factor,
            "rope.scaling.original_context_length": rope.original_max_position_embeddings,
        }  # fmt: skip
    return keys


def _yarn(rope: Rope) -> dict[str, Any]:
    """llama.cpp multiplies cos and sin by attn_factor (1 + 0.1 ln factor).

    Versions of 2026 write the betas and read none: they compute with 32 and 1. Others are refused where it makes a difference.
    """
    theirs = replace(rope, beta_fast=_BETA_FAST, beta_slow=_BETA_SLOW, truncate=True)
    if not np.array_equal(theirs.inverse_frequencies(), rope.inverse_frequencies()):
        raise UsageError(
            f"format gguf: yarn with beta_fast {rope.beta_fast:g} and beta_slow {rope.beta_slow:g}"
            f"{'' if rope.truncate else ', not truncated'}; llama.cpp computes with 32 and 1",
            hint=HINT,
        )
    usual = 0.1 * float(np.log(rope.factor)) + 1 if rope.factor > 1 else 1.0
    return {
        "rope.scaling.type": "yarn", "rope.scaling.factor": rope.factor,
        "rope.scaling.original_context_length": rope.original_max_position_embeddings,
        "rope.scaling.attn_factor": rope.attention_factor / usual,
        "rope.scaling.yarn_beta_fast": rope.beta_fast, "rope.scaling.yarn_beta_slow": rope.beta_slow,
    }  # fmt: skip
