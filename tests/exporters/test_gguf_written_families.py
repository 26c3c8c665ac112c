"""GGUF files of every family that llama.cpp computes alike: read back by ovround, by transformers and by llama.cpp."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_writer import VOCAB_SIZE
from gguf_model import logits, write_model
from llama_cpp import llama_cpp
from random_model import CONFIGS

from ovround.checkpoint.gguf import open_gguf
from ovround.checkpoint.gguf.architectures import architecture_for
from ovround.errors import UsageError
from ovround.exporters.gguf.computation import COMPUTATIONS, exact_context
from ovround.exporters.gguf.suitability import architecture_of
from ovround.models import from_config

pytest.importorskip("gguf")
IDS = [int(token) for token in np.random.default_rng(3).integers(5, VOCAB_SIZE, 24)]
_GEMMA = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "vocab_size": VOCAB_SIZE, "max_position_embeddings": 256, "query_pre_attn_scalar": 32, "sliding_window": 12,
}  # fmt: skip
_ROPE = {"rope_type": "linear", "factor": 8.0}
MORE: dict[str, dict[str, Any]] = {
    "gemma2": {
        **_GEMMA, "model_type": "gemma2", "num_hidden_layers": 3,
        "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
    },
    "gemma3": {**_GEMMA, "model_type": "gemma3_text", "num_hidden_layers": 7, "rope_scaling": _ROPE, "rope_theta": 5e5},
    "smollm3": {**CONFIGS["smollm3-0"], "num_hidden_layers": 5, "no_rope_layers": None},
}  # fmt: skip
# What llama.cpp cannot state of a smallest configuration, by a part of the message.
REFUSED = {
    "falcon-3": "order of norms",
    "gemma2-0": "scores times 0.204", "gemma2-1": "scores times 0.204",
    "gemma3_text-0": "scores times 0.204", "gemma3_text-1": "scores times 0.204", "gpt2-1": "scores times 0.125",
    "gpt_neox-1": "without a bias", "starcoder2-1": "without a bias", "qwen3-1": "with a bias",
    "olmoe-1": "weighed by `share`", "qwen2_moe-1": "weighed by `share`", "qwen3_moe-1": "weighed by `probability`",
    "smollm3-0": "rotation of layer 1", "smollm3-1": "rotation of layer 1",
}  # fmt: skip
for _name, _config in CONFIGS.items():
    if (_known := architecture_for(_config["model_type"])) is None or _known.name not in COMPUTATIONS:
        REFUSED[_name] = f"family `{_config['model_type']}`"
WRITTEN = {name: config for name, config in CONFIGS.items() if name not in REFUSED} | MORE
# Families that transformers' reader of GGUF files takes as small as this, and computes as its own.
TRANSFORMERS = ("bloom-0", "falcon-0", "internlm3-0", "qwen2-0", "stablelm-0")
# Where the package of the test, a fork of llama.cpp, computes what llama.cpp does.
LLAMA_CPP = (
    "falcon-0", "falcon-1", "gemma-0", "gemma3", "gpt_neox-0", "internlm3-0", "llama-0", "llama-2",
    "llama-4", "mistral-1", "phi-0", "phi3-0", "qwen2-0", "qwen2_moe-0", "qwen3-0", "qwen3_moe-0", "stablelm-0", "stablelm-1",
)  # fmt: skip
_HALF = 2.5e-3  # of the largest logit: the cache and ggml's tables of activations are float16


def context(config: dict[str, Any]) -> int:
    """The tokens up to which llama.cpp computes the same."""
    decoder = from_config(config)
    return exact_context(decoder, architecture_of(decoder, config).name)


@pytest.mark.parametrize("name", WRITTEN)
def test_ovround_reads_what_it_wrote(name: str, tmp_path: Path) -> None:
    """From the file alone: configuration and tensors give the logits of the model that was written."""
    config = WRITTEN[name]
    file, weights = write_model(tmp_path, config)
    (file.parent / "config.json").unlink()
    source = open_gguf(file)
    decoder = from_config(source.config)
    shapes = decoder.every_tensor()
    located = source.located(shapes)
    located.check(shapes)
    read = {tensor: located.read_floats(tensor).float32().reshape(shape) for tensor, shape in shapes.items()}
    for tensor, values in read.items():
        np.testing.assert_array_equal(values, weights[tensor], err_msg=tensor)
    ids = IDS[: context(config)]
    np.testing.assert_allclose(logits(source.config, read, ids), logits(config, weights, ids), atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_computes_otherwise_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=REFUSED[name]):
        architecture_of(from_config(CONFIGS[name]), CONFIGS[name])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_reads_it(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = WRITTEN[name]
    file, weights = write_model(tmp_path, config)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        theirs = model(torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(theirs, logits(config, weights, IDS), atol=1e-4)


@pytest.mark.parametrize("name", LLAMA_CPP)
def test_llama_cpp_reads_it(name: str, tmp_path: Path) -> None:
    config = WRITTEN[name]
    ids = IDS[: context(config)]
    file, weights = write_model(tmp_path, config)
    theirs, _ = llama_cpp(file, ids)
    ours = logits(config, weights, ids)
    np.testing.assert_allclose(theirs, ours, atol=_HALF * np.abs(ours).max())


def test_one_swapped_row_is_seen(tmp_path: Path) -> None:
    """The smallest mistake in a permutation moves the logits by far more than the tolerance."""
    config = WRITTEN["llama-0"]
    weights = write_model(tmp_path, config)[1]
    swapped = {name: values.copy() for name, values in weights.items()}
    rows = swapped["model.layers.0.self_attn.k_proj.weight"]
    rows[[0, 1]] = rows[[1, 0]]
    moved = np.abs(logits(config, swapped, IDS) - logits(config, weights, IDS)).max()
    assert moved > 10 * _HALF * np.abs(logits(config, weights, IDS)).max()
