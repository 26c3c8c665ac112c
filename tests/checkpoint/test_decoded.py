"""Checkpoints of 4-bit and 8-bit floats: the numbers that transformers and torch make of them, in both engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_model import CONFIGS, logits_of, write_random_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.checkpoint import Checkpoint, QuantisedCheckpoint, open_source
from ovround.checkpoint.formats.small_floats import TABLES, decode_e8m0, decode_fp4, decode_fp8
from ovround.conversion.convert import convert
from ovround.conversion.preparation import prepare
from ovround.errors import CheckpointError, TensorError
from ovround.options.convert_options import ConvertOptions
from ovround.runtime.engines import open_engine

IDS = np.random.default_rng(5).integers(3, 320, (2, 40))
SIXTEEN_BITS = 1e-4  # of a log-probability, as for any checkpoint in floating point
KEPT = 1e-3  # where integers are kept
CONFIG = CONFIGS["qwen3-0"]
Tensors = dict[str, torch.Tensor]
Store = Callable[[str, torch.Tensor], tuple[Tensors, torch.Tensor]]


def test_every_byte_is_the_number_that_torch_reads() -> None:
    codes = np.arange(256, dtype=np.uint8)
    for name, dtype in (("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)):
        expected = torch.from_numpy(codes.copy()).view(dtype).float().numpy()
        np.testing.assert_array_equal(decode_fp8(codes, name), expected)
        assert set(TABLES) == {"F8_E4M3", "F8_E5M2"}
    powers = torch.from_numpy(codes[:255].copy()).view(torch.float8_e8m0fnu).float().numpy()
    np.testing.assert_array_equal(decode_e8m0(codes[:255]), powers)
    assert decode_fp4(np.array([[0x10, 0x72, 0xFB]], np.uint8)).tolist() == [[0, 0.5, 1, 6, -1.5, -6]]


# How each format stores a weight [N, K]: its tensors, and the numbers that they stand for by torch's own arithmetic


def levels(values: torch.Tensor, kind: torch.dtype = torch.float8_e4m3fn) -> torch.Tensor:
    return values.clamp(-448, 448).to(kind)


def by_block(rows: int, columns: int, kind: torch.dtype = torch.float8_e4m3fn, name: str = "weight_scale_inv") -> Store:
    """Blocks of `rows` outputs and `columns` inputs, the last ones short."""

    def store(_: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        n, k = weight.shape
        grid = torch.zeros(-(-n // rows), -(-k // columns))
        for i in range(len(grid)):
            for j in range(grid.shape[1]):
                part = weight[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns]
                grid[i, j] = part.abs().max() / 448
        spread = grid.repeat_interleave(rows, 0)[:n].repeat_interleave(columns, 1)[:, :k]
        codes = levels(weight / spread, kind)
        return {"weight": codes, name: grid}, codes.float() * spread

    return store


def by_row(_: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    scale = (weight.abs().amax(1, keepdim=True) / 448).bfloat16()
    codes = levels(weight / scale.float())
    return {"weight": codes, "weight_scale": scale}, codes.float() * scale.float()


def by_tensor(_: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    scale = weight.abs().max() / 448
    codes = levels(weight / scale)
    parts = {"weight": codes, "weight_scale": scale, "input_scale": torch.tensor(0.02)}
    return parts, codes.float() * scale


def mxfp8(_: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    groups = weight.unflatten(1, (-1, 32))
    exponent = (groups.abs().amax(-1, keepdim=True) / 448).log2().ceil()
    codes = levels((groups / exponent.exp2()).flatten(1))
    parts = {"weight": codes, "weight_scale": (exponent.squeeze(-1) + 127).to(torch.uint8)}
    return parts, (codes.float().unflatten(1, (-1, 32)) * exponent.exp2()).flatten(1)


def fp4(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two codes a byte, and their numbers."""
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = (groups.unsqueeze(-1) - table).abs().argmin(-1)
    flat = codes.flatten(1)
    return (flat[:, ::2] | flat[:, 1::2] << 4).to(torch.uint8), table[codes]


