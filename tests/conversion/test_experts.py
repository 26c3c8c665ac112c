"""Mixtures of experts: where their weights lie, what engines make of them, and experts that no calibration token reaches."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from converted_weights import as_torch, read_weights
from random_model import CONFIGS, relative_rms, write_random_model
from safetensors.torch import load_file, save_file
from tuning_file import tuning_file
from typer.testing import CliRunner

from ovround.artifact.manifest import ENGINE_FORMATS, read_manifest
from ovround.checkpoint import mapped, open_checkpoint
from ovround.cli.app import app
from ovround.conversion.convert import convert, prepare
from ovround.errors import ArchitectureError, UsageError
from ovround.measure.torch_model import CheckpointWeights
from ovround.models import from_config
from ovround.models.torch_ops import TorchOps
from ovround.options.budget import Budget
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.options.tuning_options import TuningOptions
from ovround.progress import Progress
from ovround.runtime.engines import open_engine

TOLERANCE = 2e-5  # as in test_families
IDS = np.random.default_rng(5).integers(3, 320, (2, 40))
FAMILIES = ("mixtral-0", "qwen2_moe-0", "qwen3_moe-0", "olmoe-0", "phimoe-0")


def logits(folder: Path) -> Any:
    checkpoint = open_checkpoint(folder)
    decoder = from_config(checkpoint.config)
    weights = CheckpointWeights(mapped(checkpoint, decoder.sources(), decoder.every_tensor()))
    with torch.no_grad():
        return decoder.logits(TorchOps(weights), torch.from_numpy(IDS)).numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_joined_experts_are_the_same_model(tmp_path: Path, name: str) -> None:
    """As transformers 5 names and holds them in memory; on disk it takes them apart again."""
    model = write_random_model(tmp_path / "model", CONFIGS[name])
    expected = logits(tmp_path / "model")
    stacked = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    stacked = {name.replace("mlp.router.weight", "mlp.gate.weight"): tensor for name, tensor in stacked.items()}
    assert "model.layers.0.mlp.experts.gate_up_proj" in stacked
    if CONFIGS[name].get("tie_word_embeddings"):
        del stacked["lm_head.weight"]
    save_file(stacked, tmp_path / "model" / "model.safetensors")
    assert np.array_equal(logits(tmp_path / "model"), expected)


@pytest.mark.parametrize(
    ("name", "products", "bits", "group", "sym"),
    [("qwen2_moe-0", 3, *scheme) for scheme in [(16, 32, True), (8, 32, False), (4, 32, True), (4, 16, False), (3, 64, False),
                                            (2, 32, False), (2, 64, True)]]
    + [("gpt_oss-0", 2, *scheme) for scheme in [(16, 32, True), (8, 32, True), (4, 32, False), (2, 32, True)]],
)  # fmt: skip
def test_every_scheme_computes_what_its_integers_say(
    tmp_path: Path, name: str, products: int, bits: int, group: int, sym: bool
) -> None:
    """And OpenVINO multiplies the chosen experts alone, on compressed weights: 3 or 2 products a block, not tiled ones."""
    write_random_model(tmp_path / "model", {**CONFIGS[name], "hidden_size": 128, "num_hidden_layers": 1})
    options = ConvertOptions(formats=ENGINE_FORMATS, bits=bits, group_size=group, sym=sym, recipe="rtn")
    folders = dict(zip(ENGINE_FORMATS, convert(tmp_path / "model", tmp_path / "out", options).folders, strict=True))
    weights = as_torch(read_weights(folders["openvino"]))
    decoder = from_config(json.loads((tmp_path / "model" / "config.json").read_text()))
    with torch.no_grad():
        expected = decoder.logits(TorchOps(weights), torch.from_numpy(IDS)).numpy()
    for format_name, folder in folders.items():
        engine = open_engine(folder, exact=True, threads=1)
        assert relative_rms(engine.logits(IDS), expected) <= TOLERANCE, format_name
        engine.close()
        engine = open_engine(folder, exact=False, threads=1)
        assert relative_rms(engine.logits(IDS), expected) < 0.1, format_name  # int8 activations, bfloat16 products
        engine.close()
    compiled = ov.Core().compile_model(folders["openvino"] / "openvino_model.xml", "CPU")
    read = Counter(
        node.input(1).get_element_type().get_type_name()
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"] == "GatherMatmul"
    )
    assert sum(read.values()) == products
    assert bits == 16 or set(read) <= {"u8", "i8", "u4", "i4"}


def test_experts_that_no_token_reaches_are_reported(tmp_path: Path, text_file: Path) -> None:
    """One of three experts, by logits z, -z and 0: the last is rounded to nearest, and progress and manifest say it."""
    write_random_model(tmp_path / "model", CONFIGS["mixtral-1"])
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    for name in (name for name in tensors if name.endswith("gate.weight")):
        tensors[name][1], tensors[name][2] = -tensors[name][0], 0
    save_file(tensors, file)
    reports: list[Progress] = []
    arguments = [
        "convert",
        str(tmp_path / "model"),
        str(tmp_path / "cli"),
        "--group-size",
        "32",
        "--iters",
        "1",
        "--nsamples",
        "4",
    ]
    arguments += ["--seqlen", "32", "--calibration", str(text_file)]
    arguments += ["--tuning", str(tuning_file(tmp_path, batch_size=2, end_to_end_steps=0))]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "no calibration token reached 1 expert(s), which are rounded" in result.stderr  # of each block
    assert "warning: no calibration token reached 2 expert(s)" in result.stderr
    for starts in ("compensated", "search"):
        options = ConvertOptions(
            formats=("onnx",),
            tuning=TuningOptions(initial_grid=starts, end_to_end_steps=0, batch_size=2),
            group_size=32,
            iters=2,
            nsamples=4,
            seqlen=32,
            calibration=(text_file,),
        )
        (folder,) = convert(tmp_path / "model", tmp_path / starts, options, reports.append).folders
        blocks = read_manifest(folder).blocks
        assert blocks[0].unreached == ("model.layers.0.mlp.experts.2",)
    assert {report.unreached for report in reports if report.stage == "quantise" and not report.steps} == {1}
    rounded = convert(
        tmp_path / "model", tmp_path / "rtn", ConvertOptions(formats=("onnx",), group_size=32, recipe="rtn")
    )
    nearest, tuned = (
        {record.name: record.sha256 for record in read_manifest(converted).weights}
        for converted in (rounded.folders[0], folder)
    )
    same = [name for name in nearest if ".experts." in name and nearest[name] == tuned[name]]
    assert {name.split(".")[5] for name in same} == {"2"}


def test_a_budget_gives_a_layers_experts_one_width(tmp_path: Path) -> None:
    write_random_model(tmp_path / "model", CONFIGS["qwen3_moe-0"])
    options = ConvertOptions(formats=ENGINE_FORMATS, budget=Budget(5.5, "bits"), group_size=32, recipe="rtn")
    conversion = convert(tmp_path / "model", tmp_path / "out", options)
    assert conversion.allocation is not None
    assert 5 < conversion.allocation.reached <= 5.5
    for kind in ("gate_proj", "up_proj", "down_proj"):
        schemes = {conversion.plan[f"model.layers.0.mlp.experts.{expert}.{kind}"] for expert in range(8)}
        assert len(schemes) == 1, kind


def test_a_rule_for_one_expert_is_refused(tmp_path: Path) -> None:
    write_random_model(tmp_path / "model", CONFIGS["mixtral-0"])
    options = ConvertOptions(bits=4, group_size=32, layers=(LayerRule("experts.1.down_proj", bits=8),))
    with pytest.raises(UsageError, match=r"experts\.0\.down_proj` and .*experts\.1\.down_proj` have different bits"):
        prepare(str(tmp_path / "model"), tmp_path / "out", options)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mixtral-0", {"num_experts_per_tok": 5}, "5 of 4 experts a token"),
        ("mixtral-0", {"num_local_experts": 10**6}, "2 of 1000000 experts a token; at most 4096 experts"),
        ("qwen3_moe-0", {"moe_intermediate_size": 63}, "experts of 64 x 63; even sizes are needed"),
        ("qwen3_moe-0", {"decoder_sparse_step": 0}, "`decoder_sparse_step` is 0"),
        ("qwen2_moe-0", {"mlp_only_layers": 3}, "`mlp_only_layers` 3"),
        ("olmoe-0", {"clip_qkv": -8.0}, "clip_qkv is -8.0; a number above 0 is needed"),
        ("phimoe-0", {"num_experts_per_tok": 3}, "`num_experts_per_tok` is 3, a variant"),
        ("phimoe-1", {"rope_scaling": {"type": "longrope", "long_mscale": 1.2}}, "short_mscale and long_mscale are None and 1.2"),
    ],
)  # fmt: skip
def test_what_is_not_built_is_refused_by_key(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        from_config({**CONFIGS[name], **change})
    assert message in str(caught.value)


def test_experts_without_a_gate_are_said_to_be_slow_in_openvino(tmp_path: Path) -> None:
    """They are computed with every expert there; a note says what else to do."""
    for name, count in (("nemotron_h-2", 1), ("nemotron_h-0", 0), ("mixtral-0", 0)):
        write_random_model(tmp_path / name, CONFIGS[name], template=False)
        for formats, expected in ((("openvino",), count), (("onnx",), 0)):
            job = prepare(str(tmp_path / name), tmp_path / "out", ConvertOptions(formats=formats, group_size=16))
            assert sum("every expert for every token" in note for note in job.notes) == expected
