"""Damaged weights: hostile headers, missing shards, tensors with wrong shapes or values that are not finite.

`convert` refuses each in one or two lines, before it imports torch and before it writes a byte.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoint_writer import (
    in_bytes,
    random_weights,
    tiny_config,
    write_checkpoint,
    write_raw_safetensors,
    write_safetensors,
)
from command_server import CommandServer
from damaged_checkpoint import Case

pytestmark = pytest.mark.slow

# safetensors headers


GOOD = '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
AT_4, AT_8, AT_12 = (GOOD.replace("[0, 8]", f"[{at}, {at + 8}]") for at in (4, 8, 12))
HEADERS: dict[str, tuple[str, int, int | None]] = {
    # header, bytes of data, claimed header length
    "a header longer than the file": (f'{{"a": {GOOD}}}', 8, 1 << 20),
    "a header of 2^63 bytes": (f'{{"a": {GOOD}}}', 8, 1 << 63),
    "a header beyond 100 MB": (f'{{"a": {GOOD}}}', 8, 200_000_000),
    "no JSON": ("not json at all", 8, None),
    "a list": ("[1, 2]", 8, None),
    "cut off": ('{"a": {"dtype": "F32", "shape": [2], "data_off', 8, None),
    "nested without end": ('{"a": ' + "[" * 100_000 + "}", 8, None),
    "overlapping tensors": (f'{{"a": {GOOD}, "b": {AT_4}}}', 12, None),
    "the same bytes twice": (f'{{"a": {GOOD}, "b": {GOOD}}}', 8, None),
    "a hole": (f'{{"a": {GOOD}, "b": {AT_12}}}', 20, None),
    "data after the last tensor": (f'{{"a": {GOOD}}}', 16, None),
    "data missing": (f'{{"a": {GOOD}}}', 4, None),
    "a negative size": (f'{{"a": {GOOD}}}'.replace("[2]", "[-2]"), 8, None),
    "a size that overflows": (f'{{"a": {GOOD}}}'.replace("[2]", "[4611686018427387906]"), 8, None),
    "a product that overflows": (f'{{"a": {GOOD}}}'.replace("[2]", "[4294967297, 4294967296, 2]"), 8, None),
    "a size of 10^30": (f'{{"a": {GOOD}}}'.replace("[2]", f"[{10**30}]"), 8, None),
    "a size of 5000 digits": (f'{{"a": {GOOD}}}'.replace("[2]", f"[{'9' * 5000}]"), 8, None),
    "shape against offsets": (f'{{"a": {GOOD}}}'.replace("[2]", "[3]"), 8, None),
    "backward offsets": (f'{{"a": {GOOD}}}'.replace("[0, 8]", "[8, 0]"), 8, None),
    "negative offsets": (f'{{"a": {GOOD}}}'.replace("[0, 8]", "[-8, 0]"), 8, None),
    "a tensor twice": (f'{{"a": {GOOD}, "a": {AT_8}}}', 16, None),
    "an unknown type": (f'{{"a": {GOOD}}}'.replace("F32", "F33"), 8, None),
    "a type that is no text": (f'{{"a": {GOOD}}}'.replace('"F32"', "32"), 8, None),
    "no offsets": ('{"a": {"dtype": "F32", "shape": [2]}}', 8, None),
    "a fractional size": (f'{{"a": {GOOD}}}'.replace("[2]", "[2.5]"), 10, None),
}


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_headers(case: Case, name: str) -> None:
    path = case.model / "model.safetensors"
    header, size, length = HEADERS[name]
    write_raw_safetensors(path, header, bytes(size), length)
    check_header_error(case, path)


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 7, b"\0" * 8, b"\0" * 43, b"GGUF" + bytes(39), b"PK\x03\x04" + bytes(39)]
)
def test_small_files_that_are_something_else(case: Case, content: bytes) -> None:
    path = case.model / "model.safetensors"
    path.write_bytes(content)
    check_header_error(case, path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_a_truncated_file(case: Case, kept: float) -> None:
    path = case.model / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    check_header_error(case, path)


def check_header_error(case: Case, path: Path) -> None:
    result = case.convert()
    first, hint = result.stderr.splitlines()
    assert first.startswith(f"error: `{path}` is no valid safetensors file: ")
    assert len(first) < len(str(path)) + 500, "a long header is not printed"
    assert hint == "hint: the file is damaged: download it again"
    assert (result.status, result.stdout, "torch" in result.modules) == (1, "", False)
    assert list(case.output_root.iterdir()) == []


# Shards


@pytest.fixture
def sharded(case: Case) -> Case:
    shutil.rmtree(case.model)
    write_checkpoint(case.model, shards=2)
    return case


def index(case: Case, content: object) -> Path:
    path = case.model / "model.safetensors.index.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_missing_shard(sharded: Case) -> None:
    shard = sharded.model / "model-00002-of-00002.safetensors"
    shard.unlink()
    sharded.refused(f"shard `{shard}` is missing", "download the checkpoint again")


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/etc/passwd", "sub/model.safetensors", "config.json", "..", ""]
)
def test_an_index_that_points_outside(sharded: Case, name: str) -> None:
    path = index(sharded, {"weight_map": {"model.norm.weight": name}})
    sharded.refused(f"`{path}` points to `{name}`, which is no file of that folder", None)


def test_an_index_without_a_map(sharded: Case) -> None:
    for content in ({}, {"weight_map": {}}, {"weight_map": ["a.safetensors"]}, {"weight_map": None}):
        sharded.refused(f"`{index(sharded, content)}` has no weight_map", None)
    sharded.refused(f"`{index(sharded, '[]')}` holds no JSON object", None)


def test_a_tensor_in_two_shards(sharded: Case) -> None:
    weights = random_weights(tiny_config())
    tensor = ("F32", weights["model.norm.weight"].shape, in_bytes(weights["model.norm.weight"], "F32"))
    write_safetensors(sharded.model / "extra.safetensors", {"model.norm.weight": tensor})
    path = sharded.model / "model.safetensors.index.json"
    document = json.loads(path.read_text())
    document["weight_map"]["another.weight"] = "extra.safetensors"
    path.write_text(json.dumps(document))
    shard = document["weight_map"]["model.norm.weight"]
    sharded.refused(f"tensor `model.norm.weight` is in `extra.safetensors` and in `{shard}`", None)


# Tensors


def test_a_missing_tensor(case: Case) -> None:
    name = "model.layers.1.self_attn.k_proj.bias"
    case.weights(**{name: None})
    hint = "a shard may be missing, or config.json belongs to another model"
    case.refused(f"`{case.model}` has no tensor `{name}`, which its config.json calls for", hint)


def test_an_extra_tensor(case: Case) -> None:
    case.weights(**{"model.layers.0.self_attn.q_norm.weight": np.ones(32, np.float32)})
    case.refused(
        f"`{case.model}` has 1 tensor(s) that its config.json does not call for, such as `model.layers.0.self_attn.q_norm.weight`",
        "model_type `llama` has no such tensor here: this variant is not supported, or config.json is not that of these weights",
    )


def test_a_buffer_that_transformers_used_to_save_is_no_extra_tensor(case: Case, loaded_command: CommandServer) -> None:
    case.weights(**{"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(16, np.float32)})
    assert case.convert("--recipe", "rtn", by=loaded_command).status == 0


def test_a_tensor_of_another_shape(case: Case) -> None:
    case.weights(**{"model.layers.0.mlp.up_proj.weight": np.zeros((96, 63), np.float32)})
    case.refused(
        "tensor `model.layers.0.mlp.up_proj.weight` has shape [96, 63]; its config.json calls for [96, 64]",
        "config.json belongs to another model",
    )


@pytest.mark.parametrize(("dtype", "width"), [("I32", 4), ("I8", 1), ("F8_E4M3", 1), ("BOOL", 1)])
def test_a_tensor_of_another_type(case: Case, dtype: str, width: int) -> None:
    weights = random_weights(tiny_config())
    tensors = {name: ("F32", values.shape, in_bytes(values, "F32")) for name, values in weights.items()}
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = (dtype, (96, 64), bytes(96 * 64 * width))
    write_safetensors(case.model / "model.safetensors", tensors)
    case.refused(
        f"tensor `{name}` is {dtype}; F32, F16, BF16, F64 can be read",
        "config.json says nothing of a quantisation that would explain this: start from the original checkpoint",
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_values_that_are_not_finite(case: Case, dtype: str, value: float, name: str) -> None:
    weights = random_weights(tiny_config())
    weights[name].reshape(-1)[-1] = value
    case.weights(dtype, **{name: weights[name]})
    path = case.model / "model.safetensors"
    case.refused(f"`{name}` in `{path}` holds NaN or infinity", "the checkpoint is damaged: get it again")


def test_the_largest_finite_values_are_not_taken_for_infinity(case: Case, loaded_command: CommandServer) -> None:
    weights = random_weights(tiny_config())
    weights["model.norm.weight"][:2] = [65504, -65504]
    case.weights("F16", **{"model.norm.weight": weights["model.norm.weight"]})
    assert case.convert("--recipe", "rtn", by=loaded_command).status == 0


def test_a_scale_that_overflows(case: Case, loaded_command: CommandServer) -> None:
    """In a format of float16 scales. The error appears only when the weight is rounded; then nothing is kept either."""
    name = "model.layers.1.mlp.up_proj"
    case.weights(**{f"{name}.weight": np.full((96, 64), 1e7, np.float32)})
    asked = ("--recipe", "rtn", "--bits", "2", "--format", "gptq")
    result = case.convert(*asked, "--quiet", by=loaded_command)
    assert result.stderr.splitlines() == [
        f"error: `{name}.weight` has values so large that a float16 scale overflows",
        f"hint: --layer '{name}=bits:16' leaves it in float",
    ]
    assert (result.status, result.stdout, list(case.output_root.iterdir())) == (1, "", [])
    again = case.convert(*asked, "--layer", f"{name}=bits:16", by=loaded_command)
    assert again.status == 0
