"""Keys of config.json that have two spellings: each alone and both in conflict give the logits that transformers computes.

Model cards tell people to add `rope_scaling` to a config.json that a newer transformers wrote with `rope_parameters`; trainers
write the names of all families beside a family's own. Whatever transformers makes of such a file is right.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from random_model import CONFIGS, FIRST, logits_of, write_random_model
from transformers import CONFIG_MAPPING

from ovround.checkpoint import mapped, open_source
from ovround.checkpoint.hf import Checkpoint
from ovround.errors import ArchitectureError
from ovround.measure.torch_model import CheckpointWeights, TorchModel
from ovround.models import from_config
from ovround.models.rope import rope_from_config

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # of the largest logit; float32 in another order gives 1e-6, another theta 1e-2 and more
IDS = np.array([[5, 9, 30, 40, 7, 100, 3, 90, 120, 14, 33, 21] * 3], np.int64)
ABSENT = ...

LINEAR = {"type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
PLAIN = {"rope_type": "default", "rope_theta": 5e4}
STRETCHED = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4}
BY_LAYER = {
    "full_attention": {"rope_theta": 3e4, "rope_type": "default"},
    "sliding_attention": {"rope_type": "default"},
}
ROTATIONS: dict[str, dict[str, Any]] = {
    "parameters and scaling": {"rope_parameters": PLAIN, "rope_scaling": LINEAR},
    "parameters, scaling and theta": {"rope_parameters": PLAIN, "rope_scaling": YARN, "rope_theta": 2e4},
    "scaling with a theta of its own": {"rope_scaling": {**LINEAR, "rope_theta": 3e4}, "rope_theta": 2e4},
    "parameters and theta": {"rope_parameters": PLAIN, "rope_theta": 2e4},
    "parameters without theta": {"rope_parameters": LINEAR, "rope_theta": 2e4},
    "scaling that says nothing": {"rope_parameters": STRETCHED, "rope_scaling": {}},
    "scaling of null": {"rope_parameters": STRETCHED, "rope_scaling": None},
    "parameters that say nothing": {"rope_parameters": {}, "rope_theta": 2e4},
    "type and rope_type": {"rope_scaling": {**LINEAR, "rope_type": "default"}, "rope_theta": 2e4},
    "theta of null": {"rope_theta": None},
    "theta alone, a whole number": {"rope_theta": 20000},
    "two dynamic ones": {
        "rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4}, "max_position_embeddings": 24,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 16},
    },
    "two trained lengths": {"rope_scaling": YARN, "original_max_position_embeddings": 24},
    "trained length outside": {"rope_scaling": LLAMA3, "original_max_position_embeddings": 32},
    "attention factor of null": {"rope_scaling": {**YARN, "attention_factor": None, "beta_fast": None}},
    "two rotated parts": {
        "rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}, "partial_rotary_factor": 0.25,
    },
    "rotated part outside": {"rope_scaling": LINEAR, "partial_rotary_factor": 0.5},
    "by layer and scaling": {"rope_parameters": BY_LAYER, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    "by layer and local theta": {"rope_parameters": BY_LAYER, "rope_theta": 7e4, "rope_local_base_freq": 3e3},
    "not by layer, and local theta": {"rope_parameters": STRETCHED, "rope_local_base_freq": 3e3},
    "GPT-NeoX's names": {"rotary_emb_base": 2e4, "rotary_pct": 0.5, "rope_theta": 5e4},
}  # fmt: skip
OTHERS: dict[str, dict[str, Any]] = {
    "heads of null": {"num_key_value_heads": None, "head_dim": None},
    "a tie of null": {"tie_word_embeddings": None},
    "no tie": {"tie_word_embeddings": ABSENT},
    "tied": {"tie_word_embeddings": True},
    "rms_norm_eps": {"rms_norm_eps": 0.3},
    "layer_norm_eps": {"layer_norm_eps": 0.3},
    "layer_norm_epsilon": {"layer_norm_epsilon": 0.3},
    "norm_epsilon": {"norm_epsilon": 0.3},
    "an eps that is a whole number": {"rms_norm_eps": 1},
    "hidden_act": {"hidden_act": "relu"},
    "hidden_activation": {"hidden_activation": "relu"},
    "both activations": {"hidden_act": "relu", "hidden_activation": "silu"},
    "the older gelu": {"hidden_act": "gelu"},
    "activation_function": {"activation_function": "relu"},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "use_bias": {"use_bias": False},
    "bias": {"bias": True},
    "qkv_bias": {"qkv_bias": False},
    "both query biases": {"qkv_bias": True, "bias": True, "attention_bias": False, "mlp_bias": False},
    "a window": {"sliding_window": 8},
    "a window of null": {"sliding_window": None},
    "a window, switched off": {"use_sliding_window": False, "sliding_window": 8},
    "a window, switched on": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "layer_types": {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8},
    "layer_types and a pattern": {
        "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "sliding_window_pattern": 1,
    },
    "layer_types, switched on": {
        "use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"],
    },
    "num_local_experts": {"num_local_experts": 3},
    "num_experts": {"num_experts": 3},
    "both counts of experts": {"num_local_experts": 3, "num_experts": 5},
    "max_position_embeddings": {"max_position_embeddings": 64},
    "n_positions": {"n_positions": 64},
    "seq_length": {"seq_length": 64},
}  # fmt: skip
UNROTATED = ("bloom", "gpt2", "opt")
# What differs on purpose: no published file says it, and what transformers computes from it is no use.
APART = {
    ("qwen2_moe", "layer_types"),  # a window of 0 where use_sliding_window is off: tokens that see nothing
    ("qwen2_moe", "layer_types and a pattern"),
    ("phi", "tied"),  # refused: its head has a bias
    ("phimoe", "tied"),
    ("gptj", "tied"),
    ("codegen", "tied"),
    ("ernie4_5_moe", "tied"),
    ("ernie4_5_moe", "no tie"),  # tied by default
    ("minicpm3", "two rotated parts"),  # four factors of a quarter of a head: all of them at one frequency
}
SIZES_BY_LAYER = ("gemma3n_text", "gemma4_text", "muse_glimmer_text", "nemotron_h")  # whose lists would have to be cut


def variants(family: str, base: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Changes of config.json by name; among them each pair of names that transformers maps for the family."""
    found = {**({} if family in UNROTATED else ROTATIONS), **OTHERS}
    mapping: Mapping[str, str] = getattr(CONFIG_MAPPING[base["model_type"]], "attribute_map", {}) or {}
    for one, other in mapping.items():
        value = base.get(other, base.get(one))
        if isinstance(value, int) and not isinstance(value, bool):
            found[f"{one} alone"] = {other: ABSENT, one: value}
            found[f"{one} and {other}"] = {other: value, one: 1 if one == "num_hidden_layers" else 2 * value}
    return found


