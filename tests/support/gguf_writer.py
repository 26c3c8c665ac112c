"""Writes a transformers model as a GGUF file, by llama.cpp's conventions and with nothing of ovround's: the tests' other side.

Names come from the package's own map; what is turned, regrouped or stacked follows llama.cpp's converters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from checkpoint_writer import random_weights, tiny_config, write_tokenizer
from numpy.typing import NDArray
from tokenizers import Tokenizer

Array = NDArray[np.float32]
TINY = {"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False, "head_dim": 16}
ARCHITECTURES = {
    "gemma3_text": "gemma3", "gpt_neox": "gptneox", "gpt_oss": "gpt-oss", "internlm3": "llama", "mistral": "llama",
    "mixtral": "llama", "phi": "phi2", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe",
}  # fmt: skip
_PAIRED = ("llama", "granite", "smollm3")
_SHIFTED = ("gemma", "gemma2", "gemma3")
_KEYS = {
    "block_count": ("num_hidden_layers", "n_layer"), "embedding_length": ("hidden_size", "n_embd"),
    "context_length": ("max_position_embeddings", "n_positions", "seq_length"),
    "feed_forward_length": ("intermediate_size", "ffn_hidden_size", "n_inner"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads"),
    "attention.key_length": ("head_dim",), "attention.value_length": ("head_dim",),
    "expert_count": ("num_local_experts", "num_experts"), "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size",), "attention.sliding_window": ("sliding_window",),
    "use_parallel_residual": ("use_parallel_residual",),
}  # fmt: skip
_NUMBERS = {
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    "attention.scale": ("attention_multiplier",), "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",), "logit_scale": ("logits_scaling",),
    "attn_logit_softcapping": ("attn_logit_softcapping",), "final_logit_softcapping": ("final_logit_softcapping",),
}  # fmt: skip


def write_model(
    path: Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Array],
    kinds: Mapping[str, str] | str = "F32",
    *,
    metadata: Mapping[str, Any] | None = None,
    experts_apart: bool = False,
    qkv_joined: bool = False,
    architecture: str = "",
    conventions: str = "",
) -> dict[str, Array]:
    """Write a file of the model whose transformers configuration (all defaults stated) and tensors are given.

    `kinds` is the type of all matrices, or of those whose GGUF name holds a key, the others being F32. A matrix may be given
    as its blocks, bytes `[N, bytes a row]`. Returns GGUF's tensors.
    `experts_apart` is the older way, `qkv_joined` the newest. `architecture` has the `conventions` of another. A key of
    `metadata` stands in for the one that the configuration gives.
    """
    own = ARCHITECTURES.get(str(config["model_type"]), str(config["model_type"]))
    architecture = architecture or own
    tensors = _tensors(conventions or own, config, weights)
    if experts_apart:
        tensors = _apart(tensors)
    if qkv_joined:
        tensors = _joined(tensors)
    tensors |= _factors(config)
    writer = gguf.GGUFWriter(path, architecture)
    for key, names in _KEYS.items():
        value = next((config[name] for name in names if config.get(name) is not None), None)
        if isinstance(value, bool):
            writer.add_bool(f"{architecture}.{key}", value)
        elif value is not None:
            writer.add_uint32(f"{architecture}.{key}", int(value))
    for key, names in _NUMBERS.items():
        value = next((config[name] for name in names if config.get(name) is not None), None)
        if value is not None:
            writer.add_float32(f"{architecture}.{key}", float(value))
    _add_rope(writer, architecture, config)
    for key, value in (metadata or {}).items():
        writer.kv_data[0].pop(key, None)
        _add(writer, key, value)
    for name, values in tensors.items():
        kind = kinds if isinstance(kinds, str) else next((kinds[key] for key in kinds if key in name), "F32")
        kind = kind if values.ndim > 1 and "norm" not in name and "ffn_gate_inp" not in name else "F32"
        writer.add_tensor(name, *_encoded(np.ascontiguousarray(values), kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def tokenizer_metadata(vocabulary: Mapping[str, int], merges: list[str]) -> dict[str, Any]:
    """The keys of a byte-level BPE vocabulary whose first ids are `<unk>`, `<s>` and `</s>`."""
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token.startswith("<") and token.endswith(">") else 1 for token in tokens],
        "tokenizer.ggml.merges": merges, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    }  # fmt: skip


def _encoded(values: Array, kind: str) -> tuple[Any, tuple[int, ...] | None, Any]:
    number = gguf.GGMLQuantizationType[kind]
    if kind == "F32":
        return values, None, None
    if values.dtype == np.uint8:
        return values, None, number
    raw = gguf.quants.quantize(values, number)
    return (raw, None, number) if kind == "F16" else (raw.view(np.uint8), None, number)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _add_rope(writer: gguf.GGUFWriter, architecture: str, config: Mapping[str, Any]) -> None:
    rope = config.get("rope_parameters") or {}
    full = rope.get("full_attention", rope)
    theta = full.get("rope_theta", config.get("rope_theta"))
    if theta is not None:
        writer.add_float32(f"{architecture}.rope.freq_base", float(theta))
    if "sliding_attention" in rope:
        writer.add_float32(f"{architecture}.rope.freq_base_swa", float(rope["sliding_attention"]["rope_theta"]))
    size = config.get("head_dim") or (config.get("hidden_size") or 64) // (config.get("num_attention_heads") or 4)
    part = full.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if theta is not None:
        writer.add_uint32(f"{architecture}.rope.dimension_count", int(size * part))
    kind = full.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        writer.add_string(f"{architecture}.rope.scaling.type", kind)
        writer.add_float32(f"{architecture}.rope.scaling.factor", float(full["factor"]))
    for key in ("beta_fast", "beta_slow"):
        if kind == "yarn" and full.get(key) is not None:
            writer.add_float32(f"{architecture}.rope.scaling.yarn_{key}", float(full[key]))
    if kind in ("yarn", "longrope"):
        original = full.get("original_max_position_embeddings") or config["original_max_position_embeddings"]
        writer.add_uint32(f"{architecture}.rope.scaling.original_context_length", int(original))
    if kind == "longrope" and full.get("long_mscale") is not None:
        writer.add_float32(f"{architecture}.rope.scaling.attn_factor", float(full["long_mscale"]))


def _factors(config: Mapping[str, Any]) -> dict[str, Array]:
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") == "longrope":
        return {
            f"rope_factors_{name}.weight": np.array(rope[f"{name}_factor"], np.float32) for name in ("long", "short")
        }
    if rope.get("rope_type") != "llama3":
        return {}
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    original, found = rope["original_max_position_embeddings"], []
    for index in range(0, config["head_dim"], 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (index / config["head_dim"])
        smooth = (original / wave - low) / (high - low)
        middle = 1 / ((1 - smooth) / factor + smooth)
        found.append(1.0 if wave < original / high else factor if wave > original / low else middle)
    return {"rope_freqs.weight": np.array(found, np.float32)}


def _tensors(architecture: str, config: Mapping[str, Any], weights: Mapping[str, Array]) -> dict[str, Array]:
    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    layers = int(config.get("num_hidden_layers") or config["n_layer"])
    names = gguf.get_tensor_name_map(numbers[architecture], layers)
    found: dict[str, Array] = {}
    for name, values in weights.items():
        for part, value in _converted(architecture, config, name, values).items():
            mapped = names.get_name(part, try_suffixes=(".weight", ".bias"))
            if mapped is None:
                raise ValueError(f"the package has no name for {part}")
            found[mapped] = value
    return found


def _converted(architecture: str, config: Mapping[str, Any], name: str, values: Array) -> dict[str, Array]:
    """A tensor of transformers as llama.cpp stores it, by a name that the package's map knows."""
    heads = int(config.get("num_attention_heads") or config.get("n_head") or 0)
    if architecture in _SHIFTED and name.endswith("norm.weight"):
        return {name: values + 1}
    if architecture == "gpt2" and re.search(r"c_(attn|proj|fc)\.weight", name):
        return {name: values.T}
    if architecture in _PAIRED and re.search(r"\.[qk]_proj\.", name):
        count = heads if ".q_proj." in name else int(config.get("num_key_value_heads") or heads)
        return {name: values.reshape(count, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)}
    if architecture in ("bloom", "gptneox") and "query_key_value" in name:
        return {name: np.concatenate([part.reshape(-1, *values.shape[1:]) for part in _three(values, heads)])}
    if architecture == "falcon" and "query_key_value" in name:
        groups = int(config["num_kv_heads"]) if config["new_decoder_architecture"] else 1
        size = values.shape[0] // (heads + 2 * groups)
        grouped = values.reshape(groups, heads // groups + 2, size, -1)
        parts = (grouped[:, :-2], grouped[:, -2], grouped[:, -1])
        return {name: np.concatenate([part.reshape(-1, values.shape[1]) for part in parts])}
    if name.endswith("sinks"):
        return {f"{name}.weight": values}
    if ".experts." in name:
        return _experts(architecture, name, values)
    return {name.removeprefix("transformer.") if architecture == "bloom" else name: values}


def _three(values: Array, heads: int) -> tuple[Array, Array, Array]:
    grouped = values.reshape(heads, 3, -1, *values.shape[1:])
    return grouped[:, 0], grouped[:, 1], grouped[:, 2]


def _experts(architecture: str, name: str, values: Array) -> dict[str, Array]:
    """Stacked experts; gpt-oss has them as `[E, K, N]`, gate and up alternating, the others as `[E, N, K]`, gate before up."""
    at, _, last = name.rpartition(".")
    kind = "bias" if last.endswith("_bias") else "weight"
    last = last.removesuffix("_bias")
    if architecture == "gpt-oss" and kind == "weight":
        values = values.swapaxes(1, 2)
    if last == "down_proj":
        return {f"{at}.down_proj.{kind}": values}
    if architecture == "gpt-oss":
        gate, up = values[:, ::2], values[:, 1::2]
    else:
        gate, up = np.split(values, 2, axis=1)
    return {f"{at}.gate_proj.{kind}": gate, f"{at}.up_proj.{kind}": up}


def _apart(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Experts one by one: `blk.0.ffn_gate.3.weight`."""
    found: dict[str, Array] = {}
    for name, values in tensors.items():
        if "_exps." in name:
            found |= {name.replace("_exps.", f".{expert}."): value for expert, value in enumerate(values)}
        else:
            found[name] = values
    return found


def _joined(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Query, key and value in one tensor, and experts' gate and up."""
    found = dict(tensors)
    for name in tensors:
        at, _, kind = name.rpartition(".")
        block = at.rpartition(".")[0]
        if at.endswith("attn_q"):
            found[f"{block}.attn_qkv.{kind}"] = np.concatenate(
                [found.pop(f"{block}.attn_{part}.{kind}") for part in "qkv"]
            )
        if at.endswith("ffn_gate_exps"):
            parts = [found.pop(f"{block}.ffn_{part}_exps.{kind}") for part in ("gate", "up")]
            found[f"{block}.ffn_gate_up_exps.{kind}"] = np.concatenate(parts, axis=1)
    return found


def write_tiny(
    path: Path, kinds: dict[str, str] | str = "Q4_0", *, alone: bool = True, **changes: Any
) -> dict[str, Any]:
    """A tiny Llama as a file, alone or beside a config.json; returns the configuration."""
    config = tiny_config(**{**TINY, **changes})
    config |= {"rope_parameters": {"rope_theta": 10000.0}}
    weights = random_weights(config)
    if config["tie_word_embeddings"]:
        weights.pop("lm_head.weight", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent if not alone else path.parent.parent / "tokenizer"
    folder.mkdir(exist_ok=True)
    write_tokenizer(folder)
    if not alone:
        (folder / "config.json").write_text(json.dumps(config))
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    write_model(path, config, weights, kinds, metadata=tokenizer_metadata(vocabulary, merges))
    return config
