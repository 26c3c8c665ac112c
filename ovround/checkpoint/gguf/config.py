"""config.json from a GGUF file's metadata and tensors: what transformers would have in the folder of the original model.

What the metadata leaves out (biases, a tied head, which layers have experts) is seen from the tensors, as llama.cpp does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovround.checkpoint.gguf.architectures import SCALED_BY_HIDDEN_SIZE, Architecture, architecture_of
from ovround.checkpoint.gguf.header import Metadata, TensorInfo
from ovround.checkpoint.gguf.rope import rope_of
from ovround.errors import CheckpointError

Tensors = Mapping[str, TensorInfo]
_TOKENS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
_KINDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false"}
_NUMBERS = {"rope.freq_base", "rope.freq_base_swa", "attn_logit_softcapping", "final_logit_softcapping"}
_LARGEST_LAYERS, _BAICHUAN_13B = 10_000, 40
# What llama.cpp computes otherwise where these are there; the values with which nothing changes.
_CHANGES: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,), "attention.clamp_kqv": (0, 0.0), "attention.temperature_scale": (0, 0.0),
    "attention.q_lora_rank": (), "attention.scale": (0, 0.0), "embedding_scale": (0, 0.0, 1.0),
    "residual_scale": (0, 0.0, 1.0), "logit_scale": (0, 0.0, 1.0), "expert_gating_func": (0, 1),
    "expert_weights_scale": (0, 0.0, 1.0), "expert_group_count": (0, 1), "expert_shared_count": (0,),
    "nextn_predict_layers": (0,), "pooling_type": (0,), "rope.scaling.alpha": (0, 0.0),
    "rope.scaling.yarn_log_multiplier": (0, 0.0), "rope.scaling.yarn_ext_factor": (1.0, -1.0), "leading_dense_block_count": (0,),
    "interleave_moe_layer_step": (0, 1), "ssm.state_size": (0,), "attention.alibi": (False,),
}  # fmt: skip


def config_of(
    metadata: Metadata, tensors: Tensors, floats: Mapping[str, list[float]]
) -> tuple[Architecture, dict[str, Any]]:
    """The architecture and config.json; `floats` are the values of the rope's factor tensors.

    Raises CheckpointError for an architecture or variant that no family computes, and for metadata of a wrong kind.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        raise CheckpointError(f"general.architecture is {name!r:.40}; a name is needed", hint="get the file again")
    experts = metadata.get(f"{name}.expert_count", 0)
    architecture = architecture_of(name, experts=isinstance(experts, int) and experts > 0)
    read = _Reader(name, metadata)
    read.refuse_changes(architecture)
    config: dict[str, Any] = {"architectures": [architecture.model_class], "model_type": architecture.model_type}
    config |= architecture.config
    for key, spelled in architecture.keys.items():
        value = read.number(key) if _is_number(key) else read.integer(key)
        if value is not None:
            config[spelled] = value
    if "token_embd.weight" not in tensors:
        raise CheckpointError("the file has no tensor `token_embd.weight`", hint="a text model's file is needed")
    config["vocab_size"] = tensors["token_embd.weight"].shape[0]
    inner = tensors.get("blk.0.ffn_down.weight")
    if (
        inner is not None and "feed_forward_length" in architecture.keys
    ):  # some converters state four times the hidden size
        config[architecture.keys["feed_forward_length"]] = inner.shape[-1]
    config["tie_word_embeddings"] = "output.weight" not in tensors
    for key, token in _TOKENS.items():  # stated even where there is none: families have defaults
        number = metadata.get(f"tokenizer.ggml.{token}_token_id")
        known = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < config["vocab_size"]
        config[key] = number if known else None
    layers = _layers(architecture, config)
    _FAMILIES.get(architecture.model_type, _nothing)(read, tensors, config, layers)
    config |= rope_of(architecture, read.number, metadata, config, floats)
    return architecture, config


