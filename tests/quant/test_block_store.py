"""Finished blocks on disk: a block is read back as it was written, to the bit, or it is refused."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from ovround.artifact.manifest import BlockRecord, Quality
from ovround.checkpoint import Checkpoint, open_checkpoint
from ovround.errors import ResumeError
from ovround.models import from_config
from ovround.quant.block_store import BlockStore, block_store, working_folder
from ovround.quant.emitted import Emitted
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor

NORM = "model.layers.0.input_layernorm.weight"
FINGERPRINT = {"bits": "4"}
RECORD = BlockRecord(0, 0.1 + 0.2, 1e-300, 7)


def quantised(name: str, bits: int, symmetric: bool, group_size: int = 16) -> Emitted:
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 1 << bits, (6, 48), np.uint8)
    scales = rng.standard_normal((6, 48 // group_size)).astype(np.float16)
    zeros = None if symmetric else rng.integers(0, 1 << bits, scales.shape, np.uint8)
    return Emitted(name, QTensor(codes, scales, zeros, bits), 1 / 3)


@pytest.fixture
def checkpoint(tiny_source: Path) -> Checkpoint:
    return open_checkpoint(tiny_source)


@pytest.fixture
def tensors(checkpoint: Checkpoint) -> list[Emitted]:
    given = [quantised(f"w{bits}{symmetric}", bits, symmetric) for bits in (2, 3, 4, 8) for symmetric in (True, False)]
    changed = [
        Emitted("half", FloatTensor(np.arange(6, dtype=np.float16).reshape(2, 3), "float16"), 0.5),
        Emitted("brain", FloatTensor(np.arange(6, dtype=np.uint16), "bfloat16"), 0.0),
        Emitted(NORM, FloatTensor(checkpoint.read(NORM).float32() + 1, "float32"), 0.0),
    ]
    return [Emitted("model.norm.weight", checkpoint.read("model.norm.weight"), 0.0), *given, *changed]


class AnyCheckpoint(Checkpoint):
    """A checkpoint that gives empty tensors for missing names."""

    def read(self, name: str) -> FloatTensor:
        known = name in self.tensors()
        return Checkpoint.read(self, name) if known else FloatTensor(np.zeros(0, np.float32), "float32")


def begun(folder: Path, checkpoint: Checkpoint, fingerprint: dict[str, str] | None = None) -> BlockStore:
    store = BlockStore(folder, AnyCheckpoint(checkpoint.folder, checkpoint.config, checkpoint.files), 3)
    store.begin(fingerprint or FINGERPRINT)
    return store


def same(actual: tuple[Emitted, ...], given: list[Emitted]) -> bool:
    return [(tensor.name, tensor.weight.digest(), tensor.relative_error) for tensor in actual] == [
        (tensor.name, tensor.weight.digest(), tensor.relative_error) for tensor in given
    ]


def test_a_block_comes_back_to_the_bit(tmp_path: Path, checkpoint: Checkpoint, tensors: list[Emitted]) -> None:
    begun(tmp_path / "work", checkpoint).write(1, tensors, RECORD)
    store = begun(tmp_path / "work", checkpoint)
    assert (store.finished(), store.has(0), store.has(1)) == (1, False, True)
    actual = store.read(1)
    assert actual.record == RECORD
    assert same(actual.tensors, tensors)
    for tensor, given in zip(actual.tensors, tensors, strict=True):
        if isinstance(tensor.weight, QTensor) and isinstance(given.weight, QTensor):
            np.testing.assert_array_equal(tensor.weight.codes, given.weight.codes)
            assert (tensor.weight.bits, tensor.weight.group_size) == (given.weight.bits, given.weight.group_size)


def test_a_tensor_of_the_source_is_only_noted(tmp_path: Path, checkpoint: Checkpoint) -> None:
    store = begun(tmp_path / "work", checkpoint)
    store.write(0, [Emitted(NORM, checkpoint.read(NORM), 0.0)], None)
    assert store.read(0).record is None
    assert same(store.read(0).tensors, [Emitted(NORM, checkpoint.read(NORM), 0.0)])
    small = (tmp_path / "work" / "tuned-00000.safetensors").stat().st_size
    store.write(0, [Emitted(NORM, FloatTensor(checkpoint.read(NORM).float32() + 1, "float32"), 0.0)], None)
    assert (tmp_path / "work" / "tuned-00000.safetensors").stat().st_size > small + 64


def test_a_later_pass_has_a_generation_of_its_own(tmp_path: Path, checkpoint: Checkpoint) -> None:
    store = begun(tmp_path / "work", checkpoint)
    first, second = [quantised("w", 4, True)], [quantised("w", 8, True)]
    quality = Quality(10, 1.5, 1.25, 0.1)
    store.write(0, first, None)
    store.write(0, second, RECORD, stage="end-to-end")
    store.write_quality(quality, stage="end-to-end")
    assert same(store.read(0).tensors, first)
    assert same(store.read(0, "end-to-end").tensors, second)
    assert (store.finished(), store.finished("end-to-end")) == (1, 1)
    assert (store.read_quality(), store.read_quality("end-to-end")) == (None, quality)


def test_complete_means_every_block_whole_and_measured(tmp_path: Path, checkpoint: Checkpoint) -> None:
    store = begun(tmp_path / "work", checkpoint)
    for layer in range(3):
        assert not store.complete()
        store.write(layer, [quantised("w", 4, True)], None)
    assert not store.complete()
    store.write(None, [quantised("embedding", 4, True)], None)
    assert not store.complete()
    store.write_quality(Quality(10, 1.5, 1.25, 0.1))
    assert store.complete()
    path = tmp_path / "work" / "tuned-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert not store.complete()


def test_any_changed_byte_is_found_or_means_nothing(
    tmp_path: Path, checkpoint: Checkpoint, tensors: list[Emitted]
) -> None:
    store = begun(tmp_path / "work", checkpoint)
    store.write(0, tensors, RECORD)
    path, draw, refused = tmp_path / "work" / "tuned-00000.safetensors", random.Random(0), 0
    data = path.read_bytes()
    for _ in range(400):
        at = draw.randrange(len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :])
        try:
            actual = store.read(0)
        except ResumeError:
            refused += 1
            continue
        assert actual.record == RECORD
        assert same(actual.tensors, tensors)
    assert refused > 300


def test_a_file_of_other_inputs_or_another_block_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    for name, fingerprint in (("a", {"bits": "4"}), ("b", {"bits": "3"})):
        begun(tmp_path / name, checkpoint, fingerprint).write(0, [quantised("w", 4, True)], None)
    (tmp_path / "a" / "tuned-00000.safetensors").replace(tmp_path / "b" / "tuned-00001.safetensors")
    (tmp_path / "b" / "tuned-00002.safetensors").write_bytes((tmp_path / "b" / "tuned-00000.safetensors").read_bytes())
    store = begun(tmp_path / "b", checkpoint, {"bits": "3"})
    for layer in (1, 2):
        with pytest.raises(ResumeError, match="belongs to another conversion"):
            store.read(layer)


def test_the_folder_goes_when_all_ends_well_or_nothing_is_in_it(tmp_path: Path, checkpoint: Checkpoint) -> None:
    def work(blocks: int, error: BaseException | None) -> None:
        with block_store(tmp_path / "out", checkpoint, 3) as store:
            store.begin(FINGERPRINT)
            for layer in range(blocks):
                store.write(layer, [Emitted(NORM, checkpoint.read(NORM), 0.0)], None)
            if error is not None:
                raise error

    folder = working_folder(tmp_path / "out")
    for blocks in (0, 2):
        work(blocks, None)
        assert not folder.exists()
    with pytest.raises(KeyboardInterrupt) as stopped:
        work(0, KeyboardInterrupt())
    assert not hasattr(stopped.value, "__notes__")
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt) as stopped:
        work(2, KeyboardInterrupt())
    assert stopped.value.__notes__ == [f"2 of 3 blocks are kept in `{folder}`; the same command continues"]
    assert len(list(folder.iterdir())) == 3


def test_a_finished_model_is_emitted_in_the_models_order(tmp_path: Path, checkpoint: Checkpoint) -> None:
    store, decoder = begun(tmp_path / "work", checkpoint), from_config(checkpoint.config)
    outside = [*decoder.first_tensors(), *decoder.last_tensors()]
    quality = Quality(3, 1.0, 2.0, 0.5)
    store.write(None, [Emitted(name, checkpoint.read(name), 0.0) for name in outside], None)
    for layer in range(3):
        record = None if layer == 1 else BlockRecord(layer, 1.0, 0.5, 7)
        store.write(layer, [Emitted(f"block {layer}", checkpoint.read(NORM), 0.0)], record)
    store.write_quality(quality)
    emitted = list(store.emit(decoder))
    blocks = ["block 0", 0, "block 1", "block 2", 2]
    expected = [*decoder.first_tensors(), *blocks, *decoder.last_tensors(), quality]
    names = [event.name if isinstance(event, Emitted) else getattr(event, "index", event) for event in emitted]
    assert names == expected
    path = tmp_path / "work" / "tuned-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ResumeError, match="is damaged"):
        list(store.emit(decoder))
