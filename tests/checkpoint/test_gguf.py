"""GGUF: every block type, a file through to the engines' integers in both ways, what lies beside it, parts, and names of the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf as package
import numpy as np
import pytest
from checkpoint_writer import random_weights, tiny_config
from converted_weights import read_weights
from gguf_blocks import HALVES, random_blocks
from gguf_writer import TINY, write_tiny
from hub_server import HubServer

from ovround.artifact.manifest import read_manifest
from ovround.check import check_folder
from ovround.checkpoint import open_source
from ovround.checkpoint.gguf import types
from ovround.checkpoint.gguf.grids import MINIMUM, SYMMETRIC, on_grid, whole_steps
from ovround.checkpoint.gguf.hub_file import parts_of_tag
from ovround.conversion.convert import convert
from ovround.errors import CheckpointError, TensorError, UsageError
from ovround.exporters.formats import open_reader
from ovround.options.convert_options import ConvertOptions
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

BLOCKS = [kind for kind in types.type_names() if kind not in types.PLAIN and kind != "BF16"]
SHAPE = (5, 512)


@pytest.mark.parametrize("kind", BLOCKS)
def test_values_are_the_packages(kind: str) -> None:
    rows = random_blocks(kind, SHAPE)
    values = types.dequantize(rows, kind)
    for index in range(len(rows)):  # by slices too
        np.testing.assert_array_equal(types.dequantize(rows[index : index + 1], kind)[0], values[index])
    try:
        expected = package.quants.dequantize(rows, package.GGMLQuantizationType[kind])
    except (NotImplementedError, KeyError):  # the package has no values of it: `test_types_of_our_own`
        assert kind in ("Q1_0", "Q2_0", "Q8_1", "Q8_K")
        return
    np.testing.assert_array_equal(values, expected)


def test_types_of_our_own() -> None:
    """By hand, after ggml's `dequantize_row_*`."""
    half = np.array([0.5], np.float16).view(np.uint8)
    one = np.concatenate([half, np.array([0b101, *[0] * 15], np.uint8)])
    assert types.dequantize(one, "Q1_0")[:4].tolist() == [0.5, -0.5, 0.5, -0.5]
    two = np.concatenate([half, np.array([0b11100100, *[0] * 15], np.uint8)])
    assert types.dequantize(two, "Q2_0")[:5].tolist() == [-0.5, 0.0, 0.5, 1.0, -0.5]
    codes = np.arange(-16, 16, dtype=np.int8).view(np.uint8)
    assert types.dequantize(np.concatenate([half, half, codes]), "Q8_1").tolist() == [
        code / 2 for code in range(-16, 16)
    ]
    wide = np.concatenate(
        [np.array([0.25], np.float32).view(np.uint8), np.arange(256, dtype=np.uint8), np.zeros(32, np.uint8)]
    )
    assert types.dequantize(wide, "Q8_K")[[1, 255]].tolist() == [0.25, -0.25]


@pytest.mark.parametrize("kind", sorted({*SYMMETRIC, *MINIMUM} & set(BLOCKS)))
def test_grids_lose_what_they_say(kind: str) -> None:
    """Nothing; the rounding of a scale to float16, at most 2^-11; or the nearest of 8 bits, 0.2 % of what is typical."""
    rows = random_blocks(kind, SHAPE)
    values = types.dequantize(rows, kind)
    own = SYMMETRIC.get(kind) or MINIMUM[kind]
    error = np.linalg.norm(on_grid(rows, kind, values, own.scheme).dequantize() - values) / np.linalg.norm(values)
    if kind in SYMMETRIC:
        assert error == 0 if not SYMMETRIC[kind].products else error < 2**-11
    else:
        assert error < 0.002


@pytest.mark.parametrize("kind", sorted(MINIMUM))
def test_whole_minima_are_kept(kind: str) -> None:
    rows = random_blocks(kind, SHAPE)
    assert whole_steps(rows, kind) is None
    own = MINIMUM[kind]
    blocks = rows.reshape(len(rows), -1, types.block_of(kind)[1])
    first, second = HALVES[kind]
    scale = np.float16(0.25)
    blocks[..., first : first + 2] = np.array([scale]).view(np.uint8)
    blocks[..., second : second + 2] = np.array([scale if kind.endswith("K") else -3 * scale]).view(np.uint8)
    if kind == "Q2_K":
        blocks[..., :16] = 0x21  # scales of 1, minima of 2
    elif kind.endswith("K"):
        blocks[..., 4:16] = np.array([1] * 4 + [2] * 4 + [0x21] * 4, np.uint8)
    rows = blocks.reshape(len(rows), -1)
    top = whole_steps(rows, kind)
    assert top == (2 if kind.endswith("K") else 3)
    tensor = on_grid(rows, kind, types.dequantize(rows, kind), QuantScheme(8, own.group_size, False))
    np.testing.assert_array_equal(tensor.dequantize(), types.dequantize(rows, kind))


