"""A gated delta net in each engine: CPU time of a prompt and of a token beside transformers, and whether a token's stays flat.

The model has the shape of Qwen3.5-0.8B with random weights, fewer layers and a small vocabulary. transformers computes in
float32, ours in each engine's default mode with integer weights. All take one thread, in turns; the figures are the smallest
CPU times of the rounds, which neighbours on the machine disturb less than they do the time on the clock. The last line is one
JSON document.

    python benchmarks/gated_delta_net.py [--layers 16] [--prompt 512] [--rounds 3] [--bits 4]
    python benchmarks/gated_delta_net.py --contexts 256 1024 4096 --layers 4      # a token's time at these lengths
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_llama import DEMO_MODEL
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3_5TextConfig

from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions
from ovround.runtime.engines import open_engine

VOCAB_SIZE = 8192
FLAT = 1.5  # what the longest context may cost a token more than the shortest, attention layers included
TOKENS = 8  # of which the median counts
STEP = 512  # tokens of a prompt at once


def build(folder: Path, layers: int, kinds: Sequence[str] | None) -> None:
    """Write a random checkpoint in bfloat16."""
    config = Qwen3_5TextConfig(
        vocab_size=VOCAB_SIZE, hidden_size=1024, intermediate_size=3584, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=2, head_dim=256, linear_num_key_heads=16, linear_num_value_heads=16, layer_types=kinds,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, rope_parameters={"rope_type": "default", "rope_theta": 1e7},
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEMO_MODEL).save_pretrained(folder)


def cpu_s(call: Callable[[], Any]) -> float:
    """CPU seconds of all threads of this process."""
    started = time.process_time()
    call()
    return time.process_time() - started


class Reference:
    """transformers in float32, with the engine's three verbs."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._cache: Any = None

    def reset(self) -> None:
        self._cache = None

    @torch.no_grad()
    def extend(self, ids: Sequence[Sequence[int]]) -> None:
        result = self._model(torch.tensor(ids), cache=self._cache, use_cache=True, logits_to_keep=1)
        self._cache = result.cache

    def decode(self, ids: Sequence[int]) -> None:
        self.extend([ids])


def prompt(side: Any, ids: Sequence[int]) -> None:
    """All of `ids` into an empty cache."""
    side.reset()
    for start in range(0, len(ids), STEP):
        part = [list(ids[start : start + STEP])]
        if start or isinstance(side, Reference):
            side.extend(part)
        else:
            side.prefill(part)


def token_s(side: Any) -> float:
    return float(np.median([cpu_s(lambda: side.decode([7])) for _ in range(TOKENS)]))


def speed(sides: dict[str, Any], length: int, rounds: int) -> dict[str, dict[str, float]]:
    """The smallest CPU seconds of a prompt and of a token, by side."""
    ids = np.random.default_rng(0).integers(3, 500, length).tolist()
    prompts: dict[str, list[float]] = {name: [] for name in sides}
    tokens: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in (*sides,) if number % 2 else (*sides,)[::-1]:
            prompts[name].append(cpu_s(lambda side=sides[name]: prompt(side, ids)))
            tokens[name].append(token_s(sides[name]))
    return {name: {"prompt_s": min(prompts[name]), "token_s": min(tokens[name])} for name in sides}


def flatness(sides: dict[str, Any], contexts: Sequence[int]) -> dict[str, dict[int, float]]:
    """The CPU seconds of a token after so many, by side."""
    ids = np.random.default_rng(0).integers(3, 500, max(contexts)).tolist()
    times: dict[str, dict[int, float]] = {name: {} for name in sides}
    for name, side in sides.items():
        for context in contexts:
            prompt(side, ids[:context])
            times[name][context] = min(token_s(side) for _ in range(3))
    return times


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measure a gated delta net.")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--linear", action="store_true", help="no attention layers")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contexts", type=int, nargs="+", default=[])
    options = parser.parse_args()
    kinds = ["linear_attention"] * options.layers if options.linear else None
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "model"
        build(source, options.layers, kinds)
        settings = ConvertOptions(formats=("openvino", "onnx"), bits=options.bits, recipe="rtn")
        folders = convert(source, Path(scratch) / "out", settings).folders
        sides: dict[str, Any] = {folder.name: open_engine(folder, threads=1) for folder in folders}
        result: dict[str, Any] = {"layers": options.layers, "bits": options.bits, "linear": options.linear}
        if options.contexts:
            result["token_s"] = flatness(sides, options.contexts)
            for times in result["token_s"].values():
                assert times[max(times)] <= FLAT * times[min(times)], times
        else:
            sides["transformers"] = Reference(source)
            result["seconds"] = speed(sides, options.prompt, options.rounds)
        print(json.dumps(result))


if __name__ == "__main__":
    main()
