"""The text model inside a multimodal checkpoint: its configuration as a config.json of its own, and where its tensors lie.

The configuration of a multimodal model has that of its text model under `text_config`, with the keys left out that are at
the defaults of transformers' class. Old checkpoints of Qwen2-VL have the text model's keys beside the others. The names of
tensors have changed twice: `language_model.model.layers`, `model.layers` and, in transformers 5, `model.language_model.layers`.

With text alone the positions of height and width equal those of time, so Qwen's multimodal rotation (`mrope`) is the plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ovround.errors import CheckpointError

# Where the text model lies, in place of a checkpoint's first part (`model.`), the most specific first.
PREFIXES = (
    "model.language_model.model.", "model.language_model.", "language_model.model.", "language_model.",
    "model.text_model.model.", "model.text_model.", "text_model.model.", "text_model.",
)  # fmt: skip
# What a multimodal checkpoint has beside its text model, at the top or below `model.`.
TOWERS = (
    "vision_tower", "vision_model", "visual", "vit", "image_tower", "video_tower", "audio_tower", "audio_model",
    "multi_modal_projector", "mm_projector", "connector", "aligner", "vision_projection", "image_newline", "perceiver",
    "visual_embeddings_table", "vqmodel", "vqvae", "generation_embeddings", "generation_aligner", "generation_head",
    "high_res_vision_model", "high_res_vision_neck", "high_res_vision_proj", "high_res_vision_alpha", "mlp1", "embed_vision",
    "vision_embedder", "embed_audio", "vision_encoder", "audio_encoder", "projector", "modality_projection", "qformer",
    "projection_layer", "vision_adapter",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextModel:
    """A text model as `text_config` names it: our family that computes it, and the sizes that its class has by default.

    `kv_heads` None: as many as there are heads. `architecture` is transformers' class of the text model alone.
    """

    family: str
    architecture: str
    sizes: tuple[int, int, int, int]  # vocabulary, hidden, inside the MLP, layers
    heads: int
    kv_heads: int | None
    positions: int
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def filled(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        """`stated` with the defaults of keys that it omits; one that is null stays so."""
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
        sizes = dict(zip(names, self.sizes, strict=True)) | {"num_attention_heads": self.heads}
        sizes |= {"max_position_embeddings": self.positions}
        if self.kv_heads is not None:
            sizes["num_key_value_heads"] = self.kv_heads
        return {**sizes, **self.defaults, **stated, "model_type": self.family}


_QWEN_VL = TextModel(
    "qwen2", "Qwen2ForCausalLM", (152064, 8192, 29568, 80), 64, 8, 32768,
    {"rms_norm_eps": 1e-5, "rope_theta": 1e6, "max_window_layers": 80},
)  # fmt: skip
TEXT_MODELS: dict[str, TextModel] = {
    "cohere2": TextModel(
        "cohere2", "Cohere2ForCausalLM", (256000, 8192, 22528, 40), 64, None, 8192, {"sliding_window": 4096}
    ),
    "gemma": TextModel("gemma", "GemmaForCausalLM", (256000, 3072, 24576, 28), 16, 16, 8192, {"head_dim": 256}),
    "gemma2": TextModel(
        "gemma2", "Gemma2ForCausalLM", (256000, 2304, 9216, 26), 8, 4, 8192, {"head_dim": 256, "sliding_window": 4096}
    ),
    "gemma3_text": TextModel(
        "gemma3_text", "Gemma3ForCausalLM", (262208, 2304, 9216, 26), 8, 4, 131072,
        {"head_dim": 256, "sliding_window": 4096},
    ),
    "gemma3n_text": TextModel(
        "gemma3n_text", "Gemma3nForCausalLM", (262400, 2048, 16384, 35), 8, 2, 32768,
        {"head_dim": 256, "sliding_window": 512},
    ),
    "gemma4_text": TextModel(
        "gemma4_text", "Gemma4ForCausalLM", (262144, 2304, 9216, 30), 8, 4, 131072,
        {"head_dim": 256, "sliding_window": 512},
    ),
    "gemma4_unified_text": TextModel(
        "gemma4_unified_text", "Gemma4UnifiedForCausalLM", (262144, 2304, 9216, 30), 8, 4, 262144,
        {"head_dim": 256, "sliding_window": 1024},
    ),
    "muse_glimmer_text": TextModel(
        "muse_glimmer_text", "MuseGlimmerForConditionalGeneration", (202048, 6656, 19968, 52), 32, 2, 131072,
        {"head_dim": 128, "sliding_window": 2048},
    ),
    "granite": TextModel("granite", "GraniteForCausalLM", (32000, 4096, 11008, 32), 32, None, 2048),
    "llama": TextModel("llama", "LlamaForCausalLM", (32000, 4096, 11008, 32), 32, None, 2048),
    "ministral": TextModel(
        "ministral", "MinistralForCausalLM", (32000, 4096, 14336, 32), 32, 8, 131072, {"sliding_window": 4096}
    ),
    "ministral3": TextModel(
        "ministral3", "Ministral3ForCausalLM", (131072, 4096, 14336, 34), 32, 8, 262144, {"head_dim": 128}
    ),
    "mistral": TextModel(
        "mistral", "MistralForCausalLM", (32000, 4096, 14336, 32), 32, 8, 131072, {"sliding_window": 4096}
    ),
    "mistral4": TextModel("mistral4", "Mistral4ForCausalLM", (131072, 4096, 12288, 36), 32, 32, 1048576),
    "mixtral": TextModel("mixtral", "MixtralForCausalLM", (32000, 4096, 14336, 32), 32, 8, 131072),
    "phi3": TextModel("phi3", "Phi3ForCausalLM", (32064, 3072, 8192, 32), 32, None, 4096),
    "qwen2": TextModel("qwen2", "Qwen2ForCausalLM", (151936, 4096, 22016, 32), 32, 32, 32768),
    "qwen2_vl_text": _QWEN_VL,
    "qwen2_5_vl_text": _QWEN_VL,
    "qwen3": TextModel("qwen3", "Qwen3ForCausalLM", (151936, 4096, 22016, 32), 32, 32, 32768, {"head_dim": 128}),
    "qwen3_vl_text": TextModel(
        "qwen3", "Qwen3ForCausalLM", (151936, 4096, 22016, 32), 32, 32, 128000, {"head_dim": 128, "rope_theta": 5e5}
    ),
    "qwen3_5_text": TextModel(
        "qwen3_5_text", "Qwen3_5ForCausalLM", (248320, 4096, 12288, 32), 16, 4, 32768, {"head_dim": 256}
    ),
    "qwen3_5_moe_text": TextModel(
        "qwen3_5_moe_text", "Qwen3_5MoeForCausalLM", (248320, 2048, 512, 40), 16, 2, 32768, {"head_dim": 256}
    ),
    "qwen3_moe": TextModel("qwen3_moe", "Qwen3MoeForCausalLM", (151936, 2048, 6144, 24), 32, 4, 32768),
    "qwen3_vl_moe_text": TextModel(
        "qwen3_moe", "Qwen3MoeForCausalLM", (151936, 2048, 5632, 24), 16, 16, 128000,
        {"head_dim": 128, "rope_theta": 5e5, "moe_intermediate_size": 1408, "num_experts_per_tok": 4},
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Multimodal:
    """A multimodal model: the text model of a `text_config` that names none, and whether its head is tied by default.

    `fixed`: transformers reads `text_config` as that one, whatever it names. `flat`: old files have no `text_config`.
    `capped`: the multimodal model bounds its logits as the text model's own class does.
    """

    text: str
    tied: bool = False
    fixed: bool = False
    flat: bool = False
    capped: bool = False


MULTIMODAL: dict[str, Multimodal] = {
    "aya_vision": Multimodal("cohere2", tied=True), "cohere2_vision": Multimodal("cohere2", tied=True),
    "deepseek_vl": Multimodal("llama", tied=True), "deepseek_vl_hybrid": Multimodal("llama", tied=True),
    "gemma3": Multimodal("gemma3_text", tied=True, fixed=True),
    "gemma3n": Multimodal("gemma3n_text", tied=True, fixed=True, capped=True),
    "gemma4": Multimodal("gemma4_text", tied=True, fixed=True, capped=True),
    "gemma4_unified": Multimodal("gemma4_unified_text", tied=True, fixed=True, capped=True),
    "got_ocr2": Multimodal("qwen2", tied=True), "idefics2": Multimodal("mistral"), "idefics3": Multimodal("llama"),
    "internvl": Multimodal("qwen2", tied=True), "janus": Multimodal("llama", tied=True),
    "lighton_ocr": Multimodal("qwen3", tied=True), "llava": Multimodal("llama"), "llava_next": Multimodal("llama"),
    "llava_next_video": Multimodal("llama"), "llava_onevision": Multimodal("qwen2"),
    "mistral3": Multimodal("mistral", tied=True), "ovis2": Multimodal("qwen2", tied=True),
    "muse_glimmer": Multimodal("muse_glimmer_text", fixed=True, capped=True),
    "qwen2_5_vl": Multimodal("qwen2_5_vl_text", fixed=True, flat=True),
    "qwen2_audio": Multimodal("qwen2"), "qwen2_vl": Multimodal("qwen2_vl_text", fixed=True, flat=True),
    "qwen3_5": Multimodal("qwen3_5_text", fixed=True), "qwen3_5_moe": Multimodal("qwen3_5_moe_text", fixed=True),
    "qwen3_vl": Multimodal("qwen3_vl_text", fixed=True), "qwen3_vl_moe": Multimodal("qwen3_vl_moe_text", fixed=True),
    "smolvlm": Multimodal("llama"), "video_llama_3": Multimodal("qwen2"), "video_llava": Multimodal("llama"),
    "vipllava": Multimodal("llama"), "voxtral": Multimodal("llama"),
}  # fmt: skip
# What transformers' multimodal models do, whatever `text_config` says: the head's caps and scales belong to the text model's
# own class with a head, which they do not use; Qwen3-VL always normalises the experts' weights.
_ALWAYS = {"final_logit_softcapping": None, "logits_scaling": 1.0}
_ALWAYS_OF: dict[str, dict[str, Any]] = {"cohere2": {"logit_scale": 1.0}, "qwen3_vl_moe_text": {"norm_topk_prob": True}}
_OF_THE_WHOLE = (
    "bos_token_id", "dtype", "eos_token_id", "pad_token_id", "quantization_config", "tokenizer_class", "torch_dtype",
    "transformers_version",
)  # fmt: skip


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` itself, or that of the text model where it is of a model in `MULTIMODAL`, as if it had been saved alone.

    Raises CheckpointError where that has no `text_config`.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in MULTIMODAL:
        return dict(config)
    kind = MULTIMODAL[model_type]
    inner = config.get("text_config")
    if inner is None and kind.flat:
        inner = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
        inner.pop("vision_config", None)
    if not isinstance(inner, Mapping):
        raise CheckpointError(
            f"config.json of model_type `{model_type}` has no object `text_config` ({inner!r:.40})",
            hint="the configuration is not complete: download it again",
        )
    named = str(kind.text if kind.fixed else inner.get("model_type") or kind.text)
    whole = {key: config[key] for key in _OF_THE_WHOLE if config.get(key) is not None}
    if named not in TEXT_MODELS:
        return {**inner, **whole, "model_type": named}
    model = TEXT_MODELS[named]
    uncapped = {} if kind.capped else _ALWAYS
    always = {key: value for key, value in uncapped.items() if key in inner} | _ALWAYS_OF.get(named, {})
    if model.family == "gemma2":
        always["final_logit_softcapping"] = None  # which is there by default
    flat = {**model.filled(_plainly_rotated(inner)), **whole, **always, "architectures": [model.architecture]}
    # Which of the two says so has changed with transformers. A head that is stored and differs is untied when it is read.
    stated, own = config.get("tie_word_embeddings"), inner.get("tie_word_embeddings")
    outer = kind.tied if stated is None else bool(stated)
    flat["tie_word_embeddings"] = outer or bool(model.family.startswith("gemma") if own is None else own)
    return flat


def is_multimodal(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a multimodal model that `text_config` knows."""
    model_type = config.get("model_type")
    return isinstance(model_type, str) and model_type in MULTIMODAL


