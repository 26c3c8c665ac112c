"""Every variant of every family: transformers, torch, ONNX Runtime and OpenVINO say the same. One table, `parity_table`.

transformers and torch are compared on the checkpoint's floats; torch and the engines on the integers that `convert` wrote.
The models are random and written by transformers. The texts are longer than every window (12) and than the length that a
stretched rope was trained on (32).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from converted_weights import as_torch, read_weights, weight_offset
from parity_table import TABLE, VARIANTS, missing_pairs
from random_model import CONFIGS, Ids, Logits, logits_by_steps, logits_of, ragged, relative_rms, write_random_model
from transformers import AutoConfig

from ovround.artifact.manifest import ENGINE_FORMATS, read_manifest
from ovround.checkpoint import mapped, open_checkpoint
from ovround.conversion.convert import convert, prepare
from ovround.errors import ArchitectureError, TensorError
from ovround.measure.torch_model import CheckpointWeights
from ovround.models import from_config
from ovround.models.decoder import Decoder
from ovround.models.torch_ops import TorchOps
from ovround.options.convert_options import ConvertOptions
from ovround.options.tuning_options import TuningOptions
from ovround.runtime.engines import open_engine

TOLERANCE = 2e-5  # float32 sums in another order: 2e-7 to 2e-6 measured; a window one token too long is 1e-2 (below)
LENGTH, PREFILL = 48, 28  # across the trained length of 32 step by step, and beyond every window at once
IDS = np.random.default_rng(11).integers(3, 320, (3, LENGTH))
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
TUNED = {
    "recipe": "default", "iters": 2, "nsamples": 4, "seqlen": 32,
    "tuning": TuningOptions(end_to_end_steps=1, batch_size=2),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Torch:
    """A decoder and its weights, computed by torch in float32."""

    decoder: Decoder
    weights: Mapping[str, torch.Tensor]

    def one_pass(self, ids: Ids) -> Logits:
        """Logits `[B, T, V]`."""
        with torch.no_grad():
            logits: Logits = self.decoder.logits(TorchOps(self.weights), torch.from_numpy(ids)).numpy()
        return logits

    def by_steps(self, ids: Ids, prefill: int) -> Logits:
        """Logits `[B, 1 + steps, V]` after the first `prefill` tokens, and after each token that follows."""
        ops, cuts = TorchOps(self.weights, keep_cache=True), [0, *range(prefill, ids.shape[1] + 1)]
        with torch.no_grad():
            parts = [torch.from_numpy(ids[:, start:end]) for start, end in pairwise(cuts)]
            return np.stack([self.decoder.logits(ops, part)[:, -1].numpy() for part in parts], axis=1)


@dataclass(frozen=True, slots=True)
class Converted:
    """One row of the table: its model by transformers, its checkpoint, its folder a format, and torch on what they hold."""

    model: Any
    source: Path
    folders: dict[str, Path]
    torch: Torch


@pytest.fixture(scope="module", params=TABLE)
def row(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Converted:
    """The row's conversion; every weight of both folders has the digest that the tuner gave."""
    levels, folder = TABLE[request.param].levels, tmp_path_factory.mktemp("row")
    model = write_random_model(folder / "model", VARIANTS[request.param], DTYPES[levels["dtype"]], template=False)
    settings = {name: levels[name] for name in ("bits", "group_size", "sym")}
    settings |= {"lm_head_bits": levels["ends"], "embedding_bits": levels["ends"] and max(levels["ends"], 8)}
    settings |= {**TUNED, "calibration": (text_file,)} if levels["recipe"] == "tuned" else {"recipe": "rtn"}
    conversion = convert(folder / "model", folder / "out", ConvertOptions(formats=ENGINE_FORMATS, **settings))
    folders = dict(zip(ENGINE_FORMATS, conversion.folders, strict=True))
    tensors = {format_name: read_weights(path) for format_name, path in folders.items()}
    for format_name, path in folders.items():
        digests = {record.name: record.sha256 for record in read_manifest(path).weights}
        assert {name: weight.digest() for name, weight in tensors[format_name].items()} == digests
    weights = as_torch(tensors["openvino"])
    config = {**VARIANTS[request.param], "tie_word_embeddings": "lm_head.weight" not in weights}
    return Converted(model, folder / "model", folders, Torch(from_config(config), weights))


