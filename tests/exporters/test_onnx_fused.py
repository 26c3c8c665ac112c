"""Query, key and value, gate and up, as one MatMulNBits each: the same numbers, the same integers, fewer nodes."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from checkpoint_writer import write_checkpoint

from ovround.conversion.convert import convert
from ovround.errors import VerifyError
from ovround.exporters.onnx.external_data import FUSED_KEY, read_entries
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule


def exported(tmp_path: Path, *rules: LayerRule) -> onnx.ModelProto:
    """The graph of a random Llama of two blocks, rounded to nearest; conversion itself reads every integer back."""
    source = write_checkpoint(tmp_path / "model")
    convert(source, tmp_path / "out", ConvertOptions(formats=("onnx",), group_size=32, recipe="rtn", layers=rules))
    return onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)


def products(model: onnx.ModelProto, layer: int) -> list[str]:
    return [
        n.name for n in model.graph.node if n.op_type == "MatMulNBits" and n.name.startswith(f"model.layers.{layer}.")
    ]


def test_one_node_for_projections_of_one_input(tmp_path: Path) -> None:
    model = exported(tmp_path)
    names = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]
    assert products(model, 0) == [f"model.layers.0.{name}" for name in names]
    attention = [node for node in model.graph.node if node.op_type == "GroupQueryAttention"]
    assert all(node.input[0].endswith("qkv_proj") and not node.input[1] and not node.input[2] for node in attention)


def test_members_of_other_bits_stay_apart(tmp_path: Path) -> None:
    model = exported(tmp_path, LayerRule("layers.0.self_attn.v_proj", bits=8))
    assert [name.rpartition(".")[2] for name in products(model, 0)][:3] == ["q_proj", "k_proj", "v_proj"]
    assert products(model, 1)[0].endswith("qkv_proj")


@pytest.mark.parametrize("damage", ["more rows", "no JSON", "no object"])
def test_metadata_that_does_not_fit(tmp_path: Path, damage: str) -> None:
    model, path = exported(tmp_path), tmp_path / "out" / "model.onnx"
    (entry,) = (item for item in model.metadata_props if item.key == FUSED_KEY)
    fused_weights = json.loads(entry.value)
    whole = next(iter(fused_weights))
    if damage == "more rows":
        fused_weights[whole] = {name: 4 * rows for name, rows in fused_weights[whole].items()}
    elif damage == "no object":
        fused_weights[whole] = [1, 2]
    entry.value = json.dumps(fused_weights) if damage != "no JSON" else entry.value.replace("{", "[", 1)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(VerifyError, match=FUSED_KEY):
        read_entries(path, "model.onnx.data")
