"""GGUF: every block type against the gguf package's own arithmetic, and a whole file through to the engines' integers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_writer import random_weights, tiny_config, write_tokenizer
from converted_weights import read_weights
from numpy.typing import NDArray

from ovround.checkpoint import gguf, open_source
from ovround.conversion.convert import convert
from ovround.errors import CheckpointError, TensorError
from ovround.options.convert_options import ConvertOptions
from ovround.tensors.qtensor import QTensor

package = pytest.importorskip("gguf")
HALVES = {
    "Q4_0": (18, [0]),
    "Q4_1": (20, [0, 2]),
    "Q8_0": (34, [0]),
    "Q4_K": (144, [0, 2]),
    "Q6_K": (210, [208]),
    "Q2_K": (84, [80, 82]),
}
CONFIG = {"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False}


@pytest.mark.parametrize("kind", HALVES)
def test_blocks_are_what_the_package_reads(kind: str) -> None:
    """Random bytes in every field; whole steps are asked of the minimum, so that the grid's own value is compared."""
    size, halves = HALVES[kind]
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (3, 2, size), dtype=np.uint8)
    for at in halves:
        blocks[..., at : at + 2] = rng.standard_normal((3, 2, 1)).astype(np.float16).view(np.uint8)
    rows = blocks.reshape(3, -1)
    expected = package.quants.dequantize(rows, package.GGMLQuantizationType[kind])
    codes, scales, zero_points = gguf._DECODERS[kind](rows)
    grouped = codes.reshape(*scales.shape, -1).astype(np.float32)
    if kind in ("Q4_K", "Q2_K"):
        values = grouped * scales[..., None] - gguf._minimum(rows, kind)[..., None]
    elif kind == "Q4_1":
        values = grouped * scales[..., None] + gguf._halves(blocks, 2)[..., None]
    else:
        values = (grouped - zero_points[..., None]) * scales[..., None]
    np.testing.assert_array_equal(values.reshape(expected.shape), expected)


def test_golden_q4_0() -> None:
    block = np.concatenate([np.array([0.5], np.float16).view(np.uint8), np.arange(16, dtype=np.uint8) * 17])[None]
    codes, scales, _ = gguf._DECODERS["Q4_0"](block.astype(np.uint8))
    assert codes.tolist() == [[*range(16), *range(16)]]  # low nibbles are the first half
    assert scales.tolist() == [[0.5]]


def permuted(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """llama.cpp's converter: rows of a head in pairs."""
    return weight.reshape(heads, 2, -1, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    folder: Path, kinds: dict[str, str], architecture: str = "llama", left_out: str = ""
) -> dict[str, NDArray[np.float32]]:
    """A tiny Llama as llama.cpp writes it, Q4_0 but for `kinds`, by module; returns the weights as Hugging Face has them.

    The module `left_out` is not written.
    """
    config = tiny_config(**CONFIG)
    weights = random_weights(config)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    writer = package.GGUFWriter(folder / "model.gguf", architecture)
    for name, weight in weights.items():
        module = name.rpartition(".")[0].rpartition(".")[2]
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(module)
        data = permuted(weight, heads) if heads else weight
        if module == left_out:
            continue
        kind = kinds.get(module, "F32" if "norm" in name else "Q4_0")
        raw: Any = data
        if kind == "Q6_K":
            raw = np.random.default_rng(0).integers(0, 100, (len(data), 210), dtype=np.uint8)
        elif kind != "F32":
            raw = package.quants.quantize(data, package.GGMLQuantizationType[kind])
        writer.add_tensor(gguf._name(name), raw, raw_dtype=package.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def test_a_file_keeps_every_integer(tmp_path: Path) -> None:
    original = write_gguf(tmp_path / "g", {"down_proj": "Q8_0", "embed_tokens": "F16", "v_proj": "F32"})
    made = convert(tmp_path / "g" / "model.gguf", tmp_path / "out", ConvertOptions(formats=("onnx", "openvino")))
    for folder in made.folders:
        weights = read_weights(folder)
        for name, weight in original.items():
            tensor = weights[name]
            if isinstance(tensor, QTensor):
                kind = "Q8_0" if "down_proj" in name else "Q4_0"
                blocks = package.quants.quantize(weight, package.GGMLQuantizationType[kind])
                expected = package.quants.dequantize(blocks, package.GGMLQuantizationType[kind])
                np.testing.assert_array_equal(tensor.dequantize(), expected)
    schemes = {record.name: (record.bits, record.group_size) for record in made.manifests[0].weights}
    assert schemes["lm_head.weight"] == (4, 32)
    assert schemes["model.layers.0.mlp.down_proj.weight"] == (8, 32)
    assert schemes["model.embed_tokens.weight"] == (16, 0)


@pytest.mark.parametrize("format_name", ["compressed-tensors", "openvino"])
def test_a_file_without_a_head_is_tied_whatever_config_json_says(tmp_path: Path, format_name: str) -> None:
    """Verification opens the written folder from its own config.json, which must then say so too."""
    write_gguf(tmp_path / "g", {"embed_tokens": "F16"}, left_out="lm_head")
    made = convert(tmp_path / "g" / "model.gguf", tmp_path / "out", ConvertOptions(formats=(format_name,)))
    assert "lm_head.weight" not in {record.name for record in made.manifests[0].weights}


def test_what_is_not_exact_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "g", {"up_proj": "Q4_1"})
    with pytest.raises(TensorError, match=r"`blk.0.ffn_up.weight` is Q4_1: \d+ of \d+ groups have a scale"):
        convert(tmp_path / "g", tmp_path / "out", ConvertOptions(formats=("onnx",)))
    assert not (tmp_path / "out").exists()


def test_a_file_of_another_family_or_none(tmp_path: Path) -> None:
    write_gguf(tmp_path / "g", {}, "qwen2")
    with pytest.raises(CheckpointError, match="is of architecture `qwen2`; llama can be read"):
        open_source(tmp_path / "g")
    path = tmp_path / "g" / "model.gguf"
    for content in (b"", b"GGUF", path.read_bytes()[:200], b"GGUF" + b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is no valid GGUF file"):
            open_source(tmp_path / "g")
    (tmp_path / "g" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config.json beside model.gguf"):
        open_source(tmp_path / "g")
