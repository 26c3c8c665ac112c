"""The runtime: runs what `ovround convert` wrote, on OpenVINO or ONNX Runtime, without torch and transformers."""

from __future__ import annotations

from ovround.runtime.benchmark import BenchResult, bench
from ovround.runtime.completion import Completion, Piece, Timings, Usage
from ovround.runtime.grammar import Grammar
from ovround.runtime.llm import LLM
from ovround.runtime.logprobs import TokenLogprobs
from ovround.runtime.sampling import SamplingOptions
from ovround.runtime.tokenizer import Tokenizer

__all__ = [
    "LLM", "BenchResult", "Completion", "Grammar", "Piece", "SamplingOptions", "Timings", "TokenLogprobs", "Tokenizer",
    "Usage", "bench",
]  # fmt: skip
