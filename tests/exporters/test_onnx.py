"""The ONNX folder against torch: equal logits in one pass, by steps and in ragged batches; and genai reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray

from ovround import models
from ovround.errors import ArchitectureError, CheckpointError, VerifyError
from ovround.exporters.exporter import record_of
from ovround.exporters.formats import open_reader
from ovround.exporters.onnx.external_data import read_entries
from ovround.exporters.onnx.genai_config import genai_config, write_genai_config
from ovround.exporters.onnx.package import OnnxExporter
from ovround.models import smallest_configs
from ovround.models.decoder import Decoder
from ovround.models.torch_ops import TorchOps
from ovround.runtime.engines.onnx_exact import exact_model
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

TOLERANCE = 1e-5  # float32 sums in another order: 3e-7 measured
INT8_TOLERANCE = 5e-2  # activations rounded to int8 before each product: 1e-2 measured
QuantScheme = tuple[int, int, bool]  # bits, group size, symmetric
MIXED: list[QuantScheme] = [(b, g, s) for b in (2, 3, 4, 8) for g in (16, 32, -1) for s in (False, True)]
Cache = list[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Exported:
    folder: Path
    decoder: Decoder
    weights: dict[str, torch.Tensor]

    def torch_logits(self, ids: list[int]) -> NDArray[np.float32]:
        """`[T, V]` of one row."""
        return self.decoder.logits(TorchOps(self.weights), torch.tensor([ids]))[0].numpy()


def quantised(rng: np.random.Generator, shape: tuple[int, int], scheme: QuantScheme) -> QTensor:
    bits, group, symmetric = scheme
    rows, columns = shape
    groups = columns // group if group > 0 and columns % group == 0 else 1
    return QTensor(
        rng.integers(0, 1 << bits, shape, dtype=np.uint8),
        (rng.standard_normal((rows, groups)) * 0.2 / (1 << bits)).astype(np.float16),
        None if symmetric else rng.integers(0, 1 << bits, (rows, groups), dtype=np.uint8),
        bits,
    )


def floating(rng: np.random.Generator, name: str, shape: tuple[int, ...], dtype: str) -> FloatTensor:
    values = (rng.standard_normal(shape) * 0.1 + ("norm" in name)).astype(np.float32)
    if dtype == "bfloat16":
        return FloatTensor((values.view(np.uint32) >> 16).astype(np.uint16), "bfloat16")
    return FloatTensor(values, "float32") if dtype == "float32" else FloatTensor(values.astype(np.float16), "float16")


def export(
    folder: Path,
    config: dict[str, Any],
    schemes: list[QuantScheme],
    *,
    dtype: str = "float32",
    float_ends: bool = False,
) -> Exported:
    """Random weights, the schemes dealt out in turn; embedding and head in floating point when `float_ends`."""
    source, out = folder / "source", folder / "out"
    for path in (source, out):
        path.mkdir(parents=True, exist_ok=True)
    (source / "config.json").write_text(json.dumps(config))
    decoder, rng, turn = models.from_config(config), np.random.default_rng(7), cycle(schemes)
    exporter, weights, records = OnnxExporter(out, decoder, source), {}, {}
    for part in (None, *range(decoder.config.num_hidden_layers)):
        for name, shape in decoder.tensors(part).items():
            weight: QTensor | FloatTensor
            if len(shape) == 2 and not (part is None and float_ends):
                weight = quantised(rng, (shape[0], shape[1]), next(turn))
                weights[name] = torch.from_numpy(weight.dequantize())
            else:
                weight = floating(rng, name, shape, dtype)
                weights[name] = torch.from_numpy(weight.float32())
            exporter.write(name, weight)
            records[name] = record_of(name, weight)
    exporter.finish()
    exporter.close()
    reader = open_reader("onnx", out, records)
    assert all(reader.read(name).digest() == record.sha256 for name, record in records.items())
    return Exported(out, decoder, weights)


class Session:
    """A session over an exported folder, with or without int8 activations."""

    def __init__(self, folder: Path, *, exact: bool = True) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        path = folder / "model.onnx"
        model = exact_model(path) if exact else path.read_bytes()
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        caches = [node for node in self._session.get_inputs() if node.name.startswith("past_key_values")]
        self._empty = {node.name: (node.shape[1], node.shape[3]) for node in caches}

    def __call__(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], past: Cache | None = None
    ) -> tuple[NDArray[np.float32], Cache]:
        """`ids` `[B, T]`, `mask` `[B, S]` -> logits `[B, T, V]` and the cache after them."""
        if past is None:
            past = [np.zeros((len(ids), heads, 0, size), np.float32) for heads, size in self._empty.values()]
        feed = {"input_ids": ids, "attention_mask": mask, **dict(zip(self._empty, past, strict=True))}
        logits, *present = self._session.run(None, feed)
        return logits, present


def relative_rms(x: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean((x - reference) ** 2) / np.mean(reference**2)))


def tiny(**changes: Any) -> dict[str, Any]:
    return {**smallest_configs("llama")[0], "bos_token_id": 1, "eos_token_id": 2, **changes}


def random_ids(*shape: int) -> NDArray[np.int64]:
    return np.random.default_rng(3).integers(0, 160, shape)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tied": (tiny(tie_word_embeddings=True), {}),
    "untied": (tiny(), {}),
    "tied, float ends": (tiny(tie_word_embeddings=True), {"float_ends": True}),
    "untied, bfloat16 ends": (tiny(), {"float_ends": True, "dtype": "bfloat16"}),
    "tied, float16": (tiny(tie_word_embeddings=True), {"float_ends": True, "dtype": "float16"}),
    "padded": (tiny(hidden_size=72, intermediate_size=172, tie_word_embeddings=True), {}),
    "heads of 8": (tiny(head_dim=8, num_attention_heads=8, num_key_value_heads=4), {}),
    "llama3 rope": (tiny(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_logits_match_torch(tmp_path: Path, case: str) -> None:
    config, options = CASES[case]
    model = export(tmp_path, config, MIXED, **options)
    session, ids = Session(model.folder), random_ids(2, 19)
    logits, _ = session(ids, np.ones_like(ids))
    reference = np.stack([model.torch_logits(row.tolist()) for row in ids])
    assert relative_rms(logits, reference) < TOLERANCE
    cache: Cache | None = None
    for at in range(8):
        logits, cache = session(ids[:, at : at + 1], np.ones((2, at + 1), np.int64), cache)
        assert relative_rms(logits[:, 0], reference[:, at]) < TOLERANCE


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_group_size_runs(tmp_path: Path, bits: int, symmetric: bool) -> None:
    schemes = [(bits, group, symmetric) for group in (16, 32, 64, 128, 256, -1)]
    model = export(tmp_path, tiny(hidden_size=256, intermediate_size=512), schemes)
    ids = random_ids(1, 19)
    mask, reference = np.ones_like(ids), model.torch_logits(ids[0].tolist())
    assert relative_rms(Session(model.folder)(ids, mask)[0][0], reference) < TOLERANCE
    assert 1e-3 < relative_rms(Session(model.folder, exact=False)(ids, mask)[0][0], reference) < INT8_TOLERANCE


def test_one_wrong_nibble_is_seen(tmp_path: Path) -> None:
    model = export(tmp_path, tiny(), [(4, 32, True)])
    ids = random_ids(1, 19)
    data = model.folder / "model.onnx.data"
    entry = read_entries(model.folder / "model.onnx", data.name)["model.layers.0.mlp.down_proj.weight"]
    content = bytearray(data.read_bytes())
    content[entry.offset] ^= 0x08
    data.write_bytes(content)
    logits, _ = Session(model.folder)(ids, np.ones_like(ids))
    assert relative_rms(logits[0], model.torch_logits(ids[0].tolist())) > 10 * TOLERANCE


@pytest.mark.parametrize("head_dim", [32, 24])
def test_rows_of_unequal_length_are_padded_on_the_right(tmp_path: Path, head_dim: int) -> None:
    model = export(tmp_path, tiny(head_dim=head_dim), [(4, 32, True), (8, 16, False)])
    session, rows = Session(model.folder), [random_ids(n).tolist() for n in (3, 7, 5)]
    ids = np.array([row + [0] * (7 - len(row)) for row in rows])
    mask = np.array([[1] * len(row) + [0] * (7 - len(row)) for row in rows])
    logits, cache = session(ids, mask)
    last = logits[np.arange(3), [len(row) - 1 for row in rows]]
    for length in range(8, 13):
        assert relative_rms(last, np.stack([model.torch_logits(row)[-1] for row in rows])) < TOLERANCE
        rows = [[*row, length + index] for index, row in enumerate(rows)]
        mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        logits, cache = session(np.array([row[-1:] for row in rows]), mask, cache)
        last = logits[:, 0]


@pytest.mark.parametrize("head_dim", [32, 24])
def test_a_prompt_may_come_in_pieces(tmp_path: Path, head_dim: int) -> None:
    model = export(tmp_path, tiny(head_dim=head_dim), [(4, 32, True)])
    session, ids = Session(model.folder), random_ids(1, 12)
    _, cache = session(ids[:, :5], np.ones((1, 5), np.int64))
    logits, _ = session(ids[:, 5:], np.ones((1, 12), np.int64), cache)
    assert relative_rms(logits[0], model.torch_logits(ids[0].tolist())[5:]) < TOLERANCE


def test_a_tied_table_is_stored_once(tmp_path: Path) -> None:
    model = export(tmp_path, tiny(tie_word_embeddings=True), [(4, 32, True)])
    entries = read_entries(model.folder / "model.onnx", "model.onnx.data")
    table, head = (entries[f"model.embed_tokens.weight{part}"] for part in ("", "/blocks"))
    assert (table.offset, table.size_bytes) == (head.offset, head.size_bytes)
    assert (table.shape, head.shape) == ((160, 32), (160, 2, 16))


def test_exact_mode_reaches_every_node(tmp_path: Path) -> None:
    model = export(tmp_path, tiny(), MIXED)
    path = model.folder / "model.onnx"
    changed = onnx.load_from_string(exact_model(path))
    levels = [
        attribute.i for node in changed.graph.node for attribute in node.attribute if attribute.name == "accuracy_level"
    ]
    assert levels == [0] * sum(node.op_type == "MatMulNBits" for node in changed.graph.node) == [0] * 15
    assert len(exact_model(path)) == path.stat().st_size


def test_two_exports_are_equal_bytes(tmp_path: Path) -> None:
    first, second = (export(tmp_path / name, tiny(), MIXED).folder for name in ("a", "b"))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_heads_that_onnx_runtime_refuses_are_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="head_dim is 100"):
        OnnxExporter(tmp_path, models.from_config(tiny(head_dim=100)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_data_elsewhere_is_refused(tmp_path: Path) -> None:
    model = export(tmp_path, tiny(), [(4, 32, True)])
    with pytest.raises(VerifyError, match=r"it lies in `model\.onnx\.data`"):
        read_entries(model.folder / "model.onnx", "other.data")


def test_genai_config_follows_the_checkpoint(tmp_path: Path) -> None:
    decoder = models.from_config(tiny())
    generation = {"eos_token_id": [2, 5], "do_sample": True, "temperature": 0.6, "top_k": None}
    document = genai_config(tiny(), generation, decoder, "model.onnx")
    assert {key: document["model"][key] for key in ("bos_token_id", "eos_token_id", "pad_token_id", "type")} == {
        "bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 2, "type": "llama"
    }  # fmt: skip
    search = document["search"]
    assert (search["do_sample"], search["temperature"], search["top_k"], search["max_length"]) == (True, 0.6, 50, 256)
    assert genai_config({"model_type": "new"}, {}, decoder, "m")["model"]["type"] == "decoder"
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        write_genai_config(tmp_path, tmp_path, decoder, "model.onnx")


@pytest.mark.parametrize("head_dim", [32, 8])
def test_genai_gives_the_same_tokens(tmp_path: Path, head_dim: int) -> None:
    og = pytest.importorskip("onnxruntime_genai")
    model = export(tmp_path, tiny(vocab_size=320, head_dim=head_dim), [(4, 32, True), (8, 32, False), (2, 32, True)])
    write_tokenizer(model.folder, 320)
    loaded = og.Model(str(model.folder))
    prompts = [[int(token) for token in og.Tokenizer(loaded).encode(text)] for text in ("hello there", "one two")]
    session = Session(model.folder, exact=False)
    for prompt in prompts:
        settings = og.GeneratorParams(loaded)
        settings.set_search_options(max_length=len(prompt) + 24, do_sample=False)
        generator = og.Generator(loaded, settings)
        generator.append_tokens(prompt)
        while not generator.is_done():
            generator.generate_next_token()
        assert [int(token) for token in generator.get_sequence(0)] == greedy(session, prompt, 24)


def greedy(session: Session, prompt: list[int], count: int) -> list[int]:
    ids, fresh, cache = list(prompt), list(prompt), None
    for _ in range(count):
        logits, cache = session(np.array([fresh]), np.ones((1, len(ids)), np.int64), cache)
        fresh = [int(logits[0, -1].argmax())]
        ids += fresh
        if fresh == [2]:
            break
    return ids


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(["hello there, one two three hello one there"] * 9, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
