"""Gated delta nets in engines: the fused operators are the ones that run, prompts are longer than a chunk, errors are seen."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from converted_weights import weight_offset
from random_model import CONFIGS, logits_of, relative_rms, write_random_model

from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.conversion.convert import convert
from ovround.errors import ArtifactError
from ovround.options.convert_options import ConvertOptions
from ovround.runtime.engines import open_engine

TOLERANCE = 2e-5  # as in test_families
IDS = np.random.default_rng(5).integers(3, 320, (2, 140))
CONFIG = {
    **CONFIGS["qwen3_5_text-0"],
    "num_hidden_layers": 3,
    "full_attention_interval": 3,
}  # two delta nets, an attention


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Any]:
    """A folder a format, in float, and transformers' logits."""
    folder = tmp_path_factory.mktemp("delta")
    model = write_random_model(folder / "model", CONFIG)
    folders = convert(folder / "model", folder / "out", ConvertOptions(formats=ENGINE_FORMATS, bits=16)).folders
    return dict(zip(ENGINE_FORMATS, folders, strict=True)), logits_of(model, IDS)


@pytest.mark.parametrize("format_name", ENGINE_FORMATS)
def test_prompts_of_several_chunks_are_carried_on(built: tuple[dict[str, Path], Any], format_name: str) -> None:
    folders, expected = built
    engine = open_engine(folders[format_name], exact=True, threads=1)
    assert relative_rms(engine.logits(IDS), expected) <= TOLERANCE
    engine.prefill([row[:length].tolist() for row, length in zip(IDS, (100, 31), strict=True)])
    more = engine.extend([IDS[0, 100:130].tolist(), IDS[1, 31:61].tolist()])
    assert relative_rms(more, np.stack([expected[0, 100:130], expected[1, 31:61]])) <= TOLERANCE
    engine.rewind([110, 40])
    after = engine.decode([int(IDS[0, 110]), int(IDS[1, 40])])
    assert relative_rms(after, np.stack([expected[0, 110], expected[1, 40]])) <= TOLERANCE
    engine.close()


@pytest.mark.parametrize("format_name", ENGINE_FORMATS)
@pytest.mark.parametrize("tensor", ["conv1d.weight", "A_log", "in_proj_b.weight"])
def test_one_wrong_bit_is_seen(
    built: tuple[dict[str, Path], Any], format_name: str, tensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sign of one value of what stays in float."""
    folders, expected = built
    data, offset = weight_offset(folders[format_name], f"model.layers.1.linear_attn.{tensor}")
    content = bytearray(data.read_bytes())
    content[offset + 3] ^= 0x80
    data.write_bytes(content)
    engine = open_engine(folders[format_name], exact=True, threads=1, verify=False)
    wrong = engine.logits(IDS)
    engine.close()
    content[offset + 3] ^= 0x80
    data.write_bytes(content)
    assert relative_rms(wrong, expected) > 2 * TOLERANCE


def test_openvino_runs_its_fused_operator(built: tuple[dict[str, Path], Any]) -> None:
    """GatedDeltaNet for each net, on heads that are not repeated, and no loop."""
    engine = open_engine(built[0]["openvino"], threads=1)
    nodes = engine._compiled.get_runtime_model().get_ops()
    kinds = Counter(node.get_rt_info()["layerType"].value for node in nodes)
    assert kinds["GatedDeltaNet"] == 2
    assert not {"Loop", "TensorIterator"} & set(kinds)
    fused = next(node for node in nodes if node.get_rt_info()["layerType"].value == "GatedDeltaNet")
    assert fused.input(0).get_partial_shape()[2].get_length() == CONFIG["linear_num_key_heads"]
    assert fused.input(2).get_partial_shape()[2].get_length() == CONFIG["linear_num_value_heads"]
    engine.close()


def test_openvino_pages_both_states(built: tuple[dict[str, Path], Any]) -> None:
    """What openvino_genai's continuous batching makes of the graph: no variable is left, each net has its two operators."""
    ov = pytest.importorskip("openvino")
    passes = pytest.importorskip("openvino._offline_transformations")
    model = ov.Core().read_model(built[0]["openvino"] / "openvino_model.xml")
    passes.paged_attention_transformation(model)
    kinds = Counter(node.get_type_name() for node in model.get_ops())
    assert (kinds["PagedCausalConv1D"], kinds["PagedGatedDeltaNet"], kinds["PagedAttentionExtension"]) == (2, 2, 1)
    assert not model.get_sinks()
    assert not any("attention_mask" in port.names for port in model.inputs)


def test_onnx_has_one_operator_a_state(built: tuple[dict[str, Path], Any]) -> None:
    graph = onnx.load(built[0]["onnx"] / "model.onnx", load_external_data=False).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert (kinds["CausalConvWithState"], kinds["LinearAttention"]) == (2, 2)
    assert not {"Scan", "Loop"} & set(kinds)


def test_an_operator_that_is_too_new_is_named(built: tuple[dict[str, Path], Any], tmp_path: Path) -> None:
    """ONNX Runtime before 1.26 has neither of the two: here a name that no version has stands for one."""
    folder = shutil.copytree(built[0]["onnx"], tmp_path / "onnx")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    next(
        node for node in model.graph.node if node.op_type == "LinearAttention"
    ).op_type = "LinearAttentio2"  # as long as the old one
    onnx.save(model, folder / "model.onnx")
    with pytest.raises(ArtifactError, match="LinearAttentio2") as caught:
        open_engine(folder, verify=False)
    assert caught.value.hint == "a newer onnxruntime has the operator"