def nvfp4(divides: bool, columns: bool = False) -> Store:
    def store(_: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        pre = torch.linspace(0.5, 2, weight.shape[1]) if columns else torch.ones(weight.shape[1])
        groups = (weight / pre).unflatten(1, (-1, 16))
        whole = 448 * 6 / groups.abs().max()
        if not divides:
            whole = 1 / whole
        real = (lambda scale: scale.float() / whole) if divides else (lambda scale: scale.float() * whole)
        scale = (groups.abs().amax(-1) / 6 / real(torch.tensor(1.0))).to(torch.float8_e4m3fn)
        packed, values = fp4(groups / real(scale).clamp_min(1e-30).unsqueeze(-1))
        numbers = (values * real(scale).unsqueeze(-1)).flatten(1) * pre
        if divides:
            return {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": whole.view(1)}, numbers
        parts = {"weight": packed, "weight_scale": scale, "weight_scale_2": whole, "input_scale": torch.tensor(1.0)}
        return (parts | {"pre_quant_scale": pre} if columns else parts), numbers

    return store


def mxfp4(_: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    groups = weight.unflatten(1, (-1, 32))
    exponent = (groups.abs().amax(-1, keepdim=True) / 6).log2().ceil()
    packed, values = fp4(groups / exponent.exp2())
    parts = {"weight_packed": packed, "weight_scale": (exponent.squeeze(-1) + 127).to(torch.uint8)}
    return parts, (values * exponent.exp2()).flatten(1)


def int8(symmetric: bool, by_tensor: bool = False) -> Store:
    def store(_: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        axes = (0, 1) if by_tensor else (1,)
        low, high = weight.amin(axes, keepdim=True), weight.amax(axes, keepdim=True)
        if symmetric:
            scale, zero = (torch.maximum(-low, high) / 127).bfloat16().float(), torch.zeros_like(low)
        else:
            scale = ((high - low) / 255).bfloat16().float()
            zero = (-128 - low / scale).round().clamp(-128, 127)
        codes = (weight / scale + zero).round().clamp(-128, 127)
        shape = (1,) if by_tensor else scale.shape
        parts = {"weight": codes.to(torch.int8), "weight_scale": scale.view(shape).bfloat16()}
        if not symmetric:
            parts["weight_zero_point"] = zero.view(shape).to(torch.int8)
        return parts, (codes - zero) * scale

    return store


NF4 = torch.tensor(
    [-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
     0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]
)  # fmt: skip


def nf4(double: bool) -> Store:
    """bitsandbytes: blocks of 64 over the flattened weight, scales in 8 bits where they are quantised too."""

    def store(_: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        blocks = weight.reshape(-1, 64)
        absmax, state = blocks.abs().amax(1), {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16"}
        parts: Tensors = {"weight.absmax": absmax}
        if double:
            levels, offset = torch.linspace(-1, 1, 256), absmax.mean()
            outer = torch.nn.functional.pad(absmax - offset, (0, -len(absmax) % 256)).reshape(-1, 256).abs().amax(1)
            spread = outer.repeat_interleave(256)[: len(absmax)]
            codes = (((absmax - offset) / spread)[:, None] - levels).abs().argmin(1)
            absmax = levels[codes] * spread + offset
            parts = {
                "weight.absmax": codes.to(torch.uint8),
                "weight.nested_quant_map": levels,
                "weight.nested_absmax": outer,
            }
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset.item()}
        levels = ((blocks / absmax[:, None])[..., None] - NF4).abs().argmin(-1)
        pairs = levels.reshape(-1, 2)
        document = json.dumps({**state, "shape": list(weight.shape)}).encode()
        parts |= {
            "weight": (pairs[:, :1] << 4 | pairs[:, 1:]).to(torch.uint8), "weight.quant_map": NF4.clone(),
            "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(document), dtype=torch.uint8),
        }  # fmt: skip
        return parts, (NF4[levels] * absmax[:, None]).reshape(weight.shape).bfloat16().float()

    return store


def bnb8(_: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    largest = weight.abs().amax(1)
    codes = (weight / largest[:, None] * 127).round()
    parts = {"weight": codes.to(torch.int8), "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return parts, codes * (largest / 127)[:, None]


def mlx(bits: int) -> Store:
    """Groups of 32 with a scale and a bias; the levels of a row are one stream of bits."""

    def store(_: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        groups = weight.unflatten(1, (-1, 32))
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        scale, bias = ((high - low) / (2**bits - 1)).bfloat16().float(), low.bfloat16().float()
        levels = ((groups - bias) / scale).round().clamp(0, 2**bits - 1)
        stream = (levels.flatten(1).to(torch.uint8).numpy()[..., None] >> np.arange(bits)) & 1
        words = np.packbits(stream.reshape(len(weight), -1), axis=-1, bitorder="little").view(np.uint32)
        parts = {
            "weight": torch.from_numpy(words),
            "scales": scale[..., 0].bfloat16(),
            "biases": bias[..., 0].bfloat16(),
        }
        return parts, (levels * scale + bias).flatten(1)

    return store


def ct(format_name: str | None, **groups: Any) -> dict[str, Any]:
    """A configuration of compressed-tensors; each group is its weights, or its weights and its format."""
    activations = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token", "symmetric": True}
    made = {
        name: {
            "targets": group.pop("targets", ["Linear"]), "format": group.pop("format", None),
            "weights": group, "input_activations": None if group.get("num_bits") == 4 else activations,
        }
        for name, group in groups.items()
    }  # fmt: skip
    stated = {"quant_method": "compressed-tensors", "format": format_name, "config_groups": made, "ignore": ["lm_head"]}
    return {**stated, "quantization_status": "compressed", "kv_cache_scheme": None, "sparsity_config": {}}


@dataclass(frozen=True)
class Case:
    """A format: its configuration, how it stores a weight, what is said of it, and whether transformers loads it here."""

    stated: dict[str, Any]
    store: Store
    note: str
    loads: bool = False
    kept: bool = False
    file: str = ""
    config: dict[str, Any] = field(default_factory=dict)


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3"}
FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True}
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel", "group_size": None}
CASES = {
    "qwen-fp8": Case({**FP8, "weight_block_size": [32, 32]}, by_block(32, 32), "FP8 (e4m3)", loads=True),
    "short-blocks": Case({**FP8, "weight_block_size": [40, 48]}, by_block(40, 48), "FP8 (e4m3)"),
    "e5m2": Case({**FP8, "weight_block_size": [32, 32]}, by_block(32, 32, torch.float8_e5m2), "FP8 (e5m2)"),
    "implied-blocks": Case(FP8, by_block(32, 16), "FP8 (e4m3)"),
    "static": Case({**FP8, "activation_scheme": "static"}, by_tensor, "FP8 (e4m3)"),
    "fbgemm": Case({"quant_method": "fbgemm_fp8"}, by_row, "FP8 (e4m3)"),
    "modelopt-fp8": Case({"quant_method": "modelopt", "quant_algo": "FP8"}, by_tensor, "FP8 (e4m3)"),
    "modelopt-file": Case(
        {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None}},
        by_tensor, "FP8 (e4m3)", file="hf_quant_config.json",
    ),
    "modelopt-nvfp4": Case({"quant_method": "modelopt", "quant_algo": "NVFP4"}, nvfp4(divides=False), "NVFP4"),
    "modelopt-awq": Case({"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"}, nvfp4(False, columns=True), "NVFP4"),
    "ct-fp8-row": Case(ct("float-quantized", group_0={**FLOAT8, "strategy": "channel"}), by_row, "FP8 (e4m3)"),
    "ct-fp8-tensor": Case(ct("float-quantized", group_0={**FLOAT8, "strategy": "tensor"}), by_tensor, "FP8 (e4m3)"),
    "ct-fp8-block": Case(
        ct("float-quantized", group_0={**FLOAT8, "strategy": "block", "block_structure": [40, 48]}),
        by_block(40, 48, name="weight_scale"), "FP8 (e4m3)",
    ),
    "ct-mxfp8": Case(ct("mxfp8-quantized", group_0={**FLOAT8, "strategy": "group", "group_size": 32}), mxfp8, "FP8 (e4m3)"),
    "ct-nvfp4": Case(
        ct("nvfp4-pack-quantized", group_0={"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}),
        nvfp4(divides=True), "NVFP4",
    ),
    "ct-mxfp4": Case(
        ct("mxfp4-pack-quantized", group_0={"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}),
        mxfp4, "MXFP4",
    ),
    "bnb-nf4": Case({"quant_method": "bitsandbytes", "load_in_4bit": True}, nf4(False), "bitsandbytes NF4"),
    "bnb-double": Case({"load_in_4bit": True}, nf4(True), "bitsandbytes NF4"),
    "bnb-int8": Case({"quant_method": "bitsandbytes", "load_in_8bit": True}, bnb8, "bitsandbytes int8"),
    "mlx-4": Case({}, mlx(4), "MLX's 4-bit levels", config={"quantization": {"group_size": 32, "bits": 4}}),
    "mlx-mixed": Case(
        {"group_size": 32, "bits": 3}, lambda module, weight: mlx(6 if "down_proj" in module else 3)(module, weight),
        "MLX's 6-bit levels", config={"quantization": {"group_size": 32, "bits": 3, "mode": "affine"} | {
            f"model.layers.{layer}.mlp.down_proj": {"group_size": 32, "bits": 6} for layer in range(3)}},
    ),
    "w8a8": Case(ct("int-quantized", group_0=dict(INT8)), int8(True), "activations (8-bit int)", kept=True),
    "w8a8-asym": Case(ct("int-quantized", group_0={**INT8, "symmetric": False}), int8(False), "activations", kept=True),
    "w8a8-tensor": Case(ct("naive-quantized", group_0={**INT8, "strategy": "tensor"}), int8(True, True), "activations", kept=True),
}  # fmt: skip


def write(folder: Path, case: Case, config: dict[str, Any] | None = None) -> tuple[Path, Path]:
    """A random model in a format, and beside it its twin: the same numbers in float32."""
    config = {**(config or CONFIG), **case.config}
    write_random_model(folder / "twin", config, torch.bfloat16)
    tensors = load_file(folder / "twin" / "model.safetensors")
    stored, twin = dict(tensors), {name: tensor.float() for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and "proj" in name:
            module = name.removesuffix(".weight")
            parts, twin[name] = case.store(module, tensor.float())
            del stored[name]
            stored |= {f"{module}.{part}": data for part, data in parts.items()}
    model = shutil.copytree(folder / "twin", folder / "model")
    save_file({name: part.contiguous() for name, part in stored.items()}, model / "model.safetensors", {"format": "pt"})
    save_file(
        {name: part.contiguous() for name, part in twin.items()},
        folder / "twin" / "model.safetensors",
        {"format": "pt"},
    )
    if case.file:
        (model / case.file).write_text(json.dumps(case.stated))
    else:
        (model / "config.json").write_text(
            json.dumps({**config, "quantization_config": case.stated, "dtype": "bfloat16"})
        )
    return model, folder / "twin"


def log_probabilities(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return torch.from_numpy(np.ascontiguousarray(logits)).double().log_softmax(-1).numpy()


def expected(folder: Path) -> np.ndarray[Any, Any]:
    """transformers' log-probabilities of a folder, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return log_probabilities(logits_of(model, IDS))


@pytest.mark.parametrize("name", CASES)
def test_both_engines_compute_the_numbers_that_are_stored(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    model, twin = write(tmp_path, case)
    reference = expected(twin)
    if case.loads:
        np.testing.assert_allclose(expected(model), reference, atol=1e-5)
    options = ConvertOptions(formats=ENGINE_FORMATS) if case.kept else ConvertOptions(formats=ENGINE_FORMATS, bits=16)
    made = convert(model, tmp_path / "out", options)
    assert any(case.note in note for note in made.manifests[0].notes), made.manifests[0].notes
    for out in made.folders:
        assert "quantization_config" not in json.loads((out / "config.json").read_text())
        engine = open_engine(out, exact=True, threads=1)
        difference = np.abs(log_probabilities(engine.logits(IDS)) - reference).max()
        engine.close()
        assert difference <= (KEPT if case.kept else SIXTEEN_BITS), out.name


def test_small_floats_are_quantised_like_any_floats(tmp_path: Path) -> None:
    model, twin = write(tmp_path, CASES["qwen-fp8"])
    options = ConvertOptions(formats=("onnx",), recipe="rtn", group_size=32)
    digests = [
        {record.name: record.sha256 for record in convert(folder, tmp_path / folder.name / "out", options).manifests[0].weights
         if record.group_size and "proj" in record.name}
        for folder in (model, twin)
    ]  # fmt: skip
    assert digests[0] == digests[1] != {}


def test_small_floats_can_be_tuned(tmp_path: Path, text_file: Path) -> None:
    model, _ = write(tmp_path, CASES["ct-nvfp4"])
    options = ConvertOptions(formats=("onnx",), group_size=32, iters=2, nsamples=8, seqlen=32, calibration=(text_file,))
    manifest = convert(model, tmp_path / "out", options).manifests[0]
    assert len(manifest.blocks) == CONFIG["num_hidden_layers"]


@pytest.mark.parametrize("name", ["mixed", "per-group formats"])
def test_integers_and_floats_in_one_folder(tmp_path: Path, name: str) -> None:
    """`mixed-precision`: down_proj in FP8 is read as numbers; the other layers keep their int8."""
    form = {"group_0": {**FLOAT8, "strategy": "channel", "targets": ["re:.*down_proj"], "format": "float-quantized"}}
    form["group_1"] = {**INT8, "format": "int-quantized"}
    general = "mixed-precision" if name == "mixed" else "int-quantized"

    def store(module: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        return by_row(module, weight) if "down_proj" in module else int8(True)(module, weight)

    model, twin = write(tmp_path, Case(ct(general, **form), store, ""))
    source = open_source(model)
    assert isinstance(source, QuantisedCheckpoint)
    made = convert(model, tmp_path / "out", ConvertOptions(formats=ENGINE_FORMATS))
    bits = {record.name.split(".")[-2]: record.bits for record in made.manifests[0].weights if "proj" in record.name}
    assert (bits["down_proj"], bits["up_proj"]) == (32, 8)
    for out in made.folders:
        engine = open_engine(out, exact=True, threads=1)
        assert np.abs(log_probabilities(engine.logits(IDS)) - expected(twin)).max() <= KEPT
        engine.close()


def test_one_wrong_block_scale_is_seen(tmp_path: Path) -> None:
    """The twin of the tolerance: two block scales swapped."""
    model, twin = write(tmp_path, CASES["qwen-fp8"])
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight_scale_inv"
    tensors[name][[0, 1]] = tensors[name][[1, 0]]
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    (out,) = convert(model, tmp_path / "out", ConvertOptions(formats=("onnx",), bits=16)).folders
    engine = open_engine(out, exact=True, threads=1)
    assert np.abs(log_probabilities(engine.logits(IDS)) - expected(twin)).max() > 10 * SIXTEEN_BITS
    engine.close()


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        ("qwen-fp8", {"weight_scale_inv": torch.ones(3, 5)}, TensorError, "do not belong together"),
        ("qwen-fp8", {"weight_scale_inv": torch.full((3, 2), 1e37)}, TensorError, "no float32 number: 1e+37"),
        ("qwen-fp8", {"weight_scale_inv": None}, TensorError, "is F8_E4M3; F32, F16, BF16, F64 can be read"),
        ("qwen-fp8", {"weight_scale_inv": torch.ones(3, 2, dtype=torch.int32)}, TensorError, "is I32; scales are"),
        ("ct-nvfp4", {"weight_global_scale": None}, TensorError, "the scale of the whole tensor is missing"),
        ("ct-nvfp4", {"weight_global_scale": torch.zeros(1)}, TensorError, "no float32 number: inf"),
        ("ct-nvfp4", {"weight_global_scale": torch.ones(2)}, TensorError, "has 2 values; 1 is needed"),
        ("bnb-nf4", {"weight.absmax": None}, TensorError, "has no tensor"),
        ("bnb-nf4", {"weight.absmax": torch.ones(7)}, TensorError, "is F32 [7]; F32 ["),
        ("bnb-double", {"weight.nested_absmax": torch.full((1,), float("nan"))}, TensorError, "holds NaN"),
        ("bnb-nf4", {"weight.quant_state.bitsandbytes__nf4": torch.zeros(9, dtype=torch.uint8)}, TensorError, "is no state of"),
        ("bnb-int8", {"SCB": torch.ones(3)}, TensorError, "do not belong together"),
        ("mlx-4", {"scales": torch.ones(96, 3).bfloat16()}, TensorError, "do not belong together"),
        ("mlx-4", {"biases": None}, TensorError, "has shape [96, 8]"),
        ("ct-mxfp4", {"weight_scale": torch.zeros(96, 3, dtype=torch.uint8)}, TensorError, "do not belong together"),
        ("ct-mxfp4", {"weight_scale": torch.full((96, 2), 255, dtype=torch.uint8)}, TensorError, "no float32 number: inf"),
        ("w8a8", {"weight_zero_point": torch.ones(96, 1, dtype=torch.int8)}, TensorError, "zero points are not 128"),
        ("w8a8", {"weight_scale": torch.ones(96, 2)}, TensorError, "config.json calls for"),
        ("w8a8", {"weight": torch.ones(96, 64, dtype=torch.uint8)}, TensorError, "config.json calls for I8"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(
    tmp_path: Path, name: str, changes: dict[str, torch.Tensor | None], error: type[Exception], message: str
) -> None:
    model, _ = write(tmp_path, CASES[name])
    tensors = load_file(model / "model.safetensors")
    for part, tensor in changes.items():
        if tensor is None:
            del tensors[f"model.layers.0.mlp.up_proj.{part}"]
        else:
            tensors[f"model.layers.0.mlp.up_proj.{part}"] = tensor
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(error) as caught:
        convert(model, tmp_path / "out", ConvertOptions(formats=("onnx",), **({} if "w8a8" in name else {"bits": 16})))
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (ct("marlin-24", group_0=dict(INT8)), "are int in format `marlin-24`"),
        (ct("float-quantized", group_0=dict(INT8)), "are int in format `float-quantized`; pack-quantized"),
        (ct("pack-quantized", group_0={**INT8, "strategy": "tensor"}), "int by tensor; group, channel can be read"),
        ({**ct("int-quantized", group_0=dict(INT8)), "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse weights"),
        (
            {
                **ct("int-quantized", group_0=dict(INT8)),
                "transform_config": {"config_groups": {"R4": {"apply": [{"location": "input", "targets": ["re:.*down_proj"]}]}}},
            },
            "`R4` transforms activations (input)",
        ),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, "no weight in 4-bit or 8-bit floats was found"),
    ],
)  # fmt: skip
def test_configurations_that_are_not_read(tmp_path: Path, stated: dict[str, Any], message: str) -> None:
    model, _ = write(tmp_path, Case(stated, int8(True), ""))
    with pytest.raises(CheckpointError) as caught:
        prepare(str(model), tmp_path / "out", ConvertOptions())
    assert message in str(caught.value)


def test_transforms_in_the_weights_and_dense_masks_are_no_reason_to_refuse(tmp_path: Path) -> None:
    fused = {"config_groups": {"R1": {"apply": [{"location": "weight_output", "targets": ["Embedding"]}]}}}
    stated = {
        **ct("int-quantized", group_0=dict(INT8)),
        "transform_config": fused,
        "sparsity_config": {"format": "dense"},
    }
    model, _ = write(tmp_path, Case(stated, int8(True), ""))
    assert not isinstance(open_source(model), Checkpoint)
    prepare(str(model), tmp_path / "out", ConvertOptions())
