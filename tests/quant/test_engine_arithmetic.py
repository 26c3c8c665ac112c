"""The tuner's model of the engine's rounding of activations, compared with the real engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from converted_weights import read_weights
from openvino import opset13 as opset

from ovround.checkpoint import locate, open_checkpoint
from ovround.models import from_config
from ovround.models.torch_ops import TorchOps, round_to_8_bits
from ovround.options.convert_options import ConvertOptions
from ovround.quant.engine_arithmetic import activation_groups
from ovround.quant.plan import make_plan
from ovround.runtime import LLM
from ovround.tensors.packing import pack_rows
from ovround.tensors.scheme import QuantScheme

OPTIONS = ConvertOptions(group_size=64, recipe="rtn")  # as the folders were made


def torch_logits(folder: Path, ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]], engine: str) -> torch.Tensor:
    """The folder's own integers through torch, activations rounded as for `engine`."""
    decoder = from_config(open_checkpoint(locate("demo")).config)
    weights = {
        name: torch.from_numpy(weight.dequantize() if hasattr(weight, "codes") else weight.float32())
        for name, weight in read_weights(folder).items()
    }
    plan, shapes = make_plan(decoder, OPTIONS), decoder.tensors()
    for layer in range(decoder.config.num_hidden_layers):
        shapes |= decoder.tensors(layer)
    groups = activation_groups(plan, shapes, engine)
    with torch.no_grad():
        return decoder.logits(TorchOps(weights, activation_groups=groups), torch.from_numpy(ids))


def distance(ours: np.ndarray[tuple[int, ...], np.dtype[np.float32]], theirs: torch.Tensor) -> float:
    return float(np.linalg.norm(ours - theirs.numpy()) / np.linalg.norm(theirs.numpy()))


@pytest.fixture(scope="module")
def ids() -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.random.default_rng(0).integers(3, 2000, (2, 24))


def test_onnx_runtime(demo_folders: dict[str, Path], ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
    folder = demo_folders["onnx"]
    with LLM(folder, exact=False) as llm:
        engine = llm.logits(ids)
    plain, aware = (distance(engine, torch_logits(folder, ids, name)) for name in ("none", "onnx"))
    # A value on the border between two of 255 levels falls to the other side for a difference of 1e-7, and what follows is
    # then rounded anew: 0.54 here, where leaving out any one kind of projection gives 0.99 to 1.14.
    assert aware < 0.75 * plain
    assert 1e-3 < plain < 0.1


def test_openvino(demo_folders: dict[str, Path], ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
    """With float32 inference, the rounding of activations in the folder's groups is the only difference."""
    folder = demo_folders["openvino"]
    properties = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    request = ov.Core().compile_model(folder / "openvino_model.xml", "CPU", properties).create_infer_request()
    batch, tokens = ids.shape
    request.infer(
        {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "position_ids": np.tile(np.arange(tokens), (batch, 1)),
            "beam_idx": np.arange(batch, dtype=np.int32),
        }
    )
    engine = request.get_tensor("logits").data.copy()
    plain, aware = (distance(engine, torch_logits(folder, ids, name)) for name in ("none", "openvino"))
    if plain < 1e-5:
        pytest.skip("on this processor the plugin does not round activations")
    assert aware < 0.75 * plain  # 0.6: borders, as above; one layer alone, below, agrees to the last digits


@pytest.mark.parametrize("group", [32, 64, 128])
def test_one_layer_of_openvino(group: int) -> None:
    """64 outputs of 256 inputs, 4 bits in groups of 128: the plugin's product is that of inputs rounded in `group`."""
    rng = np.random.default_rng(group)
    codes, x = rng.integers(-8, 8, (64, 2, 128)), rng.standard_normal((1, 5, 256)).astype(np.float32)
    scales = (rng.random((64, 2, 1)) + 0.5).astype(np.float16)
    packed = pack_rows((codes & 15).astype(np.uint8).reshape(1, -1), 4)
    constant = opset.constant(ov.Tensor(packed, ov.Shape([64, 2, 128]), ov.Type.i4))
    decoded = opset.multiply(opset.convert(constant, "f16"), opset.constant(scales))
    decoded = opset.convert(opset.reshape(decoded, opset.constant([64, 256]), False), "f32")
    inputs = opset.parameter(ov.PartialShape([-1, -1, 256]), ov.Type.f32)
    model = ov.Model([opset.matmul(inputs, decoded, False, True)], [inputs], "layer")
    properties = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(group)}
    actual = torch.from_numpy(ov.Core().compile_model(model, "CPU", properties)([x])[0])
    weight = torch.from_numpy((codes * scales).astype(np.float32).reshape(64, 256))
    exact, rounded = torch.from_numpy(x) @ weight.T, round_to_8_bits(torch.from_numpy(x), group) @ weight.T
    if torch.dist(actual, exact) < 1e-5 * exact.norm():
        pytest.skip("on this processor the plugin does not round activations")
    assert torch.dist(actual, rounded) < 2e-6 * exact.norm()


@pytest.mark.parametrize(
    ("scheme", "columns", "engine", "group"),
    [
        (QuantScheme(4, 64, True), 128, "onnx", 64),
        (QuantScheme(4, -1, True), 192, "onnx", 64),
        (QuantScheme(4, -1, True), 200, "onnx", 128),
        (QuantScheme(2, 256, False), 512, "onnx", 128),
        (QuantScheme(4, 128, False), 128, "openvino", 128),
        (QuantScheme(4, 96, False), 192, "openvino", 32),
        (QuantScheme(4, -1, False), 192, "openvino", 64),
        (QuantScheme(2, 64, True), 128, "openvino", None),
        (QuantScheme(4, 64, True), 128, "none", None),
    ],
)
def test_groups(scheme: QuantScheme, columns: int, engine: str, group: int | None) -> None:
    groups = activation_groups({"layer": scheme, "float": None}, {"layer.weight": (8, columns)}, engine)
    assert groups == ({} if group is None else {"layer": group})
