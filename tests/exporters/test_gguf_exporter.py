"""`--format gguf`: grids and their types, the tokenizer, what a source in the format keeps, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_writer import TEMPLATE, random_weights, tiny_config, write_checkpoint, write_tokenizer
from gguf_blocks import random_blocks
from gguf_model import logits
from llama_cpp import llama_cpp

from ovround.artifact.manifest import read_manifest
from ovround.checkpoint.gguf.affine_blocks import affine_tensor
from ovround.conversion.convert import convert
from ovround.conversion.preparation import prepare
from ovround.errors import UsageError
from ovround.exporters.exporter import Weight
from ovround.exporters.formats import open_reader
from ovround.exporters.gguf.package import FILE, GgufExporter
from ovround.models import from_config
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.tensors.affine_tensor import AffineTensor
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

package = pytest.importorskip("gguf")
PLAIN = {"attention_bias": False, "mlp_bias": False}
BLOCK_TYPES = ("Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


def options(**changes: Any) -> ConvertOptions:
    return ConvertOptions(formats=("gguf",), recipe="rtn", **changes)


def in_file(folder: Path) -> dict[str, Any]:
    """The tensors of a written file, by llama.cpp's names, as the gguf package reads them."""
    return {tensor.name: tensor for tensor in package.GGUFReader(folder / FILE).tensors}


def values(tensor: Any) -> np.ndarray:
    """The numbers that a tensor of a file stands for, by the gguf package's arithmetic."""
    found: np.ndarray = package.quants.dequantize(tensor.data, tensor.tensor_type)
    return found


def weights_of(folder: Path) -> dict[str, Weight]:
    """Every weight as it was handed to the exporter."""
    records = {record.name: record for record in read_manifest(folder).weights}
    reader = open_reader("gguf", folder, records)
    return {name: reader.read(name) for name in records}


@pytest.mark.parametrize(
    ("changes", "kind", "embedding"),
    [
        ({}, "Q4_0", "Q8_0"), ({"bits": 3}, "Q4_0", "Q8_0"), ({"bits": 2, "group_size": -1}, "Q4_0", "Q8_0"),
        ({"bits": 8, "group_size": -1}, "Q8_0", "Q8_0"), ({"sym": False}, "Q4_1", "Q8_0"),
        ({"bits": 16}, "F32", "F32"), ({"embedding_bits": 4, "lm_head_bits": 16}, "Q4_0", "Q4_0"),
    ],
)  # fmt: skip
def test_grids_and_their_types(
    changes: dict[str, Any], kind: str, embedding: str, tiny_source: Path, tmp_path: Path
) -> None:
    """The package's numbers are ours bit for bit; a minimum of Q4_1 alone is rounded to float16."""
    folder = convert(tiny_source, tmp_path / "out", options(**changes)).folders[0]
    tensors, ours = in_file(folder), weights_of(folder)
    for name, ours_at in (("ffn_up", "mlp.up_proj"), ("attn_output", "self_attn.o_proj")):
        tensor, weight = tensors[f"blk.1.{name}.weight"], ours[f"model.layers.1.{ours_at}.weight"]
        assert tensor.tensor_type.name == kind
        expected = weight.float32() if isinstance(weight, FloatTensor) else weight.dequantize()  # type: ignore[union-attr]
        steps = 0.0
        if kind == "Q4_1":
            assert isinstance(weight, QTensor)
            steps = float(np.abs(weight.scales).max()) * 15 / 2048
        np.testing.assert_allclose(values(tensor), expected, rtol=0, atol=steps)
    assert tensors["token_embd.weight"].tensor_type.name == embedding
    assert tensors["output_norm.weight"].tensor_type.name == "F32"


def test_groups_are_the_blocks_of_the_format(tiny_source: Path, tmp_path: Path) -> None:
    manifest = convert(tiny_source, tmp_path / "out", options()).manifests[0]
    assert {weight.group_size for weight in manifest.weights} == {0, 32}


