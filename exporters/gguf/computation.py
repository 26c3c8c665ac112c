"""What llama.cpp computes for an architecture beyond what a file can say, and whether a decoder is computed so.

A GGUF file states sizes, some factors and tensors. Activation, order of norms, masks and most scales are the program's.
A model that differs there would load and answer wrongly, so it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ovround.checkpoint.gguf.architectures import SCALED_BY_HIDDEN_SIZE
from ovround.errors import UsageError
from ovround.models.decoder import Decoder
from ovround.models.ops import Attention
from ovround.models.parts.attention import SelfAttention
from ovround.models.parts.dense import DenseMlp
from ovround.models.parts.experts import ExpertMlp
from ovround.models.parts.norms import PARALLEL, PARALLEL_SHARED, POST, PRE, SANDWICH, NormPlaces
from ovround.models.parts.shared_expert import SharedExpertMlp

HINT = "--format openvino or onnx"
_CLOSE = 1e-6


@dataclass(frozen=True, slots=True)
class Computation:
    """One architecture of llama.cpp.

    `activations` are those that its MLP may have; ggml's `gelu` is the one by tanh. Of every `window_period` layers the last
    sees the whole text; 1: all do, 0: none does. `experts` weighs them. `factors`: the file states scales of embedding,
    attention, residual stream and logits. `unrotated_period`: each so many-th layer has no rotation, 0 for none. Of the layers
    `qkv`, `o`, `mlp` and `head`, those in `biased` must have a bias, and those in `may_be_biased` may.
    """

    activations: tuple[str, ...] = ("silu",)
    places: tuple[NormPlaces, ...] = (PRE,)
    window_period: int = 1
    experts: str = ""
    factors: bool = False
    softcaps: bool = False
    embedding_scaled: bool = False
    unrotated_period: int = 0
    gated: bool = True
    biased: tuple[str, ...] = ()
    may_be_biased: tuple[str, ...] = ()
    sinks: bool = False


_GELU = ("gelu_tanh", "gelu")
_LINEAR = ("qkv", "o", "mlp")
_KIND = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "o_proj": "o", "lm_head": "head"}
COMPUTATIONS = {
    "llama": Computation(experts="share", may_be_biased=_LINEAR),
    "qwen2": Computation(biased=("qkv",)),
    "qwen2moe": Computation(experts="probability", biased=("qkv",)),
    "qwen3": Computation(),
    "qwen3moe": Computation(experts="share"),
    "gemma": Computation(_GELU, embedding_scaled=True),
    "gemma2": Computation(_GELU, (SANDWICH,), 2, softcaps=True, embedding_scaled=True),
    "gemma3": Computation(_GELU, (SANDWICH,), 6, embedding_scaled=True),
    "phi2": Computation(_GELU, (PARALLEL_SHARED,), gated=False, biased=(*_LINEAR, "head")),
    "phi3": Computation(),
    "stablelm": Computation(places=(PRE, PARALLEL_SHARED), may_be_biased=("qkv",)),
    "starcoder2": Computation(_GELU, gated=False, biased=_LINEAR),
    "olmo2": Computation(places=(POST,)),
    "olmoe": Computation(experts="probability"),
    "granite": Computation(factors=True, may_be_biased=_LINEAR),
    "smollm3": Computation(unrotated_period=4),
    "falcon": Computation(_GELU, (PARALLEL, PARALLEL_SHARED), gated=False),
    "gpt2": Computation(_GELU, gated=False, biased=_LINEAR),
    "bloom": Computation(_GELU, gated=False, biased=_LINEAR),
    "gptneox": Computation(_GELU, (PRE, PARALLEL), gated=False, biased=_LINEAR),
}


def check_computation(architecture: str, decoder: Decoder) -> None:
    """Raise UsageError for a decoder that llama.cpp would compute otherwise, naming what differs."""
    for difference in _differences(architecture, COMPUTATIONS[architecture], decoder):
        raise UsageError(f"format gguf: llama.cpp's architecture `{architecture}` cannot state {difference}", hint=HINT)


def attention_of(decoder: Decoder, layer: int = 0) -> SelfAttention:
    """The attention of a block; the families that have an architecture here are all made of it."""
    part = decoder.blocks[layer].parts[0]
    if not isinstance(part, SelfAttention):
        raise TypeError(f"block {layer} has a {type(part).__name__}")
    return part


def experts_of(decoder: Decoder) -> ExpertMlp | None:
    """The experts of the last block, None for a model without."""
    part = decoder.blocks[-1].parts[1]
    mixture = part.experts if isinstance(part, SharedExpertMlp) else part
    return mixture if isinstance(mixture, ExpertMlp) else None


def exact_context(decoder: Decoder, architecture: str) -> int:
    """The tokens up to which llama.cpp computes the same.

    A sliding window that an architecture does not have, and frequencies that grow with the text, begin to matter only then.
    """
    longest = decoder.config.max_position_embeddings
    for layer in range(decoder.config.num_hidden_layers):
        spec = attention_of(decoder, layer).spec
        if spec.sliding_window is not None and COMPUTATIONS[architecture].window_period == 1:
            longest = min(longest, spec.sliding_window)
        if spec.rope is not None and spec.rope.variant == "dynamic":
            longest = min(longest, spec.rope.original_max_position_embeddings)
    return longest


def _differences(architecture: str, fixed: Computation, decoder: Decoder) -> Iterator[str]:
    head, embedding = decoder.lm_head, decoder.embedding
    scale = decoder.config.hidden_size**0.5 if fixed.embedding_scaled else 1.0
    if not fixed.factors and abs(embedding.scale / scale - 1) > _CLOSE:
        yield f"embeddings times {embedding.scale:g}"
    if not fixed.factors and head.scale != 1:
        yield f"logits times {head.scale:g}"
    if not fixed.softcaps and head.softcap is not None:
        yield f"logits bounded by {head.softcap:g}"
    if not head.norm.weight:
        yield "norms without weights"
    for layer, block in enumerate(decoder.blocks):
        if block.places not in fixed.places:
            yield "this order of norms"
        if not fixed.factors and block.residual_scale != 1:
            yield f"a residual stream times {block.residual_scale:g}"
        mixer = attention_of(decoder, layer)
        yield from _attention_differences(architecture, fixed, decoder, mixer.spec, layer)
        yield from _mixer_differences(mixer)
        yield from _mlp_differences(fixed, block.parts[1])
    yield from _bias_differences(fixed, decoder)
    if len({block.parts[1] for block in decoder.blocks}) > 1:
        yield "MLPs that differ from layer to layer"


def _bias_differences(fixed: Computation, decoder: Decoder) -> Iterator[str]:
    shapes = decoder.every_tensor()
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if len(shape) != 2 or module == decoder.embedding_at or "gate.weight" in name or "embed" in name:
            continue
        kind = _KIND.get(module.rpartition(".")[2], "mlp")
        has_bias = f"{module}.bias" in shapes
        if (has_bias and kind not in (*fixed.biased, *fixed.may_be_biased)) or (not has_bias and kind in fixed.biased):
            yield f"`{module}` {'with' if has_bias else 'without'} a bias"


def _attention_differences(
    architecture: str, fixed: Computation, decoder: Decoder, spec: Attention, layer: int
) -> Iterator[str]:
    if not fixed.factors and abs(spec.scale / _scale(architecture, decoder, spec) - 1) > _CLOSE:
        yield f"attention scores times {spec.scale:g} in heads of {spec.head_dim}"
    if not fixed.softcaps and spec.softcap is not None:
        yield f"attention scores bounded by {spec.softcap:g}"
    period = fixed.window_period
    if period != 1 and decoder.blocks:
        windows = {attention_of(decoder, at).spec.sliding_window for at in range(len(decoder.blocks))} - {None}
        sees_all = spec.sliding_window is None
        if windows and sees_all != bool(period and (layer + 1) % period == 0):
            yield f"the sliding windows of these layers: it has one in all but each {period}th"
    rotates = not (fixed.unrotated_period and (layer + 1) % fixed.unrotated_period == 0)
    learned = decoder.embedding.positions or spec.alibi
    if not learned and (spec.rope is not None) != rotates:
        yield f"the rotation of layer {layer}"
    if spec.sinks:
        yield "attention sinks"


def _mixer_differences(mixer: SelfAttention) -> Iterator[str]:
    """What none of the architectures here has."""
    if mixer.clip is not None:
        yield f"queries, keys and values bounded by {mixer.clip:g}"
    if mixer.query_scale is not None:
        yield "queries scaled by their position"
    if mixer.query_key_norm in ("layer", "plain") or mixer.spec.rotated_norm_eps is not None:
        yield "this norm of queries and keys"
    if mixer.spec.rope is not None and mixer.spec.rope.interleaved:
        yield "a rotation of interleaved pairs"


def _scale(architecture: str, decoder: Decoder, spec: Attention) -> float:
    """llama.cpp's factor of the scores."""
    if len(decoder.blocks) == SCALED_BY_HIDDEN_SIZE.get(architecture):
        return float((decoder.config.hidden_size / spec.num_heads) ** -0.5)
    return float(spec.head_dim**-0.5)


def _mlp_differences(fixed: Computation, part: object) -> Iterator[str]:
    mixture = part.experts if isinstance(part, SharedExpertMlp) else part
    if isinstance(mixture, ExpertMlp):
        if mixture.spec.weights != fixed.experts or mixture.spec.clamped is not None:
            yield f"experts weighed by `{mixture.spec.weights}`"
        if not mixture.spec.gated:
            yield "experts without a gate"
        if mixture.spec.activation not in fixed.activations:
            yield f"activation {mixture.spec.activation}"
    elif isinstance(part, DenseMlp):
        if part.xielu:
            yield "activation xielu"
        if part.gated != fixed.gated:
            yield "an MLP without a gate" if fixed.gated else "an MLP with a gate"
        if part.activation not in fixed.activations:
            yield f"activation {part.activation}"