def test_every_pair_of_levels_is_in_the_table() -> None:
    assert set(TABLE) == set(VARIANTS)
    assert not missing_pairs()


def test_torch(row: Converted) -> None:
    """Of the checkpoint's own floats, against transformers."""
    checkpoint = open_checkpoint(row.source)
    decoder = from_config(checkpoint.config)
    ours = Torch(decoder, CheckpointWeights(mapped(checkpoint, decoder.sources(), decoder.every_tensor())))
    assert relative_rms(ours.one_pass(IDS), logits_of(row.model, IDS)) <= TOLERANCE
    assert relative_rms(ours.by_steps(IDS, PREFILL), logits_by_steps(row.model, IDS, PREFILL)) <= TOLERANCE


@pytest.mark.parametrize("format_name", ENGINE_FORMATS)
def test_engine(row: Converted, format_name: str) -> None:
    """Of the folder's integers, against torch: in one pass, step by step, and as a batch of unequal prompts."""
    engine = open_engine(row.folders[format_name], exact=True, threads=1)
    assert relative_rms(engine.logits(IDS), row.torch.one_pass(IDS)) <= TOLERANCE

    steps = [engine.prefill(IDS[:, :PREFILL].tolist())]
    steps += [engine.decode(IDS[:, at].tolist()) for at in range(PREFILL, LENGTH)]
    assert relative_rms(np.stack(steps, axis=1), row.torch.by_steps(IDS, PREFILL)) <= TOLERANCE

    lengths = (20, 9, 14)
    engine.reset()
    steps = [engine.prefill(ragged(IDS, lengths))]
    for step in range(6):
        steps.append(engine.decode([int(IDS[number, length + step]) for number, length in enumerate(lengths)]))
    engine.close()
    for number, length in enumerate(lengths):
        expected = row.torch.by_steps(IDS[number : number + 1, : length + 6], length)
        assert relative_rms(np.stack(steps, axis=1)[number : number + 1], expected) <= TOLERANCE, length


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_own_spelling_of_the_configuration_is_the_same_model(name: str, tmp_path: Path) -> None:
    """Ours are as transformers 4 wrote them, with keys left out; transformers 5 states every key, rope under rope_parameters."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    AutoConfig.from_pretrained(tmp_path).save_pretrained(tmp_path)
    assert from_config(json.loads((tmp_path / "config.json").read_text())) == from_config(CONFIGS[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("name", ["gemma-0", "gpt2-0", "phi3-0"])
def test_half_precision(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    """Taken apart, turned round and, for Gemma's norms, added to without losing a bit."""
    model = write_random_model(tmp_path / "model", CONFIGS[name], dtype)
    folders = convert(tmp_path / "model", tmp_path / "out", ConvertOptions(formats=ENGINE_FORMATS, bits=16)).folders
    for folder in folders:
        engine = open_engine(folder, exact=True, threads=1)
        assert relative_rms(engine.logits(IDS), logits_of(model, IDS)) <= TOLERANCE
        engine.close()


@pytest.mark.parametrize("format_name", ENGINE_FORMATS)
def test_one_wrong_bit_is_seen(tmp_path: Path, format_name: str) -> None:
    """The negative control of the tests above: a value of one key projection, taken out of a joined tensor, with its sign turned."""
    model = write_random_model(tmp_path / "model", CONFIGS["gpt_neox-0"])
    (folder,) = convert(tmp_path / "model", tmp_path / "out", ConvertOptions(formats=(format_name,), bits=16)).folders
    data, offset = weight_offset(folder, "model.layers.0.self_attn.k_proj.weight")
    content = bytearray(data.read_bytes())
    content[offset + 3] ^= 0x80
    data.write_bytes(content)
    engine = open_engine(folder, exact=True, threads=1, verify=False)
    assert relative_rms(engine.logits(IDS), logits_of(model, IDS)) > 2 * TOLERANCE
    engine.close()


