"""The lint: nothing is found in what ovround writes, and each trap, planted, is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
from command_server import CommandServer
from openvino import opset13 as opset
from quantised_folder import MODULE, quantised_folder, rewrite

from ovround.check import check_folder
from ovround.conversion.convert import convert
from ovround.errors import CheckpointError
from ovround.options.convert_options import ConvertOptions

GRAVE = ("fails", "wrong", "slow")


def rules(folder: Path, engine: str) -> set[str]:
    return {finding.rule for finding in check_folder(folder, engine)}


def test_our_own_folders_are_clean(tiny_folders: dict[str, Path]) -> None:
    for format_name, engine in (("openvino", "openvino"), ("openvino", "openvino-gpu"), ("onnx", "onnxruntime")):
        assert rules(tiny_folders[format_name], engine) == set()


def write_ir(
    folder: Path, kind: str, zero: str | None, *, group: int = 32, table: bool = False, decoded: str = "f16"
) -> None:
    """One compressed weight [8, 2 * group] in front of a MatMul or Gather."""
    weight = opset.constant(ov.Tensor(getattr(ov.Type, kind), ov.Shape([8, 2, group])))
    value = opset.convert(weight, decoded)
    if zero is not None:
        size = 8 if zero == "f16" else 1
        zeros = ov.Tensor(getattr(ov.Type, zero), ov.Shape([8, 2, 1]))
        if size == 8:
            zeros.data[:] = 7.5
        value = opset.subtract(value, opset.convert(opset.constant(zeros), decoded))
    scales = np.ones((8, 2, 1), np.float16)
    scale = opset.constant(scales) if decoded == "f16" else opset.convert(opset.constant(scales), decoded)
    value = opset.reshape(opset.multiply(value, scale), np.array([8, 2 * group]), False)
    value = opset.convert(value, "f32")
    x = opset.parameter([-1] if table else [-1, 2 * group], np.int32 if table else np.float32)
    result = opset.gather(value, x, np.array(0)) if table else opset.matmul(x, value, False, True)
    folder.mkdir(exist_ok=True)
    ov.serialize(ov.Model([opset.result(result)], [x], "trap"), folder / "openvino_model.xml")


@pytest.mark.parametrize(
    ("kind", "zero", "expected_rules"),
    [
        ("u3", None, {"folded-width"}),
        ("u2", None, {"u2-zero-point"}),
        ("u2", "u8", {"u2-zero-point"}),
        ("u2", "i8", set()),
        ("u4", "u4", set()),
        ("u4", "f16", {"zero-point-type"}),
        ("u4", "i8", {"zero-point-type"}),
        ("i4", None, set()),
        ("f8e4m3", None, {"decoded-weights"}),
        ("nf4", None, {"float4"}),
    ],
)
def test_openvino_types(tmp_path: Path, kind: str, zero: str | None, expected_rules: set[str]) -> None:
    write_ir(tmp_path, kind, zero)
    assert rules(tmp_path, "openvino") == expected_rules


def test_other_openvino_traps(tmp_path: Path) -> None:
    write_ir(tmp_path, "u2", "i8", table=True)
    assert rules(tmp_path, "openvino") == {"u2-embedding"}
    write_ir(tmp_path, "u4", "u4", group=2)
    assert rules(tmp_path, "openvino") == {"small-groups"}
    write_ir(tmp_path, "u4", "u4", decoded="bf16")
    assert rules(tmp_path, "openvino") == {"bf16-chain"}
    write_ir(tmp_path, "u4", "f16")
    assert rules(tmp_path, "openvino-gpu") == {"fractional-zero-point", "activations-scale-factor"}
    assert rules(tmp_path, "openvino-npu") == {"fractional-zero-point", "npu-scheme"}
    write_ir(tmp_path, "i4", None, group=128)
    assert rules(tmp_path, "openvino-npu") == set()


def test_experts_and_tables(tmp_path: Path) -> None:
    """`[E, N, G, group]` weights; a router by its name; tables of 4-bit floats."""

    def rules_of_experts(kind: str, group: int, name: str = "w") -> set[str]:
        codes = ov.Tensor(getattr(ov.Type, kind), ov.Shape([3, 8, 2, group] if name == "w" else [8, 2, group]))
        weight = opset.constant(codes)
        weight.set_friendly_name(name)
        shape = [3, 8, 2 * group] if name == "w" else [8, 2 * group]
        scale = np.ones([*codes.shape[:-1], 1], np.float16)
        value = opset.reshape(opset.multiply(opset.convert(weight, "f16"), scale), np.array(shape), False)
        x = opset.parameter([3, -1, 2 * group] if name == "w" else [-1, 2 * group], np.float32)
        result = opset.result(opset.matmul(x, opset.convert(value, "f32"), False, True))
        ov.serialize(ov.Model([result], [x], "trap"), tmp_path / "openvino_model.xml")
        return rules(tmp_path, "openvino")

    assert rules_of_experts("i4", 32) == set()
    assert rules_of_experts("u2", 32) == {"expert-width"}
    assert rules_of_experts("i4", 16) == {"expert-groups"}
    assert rules_of_experts("i4", 32, "__module.model.layers.0.mlp.gate/ov_ext::linear/MatMul") == {"quantised-router"}
    assert rules_of_experts("i4", 32, "__module.model.layers.0.mlp.gate_proj/ov_ext::linear/MatMul") == set()
    write_ir(tmp_path, "nf4", None, table=True)
    assert rules(tmp_path, "openvino") == {"float4-embedding"}


def write_onnx(
    path: Path, *, zero: str = "", g_idx: str = "", inline: bool = False, bf16: bool = False, **attributes: int
) -> None:
    values = {"N": 8, "K": 64, "bits": 4, "block_size": 32, "accuracy_level": 4, **attributes}
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", "w", "s", zero, g_idx], ["y"], "lm_head", domain="com.microsoft", **values
    )
    zeros = np.zeros((8, 2), np.float32)
    weights = {"w": np.zeros(1 << 21 if inline else 16, np.uint8), "zf": zeros}
    if bf16:
        node.input[2] = "b"
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    initializers.append(onnx.helper.make_tensor("b", onnx.TensorProto.BFLOAT16, [8, 2], [1.0] * 16))
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["n", "k"]) for name in "xy"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:], initializers)), path)


@pytest.mark.parametrize(
    ("changes", "expected_rules"),
    [
        ({}, set()),
        ({"bits": 3}, {"width"}),
        ({"block_size": 512}, {"block-size"}),
        ({"bits": 8, "accuracy_level": 0}, {"accuracy-level"}),
        ({"bits": 2, "block_size": 16}, {"2-bit-blocks"}),
        ({"g_idx": "g"}, {"g-idx"}),
        ({"zero": "zf"}, {"float-zero-point"}),
        ({"zero": "zf", "bits": 8}, {"float-zero-point-8"}),
        ({"weight_prepacked": 1}, {"prepacked"}),
        ({"inline": True}, {"inline-weights"}),
        ({"bf16": True}, {"bfloat16"}),
    ],
)
def test_onnx_nodes(tmp_path: Path, changes: dict[str, object], expected_rules: set[str]) -> None:
    write_onnx(tmp_path / "model.onnx", **changes)  # type: ignore[arg-type]
    assert {
        finding.rule for finding in check_folder(tmp_path, "onnxruntime") if finding.severity in GRAVE
    } == expected_rules
    rounded = {"rounded-head"} if changes.get("bits", 4) != 8 else set()
    assert {finding.rule for finding in check_folder(tmp_path) if finding.severity == "note"} == rounded


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert "outside" in rules(tmp_path, "onnxruntime")


def test_the_command(tmp_path: Path, loaded_command: CommandServer, tiny_folders: dict[str, Path]) -> None:
    clean = loaded_command("check", tiny_folders["onnx"], "--engine", "onnxruntime")
    assert (clean.status, clean.stdout) == (0, "nothing found\n")
    write_onnx(tmp_path / "model.onnx", bits=3)
    result = loaded_command("check", tmp_path, "--json")
    first = json.loads(result.stdout)["findings"][0]
    assert (result.status, first["rule"], first["severity"], first["where"]) == (1, "width", "fails", "lm_head")
    assert loaded_command("check", tmp_path, "--engine", "tpu").status == 2


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no model"):
        check_folder(tmp_path)
    (tmp_path / "openvino_model.xml").write_text("<net")
    with pytest.raises(CheckpointError, match="is no OpenVINO model"):
        check_folder(tmp_path)
    (tmp_path / "openvino_model.xml").unlink()
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 20)
    with pytest.raises(CheckpointError, match="is no ONNX model"):
        check_folder(tmp_path)


def test_a_quantised_table_in_onnx_is_noted_for_openvino(tiny_folders: dict[str, Path]) -> None:
    assert rules(tiny_folders["onnx"], "openvino") == {"gather-block"}


@pytest.mark.parametrize(
    ("changes", "engine", "rule"),
    [
        ({"checkpoint_format": "gptq_v2"}, "onnxruntime-genai", "gptq-v2"),
        ({"dynamic": {"+:.*up_proj": {"sym": True}}}, "optimum-intel", "mixed-symmetry"),
        ({"dynamic": {"+:.*q_proj": {"bits": 8}}}, "optimum-intel", "width"),
        ({"dynamic": {"+:.*q_proj": {"bits": 3}}}, "onnxruntime-genai", "width"),
        ({"dynamic": {"+:.*q_proj": {"group_size": 64}}}, "onnxruntime-genai", "separate-qkv"),
        ({"group_size": 96}, "onnxruntime-genai", "group-size"),
        ({"group_size": -1}, "onnxruntime-genai", "group-size"),
        ({"quant_method": "auto-round"}, "onnxruntime-genai", "method"),
        ({"quant_method": "auto-round"}, "optimum-intel", "method"),
        ({"quant_method": "awq"}, "optimum-intel", "needs-autoawq"),
    ],
)
def test_what_importers_make_of_a_checkpoint(
    tmp_path: Path, changes: dict[str, object], engine: str, rule: str
) -> None:
    clean = {"onnxruntime-genai": {"rounded-head"}, "optimum-intel": set()}
    assert rules(quantised_folder(tmp_path / "a", {}), engine) == clean[engine]
    assert rule in rules(quantised_folder(tmp_path / "b", changes), engine)


def test_contents_of_a_checkpoint(tmp_path: Path) -> None:
    """Activation order, a zero point of 16, and compressed-tensors by whole rows."""
    order = np.random.default_rng(3).permutation(64).astype(np.int32)
    ordered = quantised_folder(tmp_path / "order", {}, order)
    assert all("g-idx" in rules(ordered, engine) for engine in ("optimum-intel", "onnxruntime-genai"))
    folder = quantised_folder(tmp_path / "zero", {})
    rewrite(folder, f"{MODULE}.qzeros", lambda data: data | 15)
    assert rules(folder, "optimum-intel") == {"zero-point-16"}
    options = ConvertOptions(formats=("compressed-tensors",), group_size=-1, recipe="rtn")
    (rows,) = convert(tmp_path / "zero" / "source", tmp_path / "ct", options).folders
    assert rules(rows, "optimum-intel") == {"channel"}


def test_gguf_files(tmp_path: Path) -> None:
    package = pytest.importorskip("gguf")
    (tmp_path / "config.json").write_text("{}")
    writer = package.GGUFWriter(tmp_path / "model.gguf", "llama")
    for name, kind in (("a", "Q4_0"), ("b", "Q4_1"), ("c", "Q5_0")):
        data = package.quants.quantize(np.ones((4, 32), np.float32), package.GGMLQuantizationType[kind])
        writer.add_tensor(name, data, raw_dtype=package.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    locations = {finding.rule: finding.where for finding in check_folder(tmp_path / "model.gguf", "openvino")}
    assert locations == {"gguf-minimum": "b", "gguf-expanded": "c"}
