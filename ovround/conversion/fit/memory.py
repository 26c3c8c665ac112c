"""Memory of a chat with a model on the CPU, from sizes alone.

The constants were fitted to peak resident memory of `ovround run` on SmolLM2 135M, Gemma 3 270M and Qwen2.5 0.5B in 4 and 8 bits
(OpenVINO 2026.4 without the native operator); docs/dev/log/measuring.md has the figures.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping

from ovround.models.decoder import Decoder
from ovround.models.state import State
from ovround.quant.plan import Plan
from ovround.tensors.scheme import QuantScheme

LIBRARIES_BYTES = 240_000_000  # Python, OpenVINO, tokenizers and what they allocate
TOKENIZER_COPIES = 16  # of tokenizer.json: the vocabulary, its merges, and their look-up tables
# Of a weight's bytes. Weights are repacked for the processor, and the file's own pages are given back, if not all of them.
_COPIES = {8: 1.4}
_INNER_COPIES, _FLOAT_BYTES = 12, 4  # float32 values a token of a prompt in units of a block's inner size
_PROMPT_TOKENS = 1024  # of a prompt that is computed at once
# Bytes of a value in a state that grows, and of what belongs to each vector of it: OpenVINO's cache has 8 bits and two floats.
_VALUE_BYTES = {"openvino": 1, "onnx": 2 * _FLOAT_BYTES}
_VECTOR_BYTES = {"openvino": 8, "onnx": 0}


def token_bytes(decoder: Decoder, format_name: str) -> int:
    """Bytes that each token of the context adds to the states."""
    return sum(_token(state, format_name) for kept in decoder.states() for state in kept if state.grows is not None)


def memory_bytes(decoder: Decoder, format_name: str, weight_bytes: int, tokenizer_bytes: int, context: int) -> int:
    """Peak resident memory of a chat whose context is full; `weight_bytes` are `resident_bytes`."""
    fixed = sum(
        math.prod(state.shape) * _FLOAT_BYTES for kept in decoder.states() for state in kept if state.grows is None
    )
    prompt = min(context, _PROMPT_TOKENS) * decoder.inner_size * _INNER_COPIES * _FLOAT_BYTES
    states = fixed + context * token_bytes(decoder, format_name)
    return int(LIBRARIES_BYTES + TOKENIZER_COPIES * tokenizer_bytes + weight_bytes + states + prompt)


def resident_bytes(decoder: Decoder, plan: Plan, sizes: Mapping[str, int]) -> int:
    """What weights of these sizes take in memory."""
    inside = {name for layer in range(decoder.config.num_hidden_layers) for name in decoder.linears(layer)}

    def copies(name: str) -> float:
        scheme = plan.get(name)
        return _COPIES.get(scheme.bits, 1.0) if isinstance(scheme, QuantScheme) and name in inside else 1.0

    return int(sum(size * copies(name.removesuffix(".weight")) for name, size in sizes.items()))


def longest_context(
    decoder: Decoder, format_name: str, weight_bytes: int, tokenizer_bytes: int, usable_bytes: int
) -> int:
    """The longest context of a chat that stays within so many bytes, 0 where none does."""
    lengths = range(1, decoder.config.max_position_embeddings + 1)
    return bisect_right(
        lengths,
        usable_bytes,
        key=lambda length: memory_bytes(decoder, format_name, weight_bytes, tokenizer_bytes, length),
    )


def _token(state: State, format_name: str) -> int:
    values = math.prod(size for axis, size in enumerate(state.shape) if axis != state.grows)
    vectors = values // state.shape[-1] if state.shape[-1] else values
    return values * _VALUE_BYTES[format_name] + vectors * _VECTOR_BYTES[format_name]