@pytest.mark.parametrize(
    ("name", "change"),
    [("mistral-0", {"sliding_window": 13}), ("gemma2-0", {"attn_logit_softcapping": 5.1}), ("phi-0", {"layer_norm_eps": 1e-4}),
     ("granite-0", {"residual_multiplier": 0.23}), ("llama-4", {"rope_theta": 10100.0}),
     ("gemma4_text-0", {"sliding_window": 13}), ("gemma3n_text-0", {"activation_sparsity_pattern": [0.9, 0.0, 0.501]}),
     ("smollm3-0", {"no_rope_layers": [1, 1, 1]}),
     ("ministral3-0", {"rope_parameters": {**CONFIGS["ministral3-0"].get("rope_parameters", {}), "llama_4_scaling_beta": 0.51}}),
     ("glm4-0", {"partial_rotary_factor": 0.25}), ("cohere2-1", {"sliding_window": 13}), ("mpt-0", {"attn_config": {"clip_qkv": 1.6}}),
     ("hunyuan_v1_dense-0", {"rope_scaling": {"type": "dynamic", "alpha": 1100.0}}), ("olmo3-1", {"rope_parameters": None})],
)  # fmt: skip
def test_a_configuration_read_slightly_wrong_is_seen(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    model = write_random_model(tmp_path / "model", CONFIGS[name])
    checkpoint = open_checkpoint(tmp_path / "model")
    decoder = from_config({**CONFIGS[name], **change})
    weights = CheckpointWeights(mapped(checkpoint, decoder.sources(), decoder.every_tensor()))
    with torch.no_grad():
        computed = decoder.logits(TorchOps(weights), torch.from_numpy(IDS)).numpy()
    assert relative_rms(computed, logits_of(model, IDS)) > 2 * TOLERANCE


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("falcon-0", {"alibi": True}, "config.json: `alibi` is True, a variant that is not supported"),
        ("phi-0", {"qk_layernorm": True}, "config.json: `qk_layernorm` is True, a variant that is not supported"),
        ("stablelm-0", {"qk_layernorm": True}, "config.json: `qk_layernorm` is True, a variant that is not supported"),
        ("opt-0", {"do_layer_norm_before": False}, "config.json: `do_layer_norm_before` is False, a variant"),
        ("opt-0", {"word_embed_proj_dim": 32}, "config.json: `word_embed_proj_dim` is 32, a variant"),
        ("bloom-0", {"apply_residual_connection_post_layernorm": True}, "`apply_residual_connection_post_layernorm`"),
        ("gpt2-0", {"add_cross_attention": True}, "config.json: `add_cross_attention` is True, a variant"),
        ("gpt2-0", {"n_embd": None}, "config.json has no `n_embd`"),
        ("gemma-0", {"use_bidirectional_attention": True}, "`use_bidirectional_attention` is True, a variant"),
        ("gemma2-0", {"layer_types": ["full_attention"]}, "`layer_types` is ['full_attention']; 2 of full_attention, sliding"),
        ("smollm3-0", {"no_rope_layers": [1]}, "`no_rope_layers` is [1]; 3 of 1 (rotates) and 0 are needed"),
        ("mistral-0", {"sliding_window": -3}, "sliding_window is -3; 1 or more is needed"),
        ("phi3-1", {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "short_factor has 1"),
        ("phi3-1", {"rope_scaling": {"type": "longrope", "short_factor": "x"}}, "`short_factor` is 'x'; a list of numbers"),
        ("granite-0", {"logits_scaling": 0}, "`logits_scaling` is 0; a number above 0 is needed"),
        ("gemma2-0", {"query_pre_attn_scalar": -1}, "`query_pre_attn_scalar` is -1; a number above 0 is needed"),
        ("gemma3_text-0", {"rope_parameters": [1]}, "rope_parameters is [1]; an object is needed"),
        ("gemma4_text-0", {"use_bidirectional_attention": "all"}, "`use_bidirectional_attention` is 'all', a variant"),
        ("gemma4_text-0", {"num_kv_shared_layers": 2}, "`num_kv_shared_layers` is 2 of 3; the layers before them need one of each"),
        ("gemma4_text-0", {"per_layer_config": {"01": {"sliding_window": 3}}}, "`per_layer_config` of layer 1 is {'sliding_window'"),
        ("gemma4_text-0", {"vocab_size_per_layer_input": 319}, "`vocab_size_per_layer_input` is 319; at least the 320"),
        ("gemma4_text-1", {"rope_parameters": {"rope_type": "default"}}, "an object with `sliding_attention` is needed"),
        ("gemma3n_text-0", {"altup_active_idx": 4}, "`altup_active_idx` is 4; 0 to 3 is allowed"),
        ("gemma3n_text-1", {"intermediate_size": [96]}, "`intermediate_size` is [96]; one for each of 2 layers is needed"),
        ("gpt_neox-0", {"rotary_pct": 1.5}, "partial_rotary_factor is 1.5; above 0 and at most 1 is allowed"),
        ("mpt-0", {"attn_config": {"alibi": False}}, "config.json: `alibi` is False, a variant that is not supported"),
        ("mpt-0", {"attn_config": {"alibi_bias_max": 16}}, "config.json: `alibi_bias_max` is 16, a variant"),
        ("mpt-0", {"attn_config": {"qk_ln": True}}, "config.json: `qk_ln` is True, a variant"),
        ("mpt-0", {"attn_config": [1]}, "`attn_config` is [1]; an object is needed"),
        ("mpt-0", {"logit_scale": "inv_sqrt_d_model"}, "`logit_scale` is 'inv_sqrt_d_model', a variant"),
        ("gptj-0", {"rotary_dim": 18}, "`rotary_dim` is 18; a head has 16 features"),
        ("gptj-0", {"tie_word_embeddings": True}, "`tie_word_embeddings` is True, a variant"),
        ("codegen-0", {"n_embd": 90, "n_head": 5}, "`n_embd` is 90; a multiple of 4 is needed"),
        ("exaone4-0", {"sliding_window_pattern": "LLLG"}, "`sliding_window_pattern` is 'LLLG'; a whole number is needed"),
        ("apertus-0", {"hidden_act": "mish"}, "hidden_act `mish` is not supported"),
        ("hunyuan_v1_dense-0", {"rope_scaling": {"type": "dynamic", "alpha": -2.0}}, "`alpha` is -2; a number above 0 is needed"),
        ("ministral3-0", {"rope_parameters": {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 0}},
         "original_max_position_embeddings is 0; 2 or more is needed"),
        ("olmo-0", {"clip_qkv": 0}, "clip_qkv is 0.0; a number above 0 is needed"),
        ("llama-0", {"tie_word_embeddings": "yes"}, "`tie_word_embeddings` is 'yes'; true or false is needed"),
    ],
)  # fmt: skip
def test_what_is_not_built_is_refused_by_key(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        from_config({**CONFIGS[name], **change})
    assert message in str(caught.value)


def test_tensors_that_do_not_fit_are_told_by_the_checkpoints_own_names(tmp_path: Path) -> None:
    folder, options = tmp_path / "model", ConvertOptions(bits=16)
    write_random_model(folder, CONFIGS["gpt_neox-0"])
    stated = dict(CONFIGS["gpt_neox-0"])
    for change, message in (
        ({"num_hidden_layers": 3}, "has no tensor `gpt_neox.layers.2.input_layernorm.weight`"),
        ({"num_hidden_layers": 1}, "does not call for, such as `gpt_neox.layers.1."),
        ({"intermediate_size": 64}, "tensor `gpt_neox.layers.0.mlp.dense_h_to_4h.weight` has shape [96, 64]"),
    ):
        (folder / "config.json").write_text(json.dumps({**stated, **change}))
        with pytest.raises(TensorError) as caught:
            prepare(str(folder), tmp_path / "out", options)
        assert message in str(caught.value)


def test_a_checkpoint_saved_without_its_head_is_read(tmp_path: Path) -> None:
    """The hub's GPT-2 and BLOOM have `h.0...` where transformers now writes `transformer.h.0...`."""
    model = write_random_model(tmp_path / "model", CONFIGS["gpt2-0"])
    model.transformer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIGS["gpt2-0"]))
    (folder,) = convert(tmp_path / "model", tmp_path / "out", ConvertOptions(formats=("onnx",), bits=16)).folders
    engine = open_engine(folder, exact=True, threads=1)
    assert relative_rms(engine.logits(IDS), logits_of(model, IDS)) <= TOLERANCE
    engine.close()