@pytest.mark.parametrize("alone", [True, False])
def test_a_file_keeps_every_integer(tmp_path: Path, alone: bool) -> None:
    path = tmp_path / "g" / "model.gguf"
    write_tiny(
        path, {"ffn_down": "Q8_0", "token_embd": "F16", "attn_v": "F32", "blk": "Q4_0", "output": "Q4_0"}, alone=alone
    )
    made = convert(path, tmp_path / "out", ConvertOptions(formats=("onnx", "openvino")))
    original = random_weights(tiny_config(**TINY))
    for folder in made.folders:
        weights = read_weights(folder)
        for name, weight in original.items():
            if isinstance(tensor := weights[name], QTensor):
                kind = package.GGMLQuantizationType["Q8_0" if "down_proj" in name else "Q4_0"]
                expected = package.quants.dequantize(package.quants.quantize(weight, kind), kind)
                np.testing.assert_array_equal(tensor.dequantize(), expected)
    schemes = {record.name: (record.bits, record.group_size) for record in made.manifests[0].weights}
    assert schemes["lm_head.weight"] == (4, 32)
    assert schemes["model.layers.0.mlp.down_proj.weight"] == (8, 32)
    assert schemes["model.embed_tokens.weight"] == (16, 0)
    manifest = made.manifests[0]
    assert (manifest.source_way, manifest.source_name) == ("keep", "model.gguf")
    assert {entry.type: entry.relative_error for entry in manifest.source_types} == {
        "F16": 0, "F32": 0, "Q4_0": 0, "Q8_0": 0,
    }  # fmt: skip
    if alone:
        assert (made.folders[0] / "tokenizer.json").is_file()
        assert manifest.model_type == "llama"


def test_what_no_grid_holds_takes_the_nearest_and_says_how_far(tmp_path: Path) -> None:
    path = tmp_path / "g" / "model.gguf"
    write_tiny(path, {"ffn_up": "Q4_1", "ffn_gate": "Q5_1", "blk": "Q5_0"})
    made = convert(path, tmp_path / "out", ConvertOptions(formats=("openvino",)))
    types_ = {entry.type: entry for entry in made.manifests[0].source_types}
    assert types_["Q5_0"].relative_error == 0
    for kind in ("Q4_1", "Q5_1"):
        assert types_[kind].grid == "8 bits in groups of 32, asymmetric"
        assert 0 < types_[kind].relative_error < 0.003
    by_name = {record.name: record for record in made.manifests[0].weights}
    assert by_name["model.layers.0.mlp.up_proj.weight"].relative_error < 0.003
    assert (
        "Q4_1 became 8 bits in groups of 32, asymmetric (relative error" in (tmp_path / "out" / "README.md").read_text()
    )


def test_native_weights_keep_every_number(tmp_path: Path) -> None:
    path = tmp_path / "g" / "model.gguf"
    write_tiny(path, {"ffn_up": "Q4_1", "ffn_gate": "Q5_1", "blk": "Q4_0"})
    made = convert(path, tmp_path / "out", ConvertOptions(formats=("openvino", "onnx"), native_weights=True))
    assert all(entry.relative_error == 0 for entry in made.manifests[0].source_types)
    original = random_weights(tiny_config(**TINY))["model.layers.0.mlp.up_proj.weight"]
    kind = package.GGMLQuantizationType.Q4_1
    expected = package.quants.dequantize(package.quants.quantize(original, kind), kind)
    for folder in made.folders:
        manifest = read_manifest(folder)
        reader = open_reader(manifest.format, folder, {record.name: record for record in manifest.weights})
        tensor: Any = reader.read("model.layers.0.mlp.up_proj.weight")
        np.testing.assert_array_equal(tensor.dequantize(), expected)


