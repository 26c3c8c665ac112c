"""Every checkpoint format against itself: golden words, and random weights written and read back, alone and as whole folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_writer import tiny_config, write_checkpoint
from converted_weights import as_torch, read_weights
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from quantised_folder import MODULE, quantised_folder, rewrite

from ovround.artifact.manifest import CHECKPOINT_FORMATS, CODEBOOK_FORMATS
from ovround.checkpoint import open_source, quantised
from ovround.checkpoint.quantised import QuantisedCheckpoint, methods
from ovround.conversion.convert import convert
from ovround.errors import CheckpointError, OvroundError, TensorError, UsageError
from ovround.exporters.checkpoints import open_format
from ovround.exporters.checkpoints.aqlm import encode_codebooks
from ovround.exporters.checkpoints.layout import scheme_of
from ovround.exporters.checkpoints.shards import ShardWriter
from ovround.models import from_config
from ovround.models.torch_ops import TorchOps
from ovround.options.budget import Budget
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.runtime.engines import open_engine
from ovround.tensors.codebook_tensor import CodebookTensor
from ovround.tensors.packing import AWQ_ORDER, pack_awq, pack_words, unpack_awq, unpack_words
from ovround.tensors.qtensor import BITS, QTensor
from ovround.tensors.reexpression import restored, split, widened, with_zero_points
from ovround.tensors.scheme import QuantScheme

GRID_FORMATS = [name for name in CHECKPOINT_FORMATS if name not in CODEBOOK_FORMATS]
TOLERANCE = 1e-5  # float32 sums in another order; a nibble moves the output by 1e-3 (tests/test_parity.py)


def reader_of(config: Mapping[str, Any]) -> Any:
    return quantised.open_format(config["quant_method"], config)


# Words


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(BITS), st.integers(1, 70), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_words_are_streams(bits: int, columns: int, rows: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, columns), dtype=np.uint8)
    packed = pack_words(codes, bits)
    for row, words in zip(codes, packed, strict=True):
        stream = sum((int(word) & 0xFFFFFFFF) << (32 * index) for index, word in enumerate(words))
        assert stream == sum(int(code) << (bits * index) for index, code in enumerate(row))
    np.testing.assert_array_equal(unpack_words(packed, bits, columns), codes)
    nibbles = codes & np.uint8(15)
    np.testing.assert_array_equal(unpack_awq(pack_awq(nibbles), columns), nibbles)


def as_hex(words: NDArray[np.int32]) -> str:
    return " ".join(f"{int(word) & 0xFFFFFFFF:08x}" for word in words.reshape(-1))


def test_golden_words() -> None:
    ramp = np.arange(8, dtype=np.uint8)[None]
    assert as_hex(pack_words(ramp, 4)) == "76543210"
    assert as_hex(pack_words(ramp, 8)) == "03020100 07060504"
    assert as_hex(pack_words(np.tile(ramp % 4, 2), 2)) == "e4e4e4e4"
    # 32 codes of 3 bits in three words: code 10 lies across the first two (AutoGPTQ)
    codes = np.zeros((1, 32), np.uint8)
    codes[0, [0, 10, 21, 31]] = 7
    assert as_hex(pack_words(codes, 3)) == "c0000007 80000001 e0000003"
    assert AWQ_ORDER == (0, 2, 4, 6, 1, 3, 5, 7)
    assert as_hex(pack_awq(ramp)) == "75316420"  # AutoAWQ: outputs 0, 2, 4, 6, 1, 3, 5, 7 from the lowest nibble on


def small(bits: int, zero_points: list[int] | None) -> QTensor:
    """Codes 0, 1, 2 ... of two outputs and 32 inputs, one group, scales 0.5 and -2."""
    codes = (np.arange(64, dtype=np.uint8).reshape(2, 32)) % (1 << bits)
    zeros = None if zero_points is None else np.array(zero_points, np.uint8)[:, None]
    return QTensor(codes.astype(np.uint8), np.array([[0.5], [-2]], np.float16), zeros, bits)


@pytest.mark.parametrize(
    ("name", "zero_points", "config", "golden"),
    [
        ("gptq", None, {"checkpoint_format": "gptq"}, ("76543210 76543210", "00000077")),
        ("gptq", [3, 15], {"checkpoint_format": "gptq"}, ("76543210 76543210", "000000e2")),
        ("gptq", [0, 15], {"checkpoint_format": "gptq_v2"}, ("76543210 76543210", "000000f0")),
        ("auto_round", None, {"packing_format": "auto_round:auto_gptq"}, ("76543210 76543210", "00000077")),
        ("auto_round", [0, 15], {"packing_format": "auto_round:gptqmodel"}, ("76543210 76543210", "000000f0")),
    ],
)
def test_golden_gptq(name: str, zero_points: list[int] | None, config: dict[str, str], golden: tuple[str, str]) -> None:
    tensor = small(4, zero_points)
    plan = {MODULE: scheme_of(tensor)}
    writer = open_format(name, plan, {f"{MODULE}.weight": (32, 32)})
    parts = dict(writer.encode(MODULE, tensor)) | {name.rpartition(".")[2]: data for name, data in writer.rest()}
    assert (as_hex(parts["qweight"][0]), as_hex(parts["qzeros"])) == golden
    assert parts["scales"].tolist() == [[0.5, -2]]
    assert config.items() <= writer.settings(plan, []).items()


def test_golden_awq_olive_and_compressed_tensors() -> None:
    codes = np.tile(np.arange(16, dtype=np.uint8), (8, 1))
    tensor = QTensor(codes, np.full((8, 1), 0.5, np.float16), np.arange(8, dtype=np.uint8)[:, None], 4)
    shapes = {f"{MODULE}.weight": (32, 32)}
    plan: dict[str, QuantScheme | None] = {MODULE: QuantScheme(4, 16, False)}
    awq = open_format("awq", plan, shapes).encode(MODULE, tensor)
    assert (as_hex(awq["qweight"][3]), as_hex(awq["qzeros"])) == ("33333333", "75316420")
    olive = open_format("olive", plan, shapes).encode(MODULE, tensor)
    assert olive["qweight"][0].tobytes().hex(" ") == "10 32 54 76 98 ba dc fe"
    assert olive["qzeros"].tolist() == [[index] for index in range(8)]
    ct = open_format("compressed-tensors", plan, shapes).encode(MODULE, tensor)
    assert (as_hex(ct["weight_packed"][0]), as_hex(ct["weight_zero_point"])) == ("76543210 fedcba98", "76543210")
    assert ct["weight_shape"].tolist() == [8, 16]


def test_golden_aqlm() -> None:
    """Two outputs of four inputs, two codebooks of 3 bits for vectors of 2: codes from half on are negative, tensors as they lie."""
    codes = np.array([[[0, 3], [4, 7]], [[5, 1], [2, 6]]], np.uint16)
    codebooks = np.arange(32, dtype=np.float16).reshape(2, 8, 1, 2)
    parts = encode_codebooks(CodebookTensor(codes, codebooks, np.array([0.5, 2], np.float16)))
    assert parts["codes"].dtype == np.int8
    assert parts["codes"].tolist() == [[[0, 3], [-4, -1]], [[-3, 1], [2, -2]]]
    assert parts["codebooks"].tobytes() == codebooks.tobytes()
    assert (parts["scales"].shape, parts["scales"].ravel().tolist()) == ((2, 1, 1, 1), [0.5, 2.0])


# Random weights, one at a time


@st.composite
def weights(draw: st.DrawFn, *, words: bool) -> QTensor:
    """Any bits, group and symmetry; sizes that 32 divides when `words`, any otherwise; the full range, scales of both signs."""
    bits, group = draw(st.sampled_from(BITS)), draw(st.sampled_from((16, 32, 64)))
    rows = 32 * draw(st.integers(1, 2)) if words else draw(st.integers(1, 21))
    whole = draw(st.booleans())
    columns = 32 * draw(st.integers(1, 3)) if whole else np.lcm(group, 32) * draw(st.integers(1, 2))
    if not words:
        columns = 16 * draw(st.integers(1, 5)) if whole else group * draw(st.integers(1, 3))
    groups = 1 if whole else columns // group
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return QTensor(
        rng.integers(0, 1 << bits, (rows, columns), dtype=np.uint8),
        rng.standard_normal((rows, groups)).astype(np.float16),
        None if draw(st.booleans()) else rng.integers(0, 1 << bits, (rows, groups), dtype=np.uint8),
        bits,
        rng.permutation(columns).astype(np.int32) if draw(st.booleans()) else None,
    )


@pytest.mark.parametrize("name", GRID_FORMATS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_what_is_written_is_read(name: str, data: st.DataObject) -> None:
    tensor = data.draw(weights(words=name in ("auto_round", "gptq", "awq")))
    plan, shapes = {MODULE: scheme_of(tensor)}, {f"{MODULE}.weight": tensor.shape}
    if name == "awq" and tensor.bits == 8:
        with pytest.raises(UsageError, match="awq has 4 bits"):
            open_format(name, plan, shapes)
        return
    writer = open_format(name, plan, shapes)
    stored = writer.stored(tensor)
    np.testing.assert_array_equal(stored.dequantize(), tensor.dequantize(), strict=True)
    if tensor.order is not None and name not in ("gptq", "compressed-tensors"):
        with pytest.raises(UsageError, match="activation order"):
            writer.encode(MODULE, stored)
        return
    arrays = dict(writer.encode(MODULE, stored)) | {name.rpartition(".")[2]: rest for name, rest in writer.rest()}
    reader = reader_of(writer.settings({MODULE: scheme_of(stored)}, []))
    parts = reader.parts(MODULE, tensor.shape)
    types = {"I32": np.int32, "U8": np.uint8, "F16": np.float16, "I64": np.int64}
    for suffix, part in parts.items():
        if suffix in arrays or not part.optional:
            assert arrays[suffix].shape == part.shape
            assert arrays[suffix].dtype in [types.get(kind) for kind in part.dtypes]
    back = reader.decode(MODULE, tensor.shape, arrays)
    np.testing.assert_array_equal(back.dequantize().view(np.uint32), tensor.dequantize().view(np.uint32))
    again = restored(back, tensor.bits, tensor.group_size, tensor.symmetric)
    if tensor.order is None:
        assert again.digest() == tensor.digest()


@settings(deadline=None, max_examples=60)
@given(weights(words=False), st.sampled_from((3, 4, 8)), st.sampled_from((1, 2, 4)))
def test_another_container_holds_the_same_values(tensor: QTensor, bits: int, parts: int) -> None:
    bits = max(bits, tensor.bits)
    other = with_zero_points(split(widened(tensor, bits), tensor.group_size // parts))
    np.testing.assert_array_equal(other.dequantize().view(np.uint32), tensor.dequantize().view(np.uint32))
    assert restored(other, tensor.bits, tensor.group_size, tensor.symmetric).digest() == tensor.digest()
    other.scales[0, 0] += 1
    if parts > 1:
        with pytest.raises(ValueError, match="parts of one group"):
            restored(other, tensor.bits, tensor.group_size, tensor.symmetric)


# Whole folders


def options(name: str, **changes: Any) -> ConvertOptions:
    return ConvertOptions(**{"formats": (name,), "recipe": "rtn", "group_size": 32, **changes})


@pytest.mark.parametrize("name", GRID_FORMATS)
@pytest.mark.parametrize("sym", [True, False])
def test_a_folder_of_mixed_grids_round_trips(tmp_path: Path, tiny_source: Path, name: str, sym: bool) -> None:
    """Tuned once, written, and emitted for both engines and for every other format that holds it."""
    rules = (LayerRule("1.mlp.up_proj", bits=16), LayerRule("0.mlp.gate_proj", group_size=-1))
    head = () if name == "awq" else (("lm_head_bits", 4),)
    if name == "awq":
        rules = rules[:1]
    made = convert(tiny_source, tmp_path / "q", options(name, sym=sym, layers=rules, **dict(head)))
    first = {record.name: record.sha256 for record in made.manifests[0].weights}
    again = convert(tmp_path / "q", tmp_path / "out", ConvertOptions(formats=("openvino", "onnx")))
    weights = {name: as_torch(read_weights(folder)) for name, folder in zip(("a", "b"), again.folders, strict=True)}
    for tensor in weights["a"]:
        np.testing.assert_array_equal(weights["a"][tensor], weights["b"][tensor])
    if name not in ("awq",) or not sym:
        assert {record.name: record.sha256 for record in again.manifests[0].weights} == first
    config = json.loads((tmp_path / "q" / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] in methods()
    assert "quantization_config" not in json.loads((again.folders[0] / "config.json").read_text())
    assert again.manifests[0].source_method == config["quantization_config"]["quant_method"]


def test_records_of_tuning_travel_along(tmp_path: Path, tiny_source: Path, text_file: Path) -> None:
    tuned = ConvertOptions(
        formats=("auto_round",), group_size=32, iters=2, nsamples=8, seqlen=32, calibration=(text_file,)
    )
    made = convert(tiny_source, tmp_path / "q", tuned).manifests[0]
    emitted = convert(tmp_path / "q", tmp_path / "out", ConvertOptions(formats=("onnx",))).manifests[0]
    assert emitted.blocks == made.blocks != ()
    assert emitted.quality == made.quality is not None
    assert [(record.name, record.sha256) for record in emitted.weights] == [
        (record.name, record.sha256) for record in made.weights
    ]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "ovround convert q OUT --format onnx\n" in card


def test_a_float_head_and_embedding_take_bits(tmp_path: Path, tiny_source: Path) -> None:
    convert(tiny_source, tmp_path / "q", options("gptq"))
    asked = ConvertOptions(formats=("onnx",), lm_head_bits=8, embedding_bits=4, group_size=64)
    schemes = {
        record.name: (record.bits, record.group_size)
        for record in convert(tmp_path / "q", tmp_path / "o", asked).manifests[0].weights
    }
    assert (schemes["lm_head.weight"], schemes["model.embed_tokens.weight"]) == ((8, 64), (4, 64))
    assert schemes["model.layers.0.mlp.up_proj.weight"] == (4, 32)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bits": 3}, "bits is 3, yet `model.layers.0.self_attn.q_proj` of"),
        ({"bits": 16}, "bits is 16, yet"),
        ({"group_size": 64}, "group-size is 64, yet"),
        ({"sym": False}, "sym is False, yet"),
        ({"iters": 5}, "iters is given, yet"),
        ({"layers": (LayerRule("up_proj", bits=8),)}, "layer is given, yet"),
        ({"budget": Budget(5.0, "bits")}, "budget is given, yet"),
    ],
)
def test_options_that_contradict_the_source(
    tmp_path: Path, tiny_source: Path, changes: dict[str, Any], said: str
) -> None:
    convert(tiny_source, tmp_path / "q", options("gptq"))
    with pytest.raises(UsageError, match=said):
        convert(tmp_path / "q", tmp_path / "out", ConvertOptions(formats=("onnx",), **changes))
    assert not (tmp_path / "out").exists()


def test_what_a_format_cannot_hold_is_refused_before_tuning(tmp_path: Path, tiny_source: Path) -> None:
    for name, changes, said in (
        ("awq", {"bits": 8}, "awq has 4 bits"),
        ("awq", {"lm_head_bits": 4}, "awq holds no quantised `lm_head`"),
        ("gptq", {"embedding_bits": 8}, "gptq holds no quantised `model.embed_tokens`"),
        ("auto_round", {"budget": Budget(10**6, "bytes")}, "a budget in bytes counts the file of an engine"),
    ):
        with pytest.raises(UsageError, match=said):
            convert(tiny_source, tmp_path / "out", options(name, **changes))
    odd = write_checkpoint(tmp_path / "odd", tiny_config(intermediate_size=80))
    with pytest.raises(
        UsageError, match=r"`model.layers.0.mlp.gate_proj` is \[80, 64\]; gptq needs sizes that 32 divides"
    ):
        convert(odd, tmp_path / "out", options("gptq", group_size=16))
    assert convert(odd, tmp_path / "out", options("compressed-tensors", group_size=16)).folders


def test_shards(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, shard_bytes=100)
    tensors = {f"t{index}": np.arange(index, index + 12, dtype=np.float32) for index in range(5)}
    for name, data in tensors.items():
        writer.write(name, data)
    writer.finish()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)] + ["model.safetensors.index.json"]
    (tmp_path / "config.json").write_text("{}")
    source = open_source(tmp_path)
    for name, data in tensors.items():
        assert source.read(name).data.tolist() == data.tolist()  # type: ignore[call-arg,union-attr]


def test_bfloat16_scales_and_tensors_stay(tmp_path: Path) -> None:
    """bfloat16 scales that float16 holds are read so; where it does not hold one, all of the weight are float32, unrounded."""
    folder = quantised_folder(tmp_path, {})
    rewrite(
        folder,
        f"{MODULE}.scales",
        lambda data: (data.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16),
        "bfloat16",
    )
    source = open_source(folder)
    assert isinstance(source, QuantisedCheckpoint)
    assert isinstance(source.read(f"{MODULE}.weight", (96, 64)), QTensor)
    rewrite(folder, f"{MODULE}.scales", lambda data: np.full(data.shape, 0x3301, np.uint16), "bfloat16")
    wide = open_source(folder).read(f"{MODULE}.weight", (96, 64))  # type: ignore[call-arg]
    assert isinstance(wide, QTensor)
    assert (wide.scales.dtype, wide.scale_bits) == (np.float32, 32)
    assert set(wide.scales.ravel().tolist()) == {np.uint32(0x33010000).view(np.float32)}
    rewrite(folder, f"{MODULE}.scales", lambda data: np.full(data.shape, 0x7F80, np.uint16), "bfloat16")
    with pytest.raises(TensorError, match="scales hold NaN or infinity"):
        open_source(folder).read(f"{MODULE}.weight", (96, 64))  # type: ignore[call-arg]


# Activation order


def test_activation_order_is_a_gather(tmp_path: Path) -> None:
    """Both engines compute what the de-quantised weights say; without the Gather they would not."""
    order = np.random.default_rng(3).permutation(64).astype(np.int32)
    folder = quantised_folder(tmp_path, {}, order)
    made = convert(folder, tmp_path / "out", ConvertOptions(formats=("openvino", "onnx")))
    ids = np.random.default_rng(2).integers(3, 300, (2, 7))
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization_config"]["desc_act"] is True
    source = open_source(folder)
    assert isinstance(source, QuantisedCheckpoint)
    weight = source.read(f"{MODULE}.weight", (96, 64))
    assert isinstance(weight, QTensor)
    assert weight.order is not None
    for converted in made.folders:
        weights = read_weights(converted)
        expected = logits(config, as_torch(weights), ids)
        engine = open_engine(converted, exact=True, threads=1)
        computed = engine.logits(ids)
        engine.close()
        assert np.abs(computed - expected).max() <= TOLERANCE * np.abs(expected).max()
        unordered = {
            name: replace(weight, order=None) if isinstance(weight, QTensor) else weight
            for name, weight in weights.items()
        }
        wrong = logits(config, as_torch(unordered), ids)
        assert np.abs(computed - wrong).max() > 100 * TOLERANCE * np.abs(expected).max()
    assert convert(folder, tmp_path / "ct", ConvertOptions(formats=("compressed-tensors",))).folders
    with pytest.raises(OvroundError, match="activation order"):
        convert(folder, tmp_path / "ar", ConvertOptions(formats=("auto_round",)))
    assert not (tmp_path / "ar").exists()


def logits(config: dict[str, Any], weights: Any, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        return from_config(config).logits(TorchOps(weights), torch.from_numpy(ids)).numpy()


# auto_round's exceptions, and AQLM


def test_exceptions_by_name_and_by_expression() -> None:
    general = {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True}
    extra = {".*k_proj.*": {"bits": 16}, "model.layers.3.mlp.down_proj": {"bits": 8}, "down": {"bits": 2, "sym": False}}
    reader = reader_of({**general, "extra_config": extra})
    assert reader.scheme("model.layers.0.self_attn.q_proj") == QuantScheme(4, 128, True)
    assert reader.scheme("model.layers.0.self_attn.k_proj") is None
    assert reader.scheme("model.layers.3.mlp.down_proj") == QuantScheme(8, 128, True)
    assert reader.scheme("model.layers.4.mlp.down_proj") == QuantScheme(2, 128, False)


def test_a_zero_point_of_2_to_the_bits_gets_a_wider_container() -> None:
    """auto_round reads a stored 15 as 16, which 4 bits do not hold."""
    reader = reader_of({"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": False})
    arrays = {
        "qweight": np.zeros((4, 8), np.int32),
        "qzeros": np.full((1, 1), -1, np.int32),
        "scales": np.ones((1, 8), np.float16),
    }
    weight = reader.decode(MODULE, (8, 32), arrays)
    assert weight.bits == 8
    assert (weight.dequantize() == -16).all()


@pytest.mark.parametrize(
    ("books", "bits", "outputs", "inputs"), [(1, 16, 1, 8), (2, 8, 1, 8), (4, 8, 1, 4), (1, 3, 2, 4)]
)
def test_aqlm_is_read(books: int, bits: int, outputs: int, inputs: int) -> None:
    config = {
        "quant_method": "aqlm", "in_group_size": inputs, "out_group_size": outputs, "num_codebooks": books,
        "nbits_per_codebook": bits,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    rows, columns = 4 * outputs, 3 * inputs
    codes = rng.integers(0, 1 << bits, (4, 3, books))
    codebooks = rng.standard_normal((books, 1 << bits, outputs, inputs)).astype(np.float16)
    scales = rng.standard_normal((4, 1, 1, 1)).astype(np.float16)
    wrapped = codes.astype(np.int8 if bits <= 8 else np.int16) if bits in (8, 16) else codes.astype(np.int8)
    reader = reader_of(config)
    weight = reader.decode(MODULE, (rows, columns), {"codes": wrapped, "codebooks": codebooks, "scales": scales})
    assert isinstance(weight, CodebookTensor)
    slow = np.zeros((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            group = (row // outputs, column // inputs)
            entries = [
                np.float32(codebooks[m, codes[(*group, m)], row % outputs, column % inputs]) for m in range(books)
            ]
            slow[row, column] = sum(entries, np.float32(0)) * np.float32(scales[row // outputs, 0, 0, 0])
    np.testing.assert_allclose(weight.dequantize(), slow, rtol=1e-6)
    with pytest.raises(CheckpointError, match="num_codebooks is 0"):
        reader_of({**config, "num_codebooks": 0})


def test_every_written_format_has_a_reader() -> None:
    assert {name.replace("auto_round", "auto-round") for name in CHECKPOINT_FORMATS} <= set(methods())