class _Reader:
    """Typed look-ups below the architecture's name."""

    def __init__(self, name: str, metadata: Metadata) -> None:
        self.name, self._metadata = name, metadata

    def value(self, key: str) -> Any:
        return self._metadata.get(f"{self.name}.{key}")

    def integer(self, key: str) -> int | bool | None:
        """A whole number, or true or false; of a list (a value a layer) the one that all layers share."""
        value = self.value(key)
        if isinstance(value, list):
            if not value or any(item != value[0] for item in value):
                raise self._error(key, "layers of different sizes are not supported")
            value = value[0]
        if value is None or isinstance(value, int):
            return value
        raise self._error(key, "a whole number is needed")

    def number(self, key: str) -> float | None:
        value = self.value(key)
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 1e30):
            return None if value is None else float(value)
        raise self._error(key, "a number is needed")

    def refuse_changes(self, architecture: Architecture) -> None:
        """Raise CheckpointError for metadata that changes what is computed, which the family does not build."""
        for key, harmless in _CHANGES.items():
            value = self.value(key)
            if value is not None and key not in architecture.keys and value not in harmless:
                raise self._error(key, "this variant is not supported")

    def _error(self, key: str, what: str) -> CheckpointError:
        return CheckpointError(f"the file's `{self.name}.{key}` is {self.value(key)!r:.60}: {what}")


def _is_number(key: str) -> bool:
    return key in _NUMBERS or key.endswith(("_epsilon", "scale"))


def _layers(architecture: Architecture, config: Mapping[str, Any]) -> int:
    count = config.get(architecture.keys["block_count"])
    if not isinstance(count, int) or not 0 < count <= _LARGEST_LAYERS:
        raise CheckpointError(f"the file's `{architecture.name}.block_count` is {count!r:.40}; 1 to 10,000 is needed")
    return count


def _nothing(_read: _Reader, _tensors: Tensors, _config: dict[str, Any], _layers: int) -> None:
    pass


def _biases(_read: _Reader, tensors: Tensors, config: dict[str, Any], _layers: int) -> None:
    config["attention_bias"] = _biased(tensors, "attn_q", "attn_qkv")
    config["mlp_bias"] = _biased(tensors, "ffn_up")


