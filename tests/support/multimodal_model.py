"""Tiny random multimodal models of every kind that transformers has and ovround knows, with all their towers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from checkpoint_writer import VOCAB_SIZE, write_tokenizer
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, AutoModelForMultimodalLM

from ovround.checkpoint.text_part import MULTIMODAL

TEXT = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3]}
_HYBRID = {
    "head_dim": 16, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
# What the text model of each kind is made of here; together they use each text model once.
TEXTS: dict[str, dict[str, Any]] = {
    "gemma3": {"sliding_window": 12, "head_dim": 32, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma3n": {
        "sliding_window": 12, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"], "laurel_rank": 32,
        "hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": VOCAB_SIZE, "num_kv_shared_layers": 0,
    },
    "gemma4": {
        "sliding_window": 12, "head_dim": 16, "global_head_dim": 32, "layer_types": ["sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": VOCAB_SIZE, "final_logit_softcapping": 3.0,
    },
    "gemma4_unified": {
        "sliding_window": 12, "head_dim": 16, "global_head_dim": 32, "layer_types": ["sliding_attention", "full_attention"],
    },
    "qwen2_vl": {"rope_parameters": _MROPE},
    "qwen2_5_vl": {"rope_parameters": _MROPE},
    "qwen3_vl": {"head_dim": 16, "rope_parameters": {**_MROPE, "mrope_interleaved": True}},
    "qwen3_vl_moe": {
        "head_dim": 16, "rope_parameters": {**_MROPE, "mrope_interleaved": True}, "moe_intermediate_size": 48,
        "num_local_experts": 8, "num_experts": 8, "num_experts_per_tok": 2,
    },
    "qwen3_5": {**_HYBRID, "rope_parameters": {**_MROPE, "mrope_interleaved": True}, "attention_bias": True},
    "qwen3_5_moe": {
        **_HYBRID, "rope_parameters": {**_MROPE, "mrope_interleaved": True}, "moe_intermediate_size": 48,
        "shared_expert_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2,
    },
    "mistral3": {
        "model_type": "ministral3", "head_dim": 16,
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16, "mscale": 1.0,
            "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
        },
    },
    "llava_onevision": {
        "model_type": "ministral", "head_dim": 16, "sliding_window": 12,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "cohere2_vision": {"sliding_window": 12, "layer_types": ["full_attention", "sliding_attention"]},
    "lighton_ocr": {"head_dim": 16},
    "llava": {"model_type": "gemma2", "head_dim": 16, "sliding_window": 12},
    "llava_next": {"model_type": "mistral", "sliding_window": 12},
    "llava_next_video": {"model_type": "phi3"},
    "vipllava": {"model_type": "granite"},
    "video_llava": {"model_type": "mixtral", "num_local_experts": 4},
    "internvl": {"model_type": "qwen3_moe", "head_dim": 16, "num_experts": 8, "moe_intermediate_size": 48},
    "ovis2": {"model_type": "qwen3", "head_dim": 16},
    "muse_glimmer": {"head_dim": 16, "sliding_window": 12, "final_logit_softcapping": 3.0},
    "aya_vision": {
        "model_type": "mistral4", "num_key_value_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16, "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    },
}  # fmt: skip
_SMALL = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "depth": 1, "num_heads": 2,
    "embed_dim": 32, "out_hidden_size": 64, "image_size": 28, "patch_size": 14, "head_dim": 16, "d_model": 32,
    "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "projection_dim": 64, "vocab_size": 32,
    "output_channels": 32, "mlp_dim": 32, "base_channels": 32, "num_res_blocks": 1, "num_embeddings": 16,
    "image_token_embed_dim": 32, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 2,
    "resampler_head_dim": 16, "num_position_embeddings": 16, "num_key_value_heads": 2, "encoder_layerdrop": 0.0,
}  # fmt: skip
_TOWER = {
    "janus": {"vision_config": {"projection_dim": 64}},
    "video_llama_3": {"vision_config": {"out_hidden_size": 64}},
    "muse_glimmer": {"vision_config": {"layer_types": ["full_attention"]}},
}


def tower_configs(model_type: str) -> dict[str, Any]:
    """The configurations of everything but the text model, as small as they can be."""
    whole = CONFIG_MAPPING[model_type]().to_dict()
    towers: dict[str, Any] = {}
    for name, stated in whole.items():
        if not name.endswith("_config") or name == "text_config" or not isinstance(stated, Mapping):
            continue
        small = {key: _SMALL.get(key, value) for key, value in stated.items() if value is not None}
        if "deepstack_visual_indexes" in small:
            small["deepstack_visual_indexes"] = [0]
        if "fullatt_block_indexes" in small:
            small["fullatt_block_indexes"] = [0]
        if isinstance(stated.get("image_size"), (list, tuple)):
            small |= {"image_size": [28, 28], "patch_size": [14, 14]}
        if isinstance(stated.get("channel_multiplier"), (list, tuple)):
            small["channel_multiplier"] = [1]
        towers[name] = small | _TOWER.get(model_type, {}).get(name, {})
    return towers


def multimodal_config(model_type: str, **text: Any) -> dict[str, Any]:
    """A config.json of a tiny model of this kind."""
    inner = {"model_type": MULTIMODAL[model_type].text, **TEXT, **TEXTS.get(model_type, {}), **text}
    tokens = {name: 300 + number for number, name in enumerate(("image_token_id", "image_token_index", "video_token_id",
              "audio_token_id", "vision_start_token_id", "vision_end_token_id"))}  # fmt: skip
    return {"model_type": model_type, "text_config": inner, **tower_configs(model_type), **tokens}


def write_multimodal(folder: Path, config: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """Write a checkpoint as transformers saves it; returns the whole model in float32, without dropout."""
    known = CONFIG_MAPPING[config["model_type"]](**{key: value for key, value in config.items() if key != "model_type"})
    known._attn_implementation = "eager"
    kinds = (
        AutoModelForMultimodalLM
        if type(known) in AutoModelForMultimodalLM._model_mapping
        else AutoModelForImageTextToText
    )
    model = kinds.from_config(known).float().eval()
    generator = torch.Generator().manual_seed(0)
    less_one = known.text_config.model_type in ("gemma", "gemma2", "gemma3_text")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_gain = parameter.dim() == 1 and name.endswith("weight") and not less_one
            parameter.copy_((torch.randn(parameter.shape, generator=generator) * 0.2 + is_gain).to(dtype))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model
