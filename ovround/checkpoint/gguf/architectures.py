"""The architectures of llama.cpp that one of our families computes: what their metadata and tensors are called.

llama.cpp names the tensors of all architectures alike; an architecture states what differs. The names on the other side
are those of the decoder (Llama's), so that a family's own layout plays no part. `places.py` says where each tensor lies.
Sources: llama.cpp's `conversion/` (what is written), `src/models/` (what is computed), and `gguf.constants`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ovround.errors import CheckpointError

# Metadata below `{architecture}.`, and config.json's name of it as most families spell it.
_KEYS = {
    "block_count": "num_hidden_layers", "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}  # fmt: skip
_LAYER_NORM = {"attention.layer_norm_epsilon": "layer_norm_eps"}
_WINDOW = {"attention.sliding_window": "sliding_window"}
_EXPERTS = {"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"}
_LOCAL_EXPERTS = {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}
_EXPERT_SIZE = {"expert_feed_forward_length": "moe_intermediate_size"}
_SHARED_SIZE = {"expert_shared_feed_forward_length": "shared_expert_intermediate_size"}

# The decoder's modules outside of blocks, and inside of them without the block's name.
MODULES = {
    "model.embed_tokens": "token_embd", "model.embed_positions": "position_embd",
    "model.embed_layernorm": "token_embd_norm", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "self_attn": "attn_sinks",  # the tensor `self_attn.sinks`
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}  # fmt: skip
_SANDWICH = {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Architecture:
    """What one of llama.cpp's architectures is here.

    `model_type` and `model_class` are transformers' names. `keys`: metadata below the architecture's name -> config.json;
    `config`: what the family's config.json says besides, since every file of the architecture is computed so. `names`
    replaces some of `MODULES`. Of query and key `paired` architectures keep row i of a head at 2i and row i + D/2 at
    2i + 1. `joined` are the tensors that hold several projections where the file is written: `attn_qkv`, and `ffn_up`
    with the gate before it. A file may come either way. Norms that transformers stores less 1 lie with their 1 here.
    """

    name: str
    model_type: str
    model_class: str
    keys: Mapping[str, str]
    config: Mapping[str, object] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    paired: bool = False
    joined: tuple[str, ...] = ()

    def module(self, name: str) -> str:
        """llama.cpp's name of a module of the decoder, without the block's."""
        return self.names.get(name) or MODULES.get(name, name)


def _of(
    name: str,
    model_type: str,
    model_class: str,
    *more: Mapping[str, str],
    without: tuple[str, ...] = (),
    config: Mapping[str, object] | None = None,
    names: Mapping[str, str] | None = None,
    paired: bool = False,
    joined: tuple[str, ...] = (),
) -> Architecture:
    keys = {key: value for key, value in _KEYS.items() if key not in without}
    for extra in more:
        keys |= extra
    return Architecture(name, model_type, model_class, keys, config or {}, names or {}, paired, joined)


_RMS = "attention.layer_norm_rms_epsilon"
_QKV = ("attn_qkv",)
_LLAMA_LIKE = ("baichuan", "ernie4_5", "internlm2", "llama", "mistral3", "xverse")
_ALL = (
    *(_of(name, "llama", "LlamaForCausalLM", paired=True) for name in _LLAMA_LIKE),
    _of("granite", "granite", "GraniteForCausalLM", {
        "attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
    }, paired=True),
    _of("smollm3", "smollm3", "SmolLM3ForCausalLM", config={"no_rope_layer_interval": 4}, paired=True),
    *(_of(name, "qwen2", "Qwen2ForCausalLM", config={"use_sliding_window": False}) for name in ("qwen2", "qwen2vl")),
    *(_of(name, "qwen3", "Qwen3ForCausalLM", config={"use_sliding_window": False}) for name in ("qwen3", "qwen3vl")),
    _of("qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM", _EXPERTS, _EXPERT_SIZE, _SHARED_SIZE,
        config={"use_sliding_window": False, "norm_topk_prob": False}),
    *(_of(name, "qwen3_moe", "Qwen3MoeForCausalLM", _EXPERTS, _EXPERT_SIZE,
          config={"use_sliding_window": False, "norm_topk_prob": True}) for name in ("qwen3moe", "qwen3vlmoe")),
    _of("gemma", "gemma", "GemmaForCausalLM", config={"hidden_activation": "gelu_pytorch_tanh"}),
    _of("gemma2", "gemma2", "Gemma2ForCausalLM", _WINDOW, {
        "attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping",
    }, config={"hidden_activation": "gelu_pytorch_tanh"}, names=_SANDWICH),
    _of("gemma3", "gemma3_text", "Gemma3ForCausalLM", _WINDOW, {
        "final_logit_softcapping": "final_logit_softcapping", "rope.freq_base_swa": "rope_local_base_freq",
    }, config={"hidden_activation": "gelu_pytorch_tanh"}, names=_SANDWICH),
    _of("gpt-oss", "gpt_oss", "GptOssForCausalLM", _LOCAL_EXPERTS, _WINDOW,
        names={"post_attention_layernorm": "post_attention_norm"}),
    _of("olmo2", "olmo2", "Olmo2ForCausalLM", names=_SANDWICH),
    _of("olmoe", "olmoe", "OlmoeForCausalLM", _EXPERTS, config={"norm_topk_prob": False}),
    _of("phi3", "phi3", "Phi3ForCausalLM", _WINDOW, without=("attention.key_length",), joined=(*_QKV, "ffn_up")),
    _of("phimoe", "phimoe", "PhimoeForCausalLM", _LOCAL_EXPERTS, _WINDOW, without=("attention.key_length",)),
    _of("phi2", "phi", "PhiForCausalLM", _LAYER_NORM, without=(_RMS, "attention.key_length"),
        config={"hidden_act": "gelu_new"}),
    _of("stablelm", "stablelm", "StableLmForCausalLM", _LAYER_NORM, without=(_RMS, "attention.key_length")),
    _of("starcoder2", "starcoder2", "Starcoder2ForCausalLM", {"attention.layer_norm_epsilon": "norm_epsilon"},
        without=(_RMS, "attention.key_length"), config={"hidden_act": "gelu_pytorch_tanh"}),
    _of("gptneox", "gpt_neox", "GPTNeoXForCausalLM", _LAYER_NORM,
        {"use_parallel_residual": "use_parallel_residual", "rope.freq_base": "rotary_emb_base"},
        without=(_RMS, "attention.key_length", "attention.head_count_kv"),
        config={"hidden_act": "gelu"}, joined=_QKV),
    _of("falcon", "falcon", "FalconForCausalLM",
        {"attention.layer_norm_epsilon": "layer_norm_epsilon", "attention.head_count_kv": "num_kv_heads",
         "feed_forward_length": "ffn_hidden_size"},
        without=(_RMS, "attention.key_length"),
        config={"alibi": False, "bias": False, "parallel_attn": True, "activation": "gelu"}, joined=_QKV),
    Architecture("gpt2", "gpt2", "GPT2LMHeadModel", {
        "block_count": "n_layer", "context_length": "n_positions", "embedding_length": "n_embd",
        "feed_forward_length": "n_inner", "attention.head_count": "n_head",
        "attention.layer_norm_epsilon": "layer_norm_epsilon",
    }, {"activation_function": "gelu_new"}, joined=_QKV),
    Architecture("bloom", "bloom", "BloomForCausalLM", {
        "block_count": "n_layer", "context_length": "seq_length", "embedding_length": "hidden_size",
        "attention.head_count": "n_head", "attention.layer_norm_epsilon": "layer_norm_epsilon",
    }, joined=_QKV),
)  # fmt: skip
SCALED_BY_HIDDEN_SIZE = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, whose scores llama.cpp scales by the hidden size a head, and not by the head's size."""
ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in _ALL}
MIXTRAL = _of("llama", "mixtral", "MixtralForCausalLM", _LOCAL_EXPERTS, paired=True)
"""What `llama` is where `llama.expert_count` is above 0."""
_WRITTEN_AS = {"mistral": "llama", "internlm3": "llama", "mixtral": "llama"}


def architecture_of(name: str, *, experts: bool = False) -> Architecture:
    """The architecture that `general.architecture` names, with `experts` or without.

    Raises CheckpointError, with those that are known, for one that no family computes.
    """
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"the file is of llama.cpp's architecture `{name:.40}`, which no family of ovround computes",
            hint=f"known: {', '.join(sorted(ARCHITECTURES))}",
        )
    return MIXTRAL if name == "llama" and experts else ARCHITECTURES[name]


def architecture_for(model_type: str) -> Architecture | None:
    """The architecture that files of a family are written as; None for a family that llama.cpp does not know, such as OPT."""
    if model_type == "mixtral":
        return MIXTRAL
    if model_type in _WRITTEN_AS:
        return ARCHITECTURES[_WRITTEN_AS[model_type]]
    same = [architecture for architecture in _ALL if architecture.model_type == model_type]
    preferred = model_type.replace("_text", "").replace("_", "")
    return next((one for one in same if one.name in (model_type, preferred)), same[0] if same else None)