def _llama(read: _Reader, tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    """Llama, and Qwen2 where only query, key and value have biases."""
    if read.name == "baichuan" and layers == _BAICHUAN_13B:
        raise CheckpointError("the file is Baichuan 13B, whose attention has slopes (ALiBi): Baichuan 7B is supported")
    _biases(read, tensors, config, layers)
    if config["attention_bias"] and "blk.0.attn_output.bias" not in tensors and not config["mlp_bias"]:
        config |= {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False}
        del config["attention_bias"], config["mlp_bias"]


def _attention_bias(_read: _Reader, tensors: Tensors, config: dict[str, Any], _layers: int) -> None:
    config["attention_bias"] = _biased(tensors, "attn_q", "attn_qkv")


def _biased(tensors: Tensors, *modules: str) -> bool:
    return any(f"blk.0.{module}.bias" in tensors for module in modules)


def _gemma2(read: _Reader, tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    config.setdefault("sliding_window", 4096)
    config.setdefault("attn_logit_softcapping", 50.0)
    config.setdefault("final_logit_softcapping", 30.0)
    _gemma_scale(config, wide=layers == SCALED_BY_HIDDEN_SIZE["gemma2"])
    _layer_types(read, config, layers, 2)


def _gemma3(read: _Reader, tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    config.setdefault("rope_theta", 1e6)
    config.setdefault("rope_local_base_freq", 1e4)
    _gemma_scale(config, wide=layers == SCALED_BY_HIDDEN_SIZE["gemma3"])
    if config.get("sliding_window"):
        _layer_types(read, config, layers, 6)
    else:
        config |= {"sliding_window": None, "layer_types": ["full_attention"] * layers}


def _gemma_scale(config: dict[str, Any], *, wide: bool) -> None:
    """The queries' scale is no metadata: llama.cpp takes the head's size, and in the 27B models the hidden size per head."""
    hidden, heads, size = (config.get(key) for key in ("hidden_size", "num_attention_heads", "head_dim"))
    per_head = hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 else 256
    config["query_pre_attn_scalar"] = per_head if wide or size is None else size


def _layer_types(read: _Reader, config: dict[str, Any], layers: int, period: int) -> None:
    """`attention.sliding_window_pattern`: a flag a layer, or the period whose last layer sees everything."""
    pattern = read.value("attention.sliding_window_pattern")
    if isinstance(pattern, list) and len(pattern) == layers:
        slides = [bool(flag) for flag in pattern]
    else:
        period = pattern if isinstance(pattern, int) and pattern > 0 else period
        slides = [bool((layer + 1) % period) for layer in range(layers)]
    config["layer_types"] = ["sliding_attention" if slide else "full_attention" for slide in slides]


def _gpt_oss(read: _Reader, tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    size = read.integer("expert_feed_forward_length")
    if size is not None:
        config["intermediate_size"] = size
    _attention_bias(read, tensors, config, layers)
    _layer_types(read, config, layers, 2)


def _qwen2_moe(read: _Reader, tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    config["qkv_bias"] = _biased(tensors, "attn_q")
    _expert_sizes(tensors, config, layers)
    shared = next((info for name, info in tensors.items() if name.endswith(".ffn_up_shexp.weight")), None)
    if shared is not None:
        config["shared_expert_intermediate_size"] = shared.shape[0]


def _qwen3_moe(read: _Reader, tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    _attention_bias(read, tensors, config, layers)
    _expert_sizes(tensors, config, layers)
    norm = read.value("expert_weights_norm")
    if isinstance(norm, bool):
        config["norm_topk_prob"] = norm


def _expert_sizes(tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    """The experts' inputs are those of their last projection; layers without a router are dense."""
    routed = [layer for layer in range(layers) if f"blk.{layer}.ffn_gate_inp.weight" in tensors]
    config["mlp_only_layers"] = [layer for layer in range(layers) if layer not in routed]
    for layer in routed[:1]:
        for name in (f"blk.{layer}.ffn_down_exps.weight", f"blk.{layer}.ffn_down.0.weight"):
            if name in tensors:
                config["moe_intermediate_size"] = tensors[name].shape[-1]


def _olmo2(read: _Reader, tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    window = read.integer("attention.sliding_window")
    if window:
        raise CheckpointError(
            f"the file's `{read.name}.attention.sliding_window` is {window}: OLMo 3 is not supported, OLMo 2 is"
        )


def _phi3(read: _Reader, tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    config["sliding_window"] = config.get("sliding_window") or None


def _phimoe(read: _Reader, tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    _phi3(read, tensors, config, layers)
    _attention_bias(read, tensors, config, layers)
    config["lm_head_bias"] = "output.bias" in tensors


def _stablelm(read: _Reader, tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    config["use_qkv_bias"] = _biased(tensors, "attn_q", "attn_qkv")
    config["use_parallel_residual"] = "blk.0.ffn_norm.weight" not in tensors
    config["qk_layernorm"] = "blk.0.attn_q_norm.weight" in tensors


def _starcoder2(read: _Reader, tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    config["use_bias"] = _biased(tensors, "ffn_up")
    config["sliding_window"] = None


def _falcon(read: _Reader, tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    heads = config.setdefault("num_kv_heads", 1)
    two = "blk.0.attn_norm_2.weight" in tensors
    config["num_ln_in_parallel_attn"] = 2 if two else 1
    config["new_decoder_architecture"] = two or heads != 1
    config["multi_query"] = heads == 1


def _gpt2(read: _Reader, tensors: Tensors, config: dict[str, Any], layers: int) -> None:
    config.setdefault("n_inner", None)


_FAMILIES = {
    "llama": _llama, "granite": _biases, "smollm3": _biases, "qwen3": _attention_bias, "gemma2": _gemma2,
    "gemma3_text": _gemma3, "gpt_oss": _gpt_oss, "qwen2_moe": _qwen2_moe, "qwen3_moe": _qwen3_moe, "olmo2": _olmo2,
    "phi3": _phi3, "phimoe": _phimoe, "stablelm": _stablelm, "starcoder2": _starcoder2, "falcon": _falcon,
    "gpt2": _gpt2, "gpt_neox": _attention_bias,
}  # fmt: skip
