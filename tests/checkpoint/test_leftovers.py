"""What trainers leave in checkpoints: wrapped names are stripped, named extras are left out and reported, others are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_writer import Arrays, random_weights, tiny_config, write_checkpoint
from quantised_folder import quantised_folder, rewrite
from random_model import logits_of, relative_rms, write_random_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.checkpoint.leftovers import kind_of, left_out, unwrapped
from ovround.conversion.convert import convert
from ovround.conversion.preparation import prepare
from ovround.errors import TensorError
from ovround.exporters.checkpoints.shards import ShardWriter
from ovround.options.convert_options import ConvertOptions
from ovround.progress import Progress
from ovround.runtime.engines import open_engine

OPTIONS = ConvertOptions(formats=("onnx",), recipe="rtn", group_size=32)
ONE = np.ones((1, 64), np.float32)


def digests(folder: Path, out: Path) -> dict[str, str]:
    """The digest of each weight of a conversion."""
    return {record.name: record.sha256 for record in convert(folder, out, OPTIONS).manifests[0].weights}


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("_orig_mod.model.norm.weight", "model.norm.weight"),
        ("model.layers.1._orig_mod.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"),
        ("module._orig_mod.model.norm.weight", "model.norm.weight"),
        ("base_model.model.model.norm.weight", "model.norm.weight"),
        ("pretrained_model.lm_head.weight", "lm_head.weight"),
        ("_fsdp_wrapped_module.model.layers.0._checkpoint_wrapped_module.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
        ("model.module.weight", "model.module.weight"),
        ("model.not_orig_mod.weight", "model.not_orig_mod.weight"),
    ],
)  # fmt: skip
def test_wrappers_are_stripped(name: str, own: str) -> None:
    assert unwrapped(name)[0] == own
    assert bool(unwrapped(name)[1]) == (name != own)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", "buffers"),
        ("transformer.h.0.attn.masked_bias", "buffers"),
        ("model.embed_tokens.position_ids", "buffers"),
        ("model.layers.0.self_attn.k_scale", "cache"),
        ("model.layers.0.self_attn.v_proj.output_scale", "cache"),
        ("model.layers.0.self_attn.qkv_proj.k_zero_point", "cache"),
        ("model.layers.0.mlp.up_proj.input_scale", "activations"),
        ("v_head.summary.weight", "scores"),
        ("score.weight", "scores"),
        ("mtp.layers.0.mlp.up_proj.weight", "MTP"),
        ("model.mtp_layers.0.mlp.up_proj.weight", "MTP"),
    ],
)
def test_named_kinds(name: str, what: str) -> None:
    assert what in str(kind_of(name))


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_norm.weight", "model.layers.0.mlp.up_proj.weight_scale", "model.scores.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight", "model.layers.0.mlp.up_proj.bias", "scoring.weight",
    ],
)  # fmt: skip
def test_tensors_that_a_model_may_need_are_of_no_kind(name: str) -> None:
    assert kind_of(name) is None


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_a_wrapped_model_is_the_model(tmp_path: Path, prefix: str) -> None:
    weights = random_weights(tiny_config())
    plain = write_checkpoint(tmp_path / "plain", weights=weights)
    wrapped = write_checkpoint(
        tmp_path / "wrapped", weights={prefix + name: part for name, part in weights.items()}, shards=2
    )
    assert digests(wrapped, tmp_path / "a") == digests(plain, tmp_path / "b")
    (note,) = prepare(str(wrapped), tmp_path / "c", OPTIONS).notes
    assert "names are read without the prefixes of" in note


def test_a_name_with_and_without_its_wrapper_is_refused(tmp_path: Path) -> None:
    weights = random_weights(tiny_config())
    folder = write_checkpoint(
        tmp_path / "model", weights={**weights, "module.model.norm.weight": weights["model.norm.weight"]}
    )
    with pytest.raises(TensorError, match=r"`model\.norm\.weight` is in `model\.safetensors` twice"):
        prepare(str(folder), tmp_path / "out", OPTIONS)


def test_named_extras_are_left_out_and_said_once(tmp_path: Path) -> None:
    extra: Arrays = {
        "v_head.summary.weight": ONE, "v_head.summary.bias": ONE[0, :1],
        "model.layers.0.self_attn.k_scale": ONE[0, :1], "model.layers.0.self_attn.rotary_emb.inv_freq": ONE[0, :16],
        "model.layers.2.eh_proj.weight": ONE, "model.layers.2.input_layernorm.weight": ONE[0],
    }  # fmt: skip
    weights = random_weights(tiny_config())
    plain, more = tmp_path / "plain", tmp_path / "more"
    write_checkpoint(plain, weights=weights)
    write_checkpoint(more, weights={**weights, **extra})
    said: list[Progress] = []
    made = convert(more, tmp_path / "out", OPTIONS, said.append).manifests[0]
    assert {record.name: record.sha256 for record in made.weights} == digests(plain, tmp_path / "b")
    assert [report.note for report in said if report.stage == "note"] == list(made.notes)
    assert [note.split(", such as")[0] for note in made.notes] == [
        "left out: 2 tensor(s) of a head that gives values or scores",
        "left out: 2 tensor(s) of blocks behind the last that config.json calls for",
        "left out: 1 tensor(s) of buffers that the model computes itself",
        "left out: 1 tensor(s) of scales of a quantised key/value cache",
    ]
    assert made.notes[0] in json.loads((tmp_path / "out" / "ovround.json").read_text())["notes"]


def test_a_whole_block_too_many_is_foreign() -> None:
    block = ["mlp.up_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight"]
    names = [f"model.layers.{layer}.{name}" for layer in range(2) for name in block]
    assert left_out(names, names[:3]) == ({}, names[3:])
    packed = [name.replace("proj.weight", "proj.qweight") for name in names]
    assert left_out(packed, [*packed[:2], *names[:3]])[1] == packed[3:]
    kinds, foreign = left_out([*names, "model.layers.1.eh_proj.weight"], names[:3])
    assert (len(kinds), foreign) == (1, [])


def test_a_foreign_tensor_is_named_truly(tmp_path: Path) -> None:
    weights = {**random_weights(tiny_config()), "model.layers.0.self_attn.q_norm.weight": ONE[0, :32]}
    folder = write_checkpoint(tmp_path / "model", weights=weights)
    with pytest.raises(TensorError, match=r"such as `model\.layers\.0\.self_attn\.q_norm\.weight`") as caught:
        prepare(str(folder), tmp_path / "out", OPTIONS)
    assert "model_type `llama` has no such tensor here" in str(caught.value.hint)


def test_cache_scales_of_a_quantised_checkpoint_are_left_out(tmp_path: Path) -> None:
    folder = quantised_folder(tmp_path, {})
    plain = digests(folder, tmp_path / "a")
    name = "model.layers.0.self_attn.k_proj.bias"
    rewrite(folder, name, lambda data: data)  # as it is
    _add(folder, {"model.layers.0.self_attn.k_scale": np.ones(1, np.float32)})
    assert digests(folder, tmp_path / "b") == plain
    assert any("key/value cache" in note for note in prepare(str(folder), tmp_path / "c", ConvertOptions()).notes)


def _add(folder: Path, extra: Arrays) -> None:
    """Write the tensors of a quantised folder again, with `extra` ones."""
    from ovround.checkpoint import open_source

    stored = open_source(folder).stored  # type: ignore[union-attr]
    (file,) = stored.files
    tensors = {name: file.read_array(name) for name in file.tensors}
    writer = ShardWriter(folder)
    for name, data in {**tensors, **extra}.items():
        writer.write(name, data, None)
    writer.finish()


@pytest.mark.parametrize("own", [True, False])
def test_a_head_of_its_own_is_kept_where_config_json_ties_it(tmp_path: Path, own: bool) -> None:
    """As transformers does, which ties only what is equal."""
    config = tiny_config(tie_word_embeddings=True)
    write_random_model(tmp_path / "model", config)
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embedding.flip(0).contiguous() if own else embedding.clone()
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32, attn_implementation="eager")
    made = convert(tmp_path / "model", tmp_path / "out", ConvertOptions(formats=ENGINE_FORMATS, bits=16))
    assert [note for note in made.manifests[0].notes if "differs from" in note] == list(made.manifests[0].notes)
    assert bool(made.manifests[0].notes) == own
    ids = np.random.default_rng(5).integers(3, 300, (1, 20))
    for folder in made.folders:
        engine = open_engine(folder, exact=True, threads=1)
        assert relative_rms(engine.logits(ids), logits_of(model.eval(), ids)) <= 2e-5  # as in test_families
        engine.close()
