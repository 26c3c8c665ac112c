"""The runtime: runs what `ovround convert` wrote, on OpenVINO or ONNX Runtime, without torch and transformers."""

from __future__ import annotations

from ovround.runtime.decoding.completion import Completion, Piece, Timings, Usage
from ovround.runtime.decoding.grammar import Grammar
from ovround.runtime.decoding.logprobs import TokenLogprobs
from ovround.runtime.decoding.sampling import SamplingOptions
from ovround.runtime.llm import LLM
from ovround.runtime.text.tokenizer import Tokenizer

__all__ = [
    "LLM", "Completion", "Grammar", "Piece", "SamplingOptions", "Timings", "TokenLogprobs", "Tokenizer",
    "Usage",
]  # fmt: skip