def tower_of(name: str) -> str | None:
    """The part of a multimodal model beside its text model that tensor `name` belongs to; None where it is none of `TOWERS`."""
    parts = name.split(".")
    while parts and parts[0] in ("model", "thinker"):
        parts = parts[1:]
    return parts[0] if parts and parts[0] in TOWERS else None


def relocated(first: str, names: Iterable[str]) -> Callable[[str], str] | None:
    """How a text model's names must change to be those in `names`, among which `first` is not; None where nothing fits.

    `first` is the name of its first tensor, the embedding.
    """
    there = frozenset(names)
    start, _, rest = first.partition(".")
    prefix = next((prefix for prefix in PREFIXES if prefix + rest in there), None)
    if prefix is None:
        return None

    def place(name: str) -> str:
        if name.startswith(f"{start}."):
            return prefix + name.removeprefix(f"{start}.")
        outer = prefix.split(".")[:-1]  # a head lies beside the text model, or with it below one of its parents
        places = [".".join((*outer[:depth], name)) for depth in range(len(outer) + 1)]
        return next((place for place in places if place in there), name)

    return place


def _plainly_rotated(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the rotation that text alone has, where it names the multimodal one."""
    plain = dict(config)
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.get(key)
        if isinstance(rope, Mapping):
            kept = {name: value for name, value in rope.items() if not name.startswith("mrope_")}
            kept |= {name: "default" for name in ("type", "rope_type") if kept.get(name) == "mrope"}
            plain[key] = kept
    return plain
