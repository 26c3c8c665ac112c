"""Every family that llama.cpp has: a random model of transformers, written by its conventions, is read back as the same model.

The file is alone: configuration and tensors come from it. Logits equal transformers' of the original model, computed by torch
from the float values, and again by transformers from the configuration that was read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_writer import ARCHITECTURES, tokenizer_metadata, write_model
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM

from ovround.checkpoint import mapped
from ovround.checkpoint.gguf import GgufFloats, open_gguf
from ovround.checkpoint.gguf.architectures import ARCHITECTURES as KNOWN
from ovround.checkpoint.gguf.architectures import architecture_for, architecture_of
from ovround.errors import CheckpointError
from ovround.measure.torch_model import CheckpointWeights, TorchModel
from ovround.models import families, from_config, smallest_configs

TOLERANCE = 2e-5  # of logits of about 1, float32 through two or three blocks; one head's rows swapped move them by 1e-2
# Variants that a file cannot state, or that llama.cpp computes as its own default says.
_STATED: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None}, "mixtral": {"sliding_window": None}, "starcoder2": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False}, "qwen3": {"use_sliding_window": False},
    "qwen2_moe": {"use_sliding_window": False, "norm_topk_prob": False, "mlp_only_layers": []},
    "qwen3_moe": {"use_sliding_window": False, "norm_topk_prob": True, "decoder_sparse_step": 1},
    "olmoe": {"norm_topk_prob": False}, "gemma2": {"query_pre_attn_scalar": 32},
    "gemma3_text": {"query_pre_attn_scalar": 32, "num_hidden_layers": 7},
    "gpt_oss": {"swiglu_limit": 7.0, "swiglu_alpha": 1.702, "layer_types": ["sliding_attention", "full_attention"]},
    "smollm3": {"num_hidden_layers": 5, "no_rope_layer_interval": 4}, "phi": {"num_key_value_heads": 4},
    "gpt2": {"scale_attn_by_inverse_layer_idx": False}, "phimoe": {"router_jitter_noise": 0.01},
}  # fmt: skip
_LEFT_OUT = {"gemma3_text": ("layer_types", "sliding_window_pattern"), "smollm3": ("no_rope_layers",)}
# of the others llama.cpp has no architecture, or theirs is not read
_READ = {architecture.model_type for architecture in KNOWN.values()} | {"internlm3", "mistral", "mixtral"}
_WITHOUT = {
    ("falcon", 3),
    ("llama", 3),
    ("internlm3", 1),
    ("olmoe", 1),
}  # biases beside each other; dynamic NTK and bounds of queries, which no file states
CASES = [
    (family, number)
    for family in families()
    if family in _READ
    for number in range(len(smallest_configs(family)))
    if (family, number) not in _WITHOUT
]


def model_of(family: str, number: int) -> tuple[Any, dict[str, Any]]:
    """A random model and its whole configuration; norms, biases and sinks are random too."""
    config = {**smallest_configs(family)[number], **_STATED.get(family, {})}
    config = {key: value for key, value in config.items() if key not in _LEFT_OUT.get(family, ())}
    if family == "gemma2" and number:
        config |= {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
    torch.manual_seed(number)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32).eval()
    with torch.no_grad():
        for values in model.parameters():
            values.copy_(values + 0.2 * torch.randn_like(values) if values.ndim < 2 else 4 * values)
    whole = model.config.to_dict()
    if family == "falcon" and not whole["new_decoder_architecture"]:
        whole["num_kv_heads"] = 1
    return model, whole


def written(
    path: Path, model: Any, config: dict[str, Any], replaced: dict[str, Any] | None = None, **options: Any
) -> Path:
    tied = bool(config.get("tie_word_embeddings"))
    weights = {
        name: values.float().numpy()
        for name, values in model.state_dict().items()
        if not (tied and name == "lm_head.weight") and not name.endswith((".attn.bias", ".masked_bias", "inv_freq"))
    }
    first = ["<unk>", "<s>", "</s>", "t", "h", "th"]
    tokens = [*first, *(f"t{index}" for index in range(len(first), config["vocab_size"]))]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    write_model(
        path, config, weights, metadata={**tokenizer_metadata(vocabulary, ["t h"]), **(replaced or {})}, **options
    )
    return path


def logits_of(source: GgufFloats, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    decoder = from_config(source.config)
    expected = decoder.every_tensor()
    checkpoint = mapped(source, decoder.sources(), expected)
    checkpoint.check(expected, decoder.unused_tensors())
    return TorchModel(decoder, CheckpointWeights(checkpoint))(ids)


def transformers_logits(model: Any, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(model(torch.tensor(ids)).logits.float().numpy())


@pytest.mark.parametrize(("family", "number"), CASES)
def test_a_file_alone_is_the_model(tmp_path: Path, family: str, number: int) -> None:
    model, config = model_of(family, number)
    source = open_gguf(written(tmp_path / "model.gguf", model, config)).stored
    ids = np.random.default_rng(0).integers(3, config["vocab_size"], (1, 40))
    expected = transformers_logits(model, ids)
    np.testing.assert_allclose(logits_of(source, ids), expected, atol=TOLERANCE * np.abs(expected).max())
    stated = json.loads((source.folder / "config.json").read_text())
    again = AutoModelForCausalLM.from_config(AutoConfig.for_model(**stated), dtype=torch.float32).eval()
    again.load_state_dict(model.state_dict())
    np.testing.assert_allclose(transformers_logits(again, ids), expected, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize(("family", "options"), [
    ("mixtral", {"experts_apart": True}), ("olmoe", {"experts_apart": True}), ("qwen3_moe", {"qkv_joined": True}),
    ("llama", {"qkv_joined": True}), ("phi", {"qkv_joined": True}), ("granite", {"qkv_joined": True}),
])  # fmt: skip
def test_other_generations_of_names(tmp_path: Path, family: str, options: dict[str, Any]) -> None:
    model, config = model_of(family, 0)
    source = open_gguf(written(tmp_path / "model.gguf", model, config, **options)).stored
    ids = np.random.default_rng(0).integers(3, config["vocab_size"], (1, 24))
    expected = transformers_logits(model, ids)
    np.testing.assert_allclose(logits_of(source, ids), expected, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize(("name", "family"), [
    ("internlm2", "llama"), ("xverse", "llama"), ("baichuan", "llama"), ("ernie4_5", "llama"), ("mistral3", "llama"),
    ("qwen2vl", "qwen2"), ("qwen3vl", "qwen3"), ("qwen3vlmoe", "qwen3_moe"),
])  # fmt: skip
def test_architectures_that_compute_a_family_under_another_name(tmp_path: Path, name: str, family: str) -> None:
    model, config = model_of(family, 0)
    same = ARCHITECTURES.get(family, family)
    path = written(tmp_path / "model.gguf", model, config, architecture=name, conventions=same)
    source = open_gguf(path).stored
    ids = np.random.default_rng(0).integers(3, config["vocab_size"], (1, 24))
    expected = transformers_logits(model, ids)
    np.testing.assert_allclose(logits_of(source, ids), expected, atol=TOLERANCE * np.abs(expected).max())
    assert source.config["model_type"] == family


@pytest.mark.parametrize(("key", "value", "words"), [
    ("llama.attention.causal", False, "this variant is not supported"),
    ("llama.rope.scaling.type", "ntk", "none, linear, yarn and longrope are known"),
    ("llama.rope.dimension_count", 8, "heads of 32 are rotated whole"),
    ("llama.expert_gating_func", 2, "this variant is not supported"),
    ("llama.block_count", 0, "1 to 10,000 is needed"),
    ("llama.embedding_length", "x", "a whole number is needed"),
    ("llama.attention.head_count", [4, 2], "layers of different sizes are not supported"),
])  # fmt: skip
def test_variants_that_no_family_computes(tmp_path: Path, key: str, value: Any, words: str) -> None:
    model, config = model_of("llama", 0)
    path = written(tmp_path / "model.gguf", model, config, replaced={key: value})
    with pytest.raises(CheckpointError, match=words) as caught:
        open_gguf(path)
    assert key in str(caught.value)


def test_swapped_rows_of_a_head_are_noticed(tmp_path: Path) -> None:
    """The negative control: rows that are not put back into Hugging Face's order."""
    model, config = model_of("llama", 0)
    path = written(tmp_path / "model.gguf", model, config)
    content = path.read_bytes()
    data = model.state_dict()["model.layers.0.self_attn.v_proj.weight"].numpy().tobytes()
    at = content.index(data)
    row = config["hidden_size"] * 4
    path.write_bytes(content[:at] + content[at + row : at + 2 * row] + content[at : at + row] + content[at + 2 * row :])
    ids = np.random.default_rng(0).integers(3, 160, (1, 24))
    expected = transformers_logits(model, ids)
    assert np.abs(logits_of(open_gguf(path).stored, ids) - expected).max() > 100 * TOLERANCE * np.abs(expected).max()


def test_other_families_have_an_architecture() -> None:
    assert len(_READ) >= 25
    for family in families():
        architecture = architecture_for(family)
        assert (architecture is None) == (family not in _READ)
        if architecture is not None:
            assert architecture.name == ARCHITECTURES.get(family, family)


def test_an_unknown_architecture_names_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match="architecture `rwkv7`, which no family of ovround computes") as caught:
        architecture_of("rwkv7")
    assert caught.value.hint == f"known: {', '.join(sorted(KNOWN))}"