def test_bfloat16_stays_what_it_is(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", dtype="BF16")
    folder = convert(source, tmp_path / "out", options(bits=16)).folders[0]
    kinds = {name: tensor.tensor_type.name for name, tensor in in_file(folder).items()}
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == "BF16"
    assert kinds["blk.0.attn_norm.weight"] == kinds["blk.0.attn_q.bias"] == "F32"


def test_tokenizer_and_template_are_inside(tiny_source: Path, tmp_path: Path) -> None:
    folder = convert(tiny_source, tmp_path / "out", options()).folders[0]
    fields = package.GGUFReader(folder / FILE).fields
    assert fields["tokenizer.chat_template"].contents() == TEMPLATE
    vocabulary = json.loads((tiny_source / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert all(tokens[index] == token for token, index in vocabulary.items())
    assert fields["general.file_type"].contents() == 2  # mostly Q4_0


def test_the_same_bytes_every_time(tiny_source: Path, tmp_path: Path) -> None:
    files = [convert(tiny_source, tmp_path / name, options()).folders[0] / FILE for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not list((tmp_path / "a").glob("*.partial"))


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_blocks_of_a_source_are_kept(kind: str, tmp_path: Path) -> None:
    """A file of the type through `convert` to the same format: every tensor byte for byte."""
    config = tiny_config(hidden_size=256, intermediate_size=256, head_dim=64, num_key_value_heads=4, **PLAIN)
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    write_tokenizer(source)
    (tmp_path / "first").mkdir()
    exporter = GgufExporter(tmp_path / "first", from_config(config), source, config)
    for number, (name, floats) in enumerate(random_weights(config).items()):
        weight: AffineTensor | FloatTensor = FloatTensor(floats, "float32")
        if floats.ndim == 2:
            weight = affine_tensor(random_blocks(kind, (floats.shape[0], floats.shape[1]), seed=number), kind)
        exporter.write(name, weight)
    exporter.finish()
    exporter.close()
    kept = convert(tmp_path / "first" / FILE, tmp_path / "kept", ConvertOptions(formats=("gguf",))).folders[0]
    first, second = in_file(tmp_path / "first"), in_file(kept)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.tensor_type == second[name].tensor_type
        np.testing.assert_array_equal(tensor.data, second[name].data, err_msg=name)
    assert first["blk.0.ffn_up.weight"].tensor_type.name == kind


def test_q4_0_and_q8_0_are_kept(tiny_source: Path, tmp_path: Path) -> None:
    first = convert(tiny_source, tmp_path / "first", options()).folders[0]
    second = convert(first / FILE, tmp_path / "second", ConvertOptions(formats=("gguf",))).folders[0]
    kept, tensors = in_file(second), in_file(first)
    for name, tensor in tensors.items():
        assert tensor.tensor_type == kept[name].tensor_type
        np.testing.assert_array_equal(tensor.data, kept[name].data, err_msg=name)


@pytest.mark.parametrize(
    ("config", "changes", "words", "hint"),
    [
        ({"intermediate_size": 80}, {}, "rows of 80", "down_proj=bits:16"),
        ({}, {"group_size": 16}, "groups of 16", "--group-size 32"),
        ({}, {"bits": 8, "sym": False}, "8 bits with zero points", "leave out --asym"),
        ({}, {"layers": (LayerRule("up_proj", bits=8, sym=False),)}, "8 bits with zero points", "--asym"),
        ({"hidden_act": "relu"}, {}, "activation relu", "openvino"),
    ],
)  # fmt: skip
def test_refused_before_the_work(
    config: dict[str, Any], changes: dict[str, Any], words: str, hint: str, tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "source", tiny_config(**config))
    with pytest.raises(UsageError, match=words) as raised:
        prepare(str(source), tmp_path / "out", options(**changes))
    assert hint in str(raised.value.hint)
    assert not (tmp_path / "out").exists()


def test_the_hint_for_odd_rows_works(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", tiny_config(intermediate_size=80))
    folder = convert(source, tmp_path / "out", options(layers=(LayerRule.parse("down_proj=bits:16"),))).folders[0]
    assert in_file(folder)["blk.0.ffn_down.weight"].tensor_type.name == "F32"


def test_llama_cpp_answers_as_we_do(tmp_path: Path) -> None:
    """Tokens are equal. Q4_0 meets activations that llama.cpp rounds to 8 bits a block; the same weights in float32 do not."""
    config = tiny_config(**PLAIN)
    source = write_checkpoint(tmp_path / "source", config)
    folder = convert(source, tmp_path / "out", options()).folders[0]
    numbers = {
        name: weight.float32() if isinstance(weight, FloatTensor) else weight.dequantize()  # type: ignore[union-attr]
        for name, weight in weights_of(folder).items()
    }
    ids = [int(token) for token in np.random.default_rng(0).integers(5, 320, 24)]
    texts = ["once upon a time", " the  cat\n\nsat 123 on", "<|user|>hi</s>"]
    theirs, tokens = llama_cpp(folder / FILE, ids, texts)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokens == [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    ours = logits(config, numbers, ids)
    spread = np.sqrt(np.mean(ours**2))
    assert np.sqrt(np.mean((theirs - ours) ** 2)) < 0.05 * spread
    (tmp_path / "floats").mkdir()
    exporter = GgufExporter(tmp_path / "floats", from_config(config), source, config)
    for name, weight in numbers.items():
        exporter.write(name, FloatTensor(weight, "float32"))
    exporter.finish()
    exporter.close()
    exact, _ = llama_cpp(tmp_path / "floats" / FILE, ids)
    assert np.sqrt(np.mean((exact - ours) ** 2)) < 1e-3 * spread
