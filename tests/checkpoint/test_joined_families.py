"""A quantised checkpoint whose family joins, renames or interleaves projections: its integers, taken apart by rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_model import CONFIGS, logits_of, relative_rms, write_random_model

from ovround.artifact.manifest import CHECKPOINT_FORMATS, CODEBOOK_FORMATS, ENGINE_FORMATS
from ovround.checkpoint import open_checkpoint, open_source
from ovround.conversion.convert import convert
from ovround.errors import CheckpointError, UsageError
from ovround.exporters.checkpoints import check_format, open_format
from ovround.exporters.checkpoints.shards import ShardWriter
from ovround.models import from_config
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.quant.integers.rtn import round_to_nearest
from ovround.runtime.engines import open_engine
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.scheme import Codebooks, QuantScheme

TOLERANCE = 2e-5  # as for float weights (tests/test_families.py)
SCHEME = QuantScheme(4, 16, False)


def write_quantised(folder: Path, config: str) -> torch.nn.Module:
    """A GPTQ folder of a random model, its linear layers quantised as the checkpoint holds them, and that model with their values."""
    model = write_random_model(folder / "float", CONFIGS[config])
    linears = {name: linear for name, linear in model.named_modules() if isinstance(linear, torch.nn.Linear)}
    linears.pop("lm_head", None)
    linears = {
        name: linear for name, linear in linears.items() if not linear.weight.shape[0] % 32
    }  # whole words, as GPTQ
    shapes = {f"{name}.weight": tuple(linear.weight.shape) for name, linear in linears.items()}
    writer = open_format("gptq", dict.fromkeys(linears, SCHEME), shapes)
    quantised = folder / "gptq"
    quantised.mkdir()
    shards = ShardWriter(quantised)
    for name, linear in linears.items():
        tensor, _ = round_to_nearest(name, FloatTensor(linear.weight.detach().numpy(), "float32"), SCHEME)
        linear.weight.data = torch.from_numpy(tensor.dequantize())
        for suffix, data in writer.encode(name, writer.stored(tensor)).items():
            shards.write(f"{name}.{suffix}", data)
    floats = open_checkpoint(folder / "float")
    for name in floats.tensors().keys() - shapes.keys():
        shards.write(name, floats.read(name).float32())
    for name, data in writer.rest():
        shards.write(name, data)
    shards.finish()
    shards.close()
    for path in (folder / "float").glob("*.json"):
        if "safetensors" not in path.name:
            (quantised / path.name).write_bytes(path.read_bytes())
    stated = json.loads((quantised / "config.json").read_text())
    stated["quantization_config"] = writer.settings(dict.fromkeys(linears, SCHEME), [])
    (quantised / "config.json").write_text(json.dumps(stated))
    return model


@pytest.mark.parametrize("config", ["phi3-0", "gpt_neox-0", "falcon-0", "gemma-0", "bloom-0", "qwen3_5_text-0"])
def test_its_integers_run_on_both_engines(tmp_path: Path, config: str) -> None:
    model = write_quantised(tmp_path, config)
    out = convert(tmp_path / "gptq", tmp_path / "out", ConvertOptions(formats=ENGINE_FORMATS))
    projections = [weight for weight in out.manifests[0].weights if weight.name.endswith("_proj.weight")]
    assert projections
    assert {(weight.bits, weight.group_size, weight.relative_error) for weight in projections} == {(4, 16, 0.0)}
    ids = np.random.default_rng(0).integers(3, 150, (1, 12))
    expected = logits_of(model, ids)
    for folder in out.folders:
        engine = open_engine(folder, exact=True, threads=1)
        assert relative_rms(engine.logits(ids), expected) <= TOLERANCE, folder.name
        engine.close()


def test_what_lies_transposed_is_refused(tmp_path: Path) -> None:
    """GPT-2 keeps its layers as [K, N]; nobody has said how a packed one lies."""
    write_random_model(tmp_path / "float", CONFIGS["gpt2-0"])
    folder = tmp_path / "float"
    stated = json.loads((folder / "config.json").read_text())
    (folder / "model.safetensors").rename(folder / "all.safetensors")
    shards = ShardWriter(folder)
    shards.write("transformer.h.0.attn.c_attn.qweight", np.zeros((8, 8), np.int32))
    shards.write("transformer.wte.weight", np.zeros((8, 8), np.float32))
    shards.finish()
    shards.close()
    (folder / "all.safetensors").unlink()
    stated["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 16, "sym": True}
    (folder / "config.json").write_text(json.dumps(stated))
    with pytest.raises(CheckpointError, match=r"c_attn\.weight` is quantised, and lies transposed"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", ["mixtral-0", "phi-0", "starcoder2-0"])
@pytest.mark.parametrize("name", [name for name in CHECKPOINT_FORMATS if name not in CODEBOOK_FORMATS])
def test_other_names_are_written_as_the_family_has_them(tmp_path: Path, config: str, name: str) -> None:
    """Written and read again, the integers are those of a direct conversion; the names are those of the source."""
    write_random_model(tmp_path / "float", CONFIGS[config])
    options = ConvertOptions(formats=(name, "onnx"), group_size=32, recipe="rtn", lm_head_bits=16, embedding_bits=16)
    made = convert(tmp_path / "float", tmp_path / "out", options)
    back = convert(made.folders[0], tmp_path / "back", ConvertOptions(formats=("onnx",)))
    digests = [
        {record.name: record.sha256 for record in manifest.weights if ".weight" in record.name}
        for manifest in (made.manifests[1], back.manifests[0])
    ]
    assert len(digests[0]) > 14
    same = {name for name, digest in digests[0].items() if digests[1][name] == digest}
    # AWQ stores the zero points that a symmetric scheme implies: the same values in a scheme that is not symmetric
    assert same == set(digests[0]) or name == "awq"
    stored = {tensor.rpartition(".")[0] for tensor in open_source(made.folders[0]).stored.tensors()}  # type: ignore[union-attr]
    assert stored == {tensor.rpartition(".")[0] for tensor in open_checkpoint(tmp_path / "float").tensors()}


JOINED = (
    "phi3-0", "gpt_neox-0", "falcon-0", "gemma-0", "bloom-0", "mpt-0", "opt-0", "codegen-0", "gptj-0", "qwen3_5_text-0",
    "qwen3_next-0",
)  # fmt: skip


@pytest.mark.parametrize("config", JOINED)
def test_a_joined_family_is_written_as_its_checkpoints_are(tmp_path: Path, config: str) -> None:
    """Written and read again, each projection's integers are those of a direct conversion; the tensors are the source's."""
    write_random_model(tmp_path / "float", CONFIGS[config], template=False)
    options = ConvertOptions(formats=("gptq", "onnx"), group_size=16, recipe="rtn")
    made = convert(tmp_path / "float", tmp_path / "out", options)
    back = convert(made.folders[0], tmp_path / "back", ConvertOptions(formats=("onnx",)))
    first, second = ({record.name: record.sha256 for record in one.manifests[-1].weights} for one in (made, back))
    assert first == second
    stored = open_source(made.folders[0]).stored.tensors()  # type: ignore[union-attr]
    assert {tensor.rpartition(".")[0] for tensor in stored} == {
        tensor.rpartition(".")[0] for tensor in open_checkpoint(tmp_path / "float").tensors()
    }


@pytest.mark.parametrize("config", ["deepseek_v3-0", "bamba-0", "nemotron_h-2", "lfm2-0"])
def test_parts_that_fill_no_word_are_joined_to_what_does(tmp_path: Path, config: str) -> None:
    """Mamba's steps and rotated keys are a few rows of a joined projection."""
    write_random_model(tmp_path / "float", CONFIGS[config], template=False)
    options = ConvertOptions(formats=("compressed-tensors", "onnx"), group_size=16, recipe="rtn")
    made = convert(tmp_path / "float", tmp_path / "out", options)
    back = convert(made.folders[0], tmp_path / "back", ConvertOptions(formats=("onnx",)))
    first, second = ({record.name: record.sha256 for record in one.manifests[-1].weights} for one in (made, back))
    assert first == second


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ("gpt2-0", {}, "`model.layers.0.self_attn.q_proj.weight` turned (`transformer.h.0.attn.c_attn.weight`)"),
        ("gpt_oss-0", {}, "turned (`model.layers.0.mlp.experts.gate_up_proj`)"),
        ("gemma4_text-0", {}, "with those of other experts or layers (`model.embed_tokens_per_layer.weight`)"),
        ("phi3-0", {"layers": (LayerRule("q_proj", bits=8),)}, "and they have several schemes"),
        ("gpt_neox-0", {"lm_head_bits": 8}, "this family calls `lm_head.weight` `embed_out.weight`"),
    ],
)  # fmt: skip
def test_what_no_loader_has_a_layer_for_is_refused(
    tmp_path: Path, config: str, options: dict[str, Any], message: str
) -> None:
    write_random_model(tmp_path / "float", CONFIGS[config], template=False)
    with pytest.raises(UsageError) as caught:
        convert(
            tmp_path / "float",
            tmp_path / "out",
            ConvertOptions(formats=("gptq",), group_size=16, recipe="rtn", **options),
        )
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_codebooks_of_joined_projections_are_refused(tmp_path: Path) -> None:
    decoder = from_config(CONFIGS["phi3-0"])
    plan = {name: Codebooks(2, 8, 8) for layer in range(2) for name in decoder.linears(layer)}
    with pytest.raises(UsageError, match="each has codebooks of its own"):
        check_format("aqlm", decoder, plan)