@pytest.mark.parametrize("recipe", ["rtn", "light"])
def test_a_recipe_starts_from_the_floats(tmp_path: Path, recipe: str) -> None:
    path = tmp_path / "g" / "model.gguf"
    write_tiny(path, "Q4_0")
    options = ConvertOptions(formats=("onnx",), recipe=recipe, iters=2 if recipe == "light" else None, bits=8, group_size=32,
                             nsamples=8 if recipe == "light" else None, seqlen=16 if recipe == "light" else None)  # fmt: skip
    made = convert(path, tmp_path / "out", options)
    manifest = made.manifests[0]
    assert (manifest.source_way, manifest.source_method, manifest.source_types) == ("retune", "", ())
    assert {record.bits for record in manifest.weights if record.group_size} == {8}
    assert bool(manifest.blocks) == (recipe == "light")


def test_options_of_tuning_name_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "g" / "model.gguf"
    write_tiny(path, "Q4_0")
    with pytest.raises(UsageError, match="iters is given") as caught:
        convert(path, tmp_path / "out", ConvertOptions(iters=5))
    assert (
        caught.value.hint
        == "leave it out; or --recipe default, which tunes the numbers that the file's integers stand for"
    )


@pytest.mark.parametrize("format_name", ["compressed-tensors", "openvino"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_file_without_a_head_is_tied_whatever_config_json_says(tmp_path: Path, format_name: str, alone: bool) -> None:
    """Verification opens the written folder from its own config.json, which must then say so too."""
    path = tmp_path / "g" / "model.gguf"
    write_tiny(path, {"token_embd": "F16", "blk": "Q4_0"}, alone=alone, tie_word_embeddings=True)
    if not alone:
        config = json.loads((path.parent / "config.json").read_text())
        (path.parent / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    made = convert(path, tmp_path / "out", ConvertOptions(formats=(format_name,)))
    assert "lm_head.weight" not in {record.name for record in made.manifests[0].weights}


@pytest.mark.parametrize(("key", "value", "words"), [
    ("num_key_value_heads", 4, r"`num_key_value_heads` is 4; `model.gguf` says 2 \(`llama.attention.head_count_kv`\)"),
    ("rms_norm_eps", 1e-6, r"`rms_norm_eps` is 1e-06; `model.gguf` says 1e-05"),
    ("rope_parameters", {"rope_theta": 5e5}, r"`rope_theta` is 500000.0; `model.gguf` says 10000.0"),
    ("model_type", "qwen2", r"is of model_type `qwen2`; `model.gguf` is of architecture `llama`"),
])  # fmt: skip
def test_a_config_json_that_contradicts_the_file(tmp_path: Path, key: str, value: Any, words: str) -> None:
    path = tmp_path / "g" / "model.gguf"
    config = write_tiny(path, alone=False)
    (path.parent / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(CheckpointError, match=words):
        open_source(path)


def test_a_config_json_of_a_few_words_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "g" / "model.gguf"
    write_tiny(path)
    (path.parent / "config.json").write_text('{"model_type": "mistral"}')
    assert open_source(path).config["model_type"] == "llama"


def test_parts_of_a_split_file(tmp_path: Path) -> None:
    path = tmp_path / "g" / "model.gguf"
    write_tiny(path)
    whole = open_source(path)
    parts = split(path, 3)
    path.unlink()
    for part in (parts[0], parts[2], path.parent):
        source = open_source(part)
        assert {name: info.kind for name, info in source.tensors.items()} == {
            name: info.kind for name, info in whole.tensors.items()
        }
    made = convert(parts[0], tmp_path / "out", ConvertOptions(formats=("onnx",)))
    assert set(made.manifests[0].source_files) == {*(part.name for part in parts), "config.json"}
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003.gguf` is missing"):
        open_source(parts[0])


def split(path: Path, count: int) -> list[Path]:
    """The file in `count` parts, as llama-gguf-split writes them: all metadata in the first."""
    reader = package.GGUFReader(path)
    parts = [path.with_name(f"{path.stem}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    for number, part in enumerate(parts):
        writer = package.GGUFWriter(part, "llama")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for field in reader.fields.values() if not number else ():
            if not field.name.startswith("GGUF.") and field.name != "general.architecture":
                writer.add_key_value(
                    field.name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None
                )
        for tensor in reader.tensors[number::count]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return parts


def test_several_files_of_a_folder_must_be_named(tmp_path: Path) -> None:
    path = tmp_path / "g" / "model.gguf"
    write_tiny(path)
    (path.parent / "mmproj-model.gguf").write_bytes(b"GGUF")
    assert open_source(path.parent).folder.is_dir()
    (path.parent / "other.gguf").write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match="has 2 GGUF files"):
        open_source(path.parent)


@pytest.mark.parametrize(("changes", "words"), [
    ({"general.architecture": "mamba"}, "architecture `mamba`, which no family of ovround computes"),
    ({"general.architecture": "clip"}, "is the projector of a multimodal model's images, not a model"),
])  # fmt: skip
def test_another_architecture(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    writer = package.GGUFWriter(tmp_path / "m.gguf", changes["general.architecture"])
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=words) as caught:
        open_source(tmp_path / "m.gguf")
    assert ("known: " if "mamba" in words else "the file of its text model") in str(caught.value.hint)


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "g" / "model.gguf"
    write_tiny(path)
    source = open_source(path)
    info = source.tensors["blk.1.ffn_up.weight"]
    content = bytearray(path.read_bytes())
    content[info.offset : info.offset + 2] = b"\x00\x7c"  # an infinite scale
    path.write_bytes(content)
    with pytest.raises(TensorError, match=r"`blk.1.ffn_up.weight` holds NaN or infinity"):
        convert(path, tmp_path / "out", ConvertOptions(formats=("onnx",)))
    assert not (tmp_path / "out").exists()


def test_a_missing_and_a_foreign_tensor(tmp_path: Path) -> None:
    path = tmp_path / "g" / "model.gguf"
    write_tiny(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_xx.weight"))
    with pytest.raises(TensorError, match=r"has no tensor `blk.1.ffn_up.weight`"):
        convert(path, tmp_path / "out", ConvertOptions(formats=("onnx",)))


def test_quantisations_of_a_repository() -> None:
    files = [
        "README.md", "model-Q4_K_M.gguf", "model-Q4_K_S.gguf", "model.Q8_0.gguf", "mmproj-model-f16.gguf",
        "BF16/model-BF16-00001-of-00002.gguf", "BF16/model-BF16-00002-of-00002.gguf",
    ]  # fmt: skip
    assert parts_of_tag(files, "org/m", "Q4_K_M") == ["model-Q4_K_M.gguf"]
    assert parts_of_tag(files, "org/m", "q8_0") == ["model.Q8_0.gguf"]
    assert parts_of_tag(files, "org/m", "bf16") == files[-2:]
    assert parts_of_tag(files, "org/m", "model-Q4_K_S.gguf") == ["model-Q4_K_S.gguf"]
    with pytest.raises(CheckpointError, match="`org/m` has no `Q6_K`") as caught:
        parts_of_tag(files, "org/m", "Q6_K")
    assert caught.value.hint == "there are: BF16, Q4_K_M, Q4_K_S, Q8_0"
    with pytest.raises(CheckpointError, match="has no GGUF file"):
        parts_of_tag(["model.safetensors"], "org/m", "Q6_K")


def test_a_name_of_the_hub(tmp_path: Path) -> None:
    write_tiny(tmp_path / "repository" / "tiny-Q4_0.gguf")
    write_tiny(tmp_path / "repository" / "tiny-Q8_0.gguf", "Q8_0")
    with HubServer({"org/tiny-GGUF": tmp_path / "repository"}) as hub:
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= hub.environment(tmp_path / "home")

        def located(name: str) -> str:
            code = f"from ovround.checkpoint import locate; print(locate({name!r}))"
            made = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
            )
            return made.stdout.strip() or made.stderr

        path = Path(located("hf.co/org/tiny-GGUF:Q8_0"))
        assert path.name == "tiny-Q8_0.gguf"
        assert {info.kind for info in open_source(path).tensors.values()} == {"F32", "Q8_0"}
        assert "`org/tiny-GGUF` has GGUF files alone: Q4_0, Q8_0" in located("org/tiny-GGUF")
        assert "has no `Q2_K`" in located("org/tiny-GGUF:Q2_K")


def test_traps_of_other_readers(tmp_path: Path) -> None:
    path = tmp_path / "g" / "model.gguf"
    write_tiny(path, {"ffn_up": "Q4_1", "ffn_gate": "Q5_1", "blk": "Q4_0"})
    found = {finding.rule for finding in check_folder(path)}
    assert {"gguf-minimum", "gguf-expanded"} <= found