def ours(folder: Path) -> NDArray[np.float32]:
    source = open_source(folder)
    assert isinstance(source, Checkpoint)
    decoder = from_config(source.config)
    expected = decoder.every_tensor()
    checkpoint = mapped(source, decoder.sources(), expected)
    checkpoint.check(expected, decoder.unused_tensors())
    return TorchModel(decoder, CheckpointWeights(checkpoint))(IDS)


@pytest.mark.parametrize("name", FIRST)
def test_every_spelling_gives_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    family = name.rpartition("-")[0]
    base = CONFIGS[name] if family in SIZES_BY_LAYER else {**CONFIGS[name], "num_hidden_layers": 2}
    if "layer_types" in base and family not in SIZES_BY_LAYER:
        base["layer_types"] = base["layer_types"][:2]
    wrong, compared = [], 0
    for what, changes in variants(family, base).items():
        if (family, what) in APART:
            continue
        config = {key: value for key, value in {**base, **changes}.items() if value is not ABSENT}
        folder = tmp_path / what.replace(" ", "_")
        try:
            expected = logits_of(write_random_model(folder, config), IDS)
        except Exception:  # noqa: BLE001, S112  what transformers refuses may be refused
            continue
        compared += 1
        difference = np.abs(ours(folder) - expected).max() / np.abs(expected).max()
        if not difference < TOLERANCE:
            wrong.append(f"{what}: {difference:.2g}")
    assert compared >= 20
    assert wrong == []


def test_the_comparison_sees_another_theta(tmp_path: Path) -> None:
    config = {**CONFIGS["llama-0"], "rope_parameters": PLAIN}
    expected = logits_of(write_random_model(tmp_path, config), IDS)
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_parameters": {**PLAIN, "rope_theta": 4e4}}))
    assert np.abs(ours(tmp_path) - expected).max() / np.abs(expected).max() > 10 * TOLERANCE


def test_scaling_added_by_hand_rules() -> None:
    rope = rope_from_config({"rope_parameters": PLAIN, "rope_scaling": YARN, "rope_theta": 1e6}, 32)
    assert (rope.variant, rope.factor, rope.theta) == ("yarn", 4.0, 1e6)
    with pytest.raises(ArchitectureError, match="rope_parameters is 'linear'; an object is needed"):
        rope_from_config({"rope_scaling": "linear"}, 32)
