"""Damaged GGUF files: each is refused quickly with an error that says what is wrong, or is a file that can be opened.

OVROUND_TEST_SCALE multiplies the number of cases; `benchmarks/gguf_fuzz.py` runs them by the million.
"""

from __future__ import annotations

import resource
import struct
import time
from pathlib import Path

import pytest
from gguf_mutations import mutations
from gguf_writer import write_tiny
from mutations import SCALE

from ovround.checkpoint.gguf import open_gguf
from ovround.checkpoint.gguf.header import parse_header, read_header
from ovround.conversion.preparation import prepare
from ovround.errors import CheckpointError, HeaderError, OvroundError
from ovround.options.convert_options import ConvertOptions


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "g" / "model.gguf"
    write_tiny(path, {"ffn_up": "Q4_1", "ffn_down": "Q8_0", "blk": "Q4_0"})
    return path


def header_bytes(path: Path) -> int:
    return min(info.offset for info in read_header(path).tensors.values())


def test_damaged_headers(file: Path) -> None:
    content = file.read_bytes()
    refused, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for words, damaged in mutations(content, header_bytes(file), 3000 * SCALE, seed=1):
        start, message = time.process_time(), ""
        try:
            parse_header(file, memoryview(damaged))
        except HeaderError as error:
            refused, message = refused + 1, str(error)
        assert not message or str(file) in message, words
        assert time.process_time() - start < 2, words
    assert refused > 1000 * SCALE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_damaged_files_are_opened_or_refused(file: Path, tmp_path: Path) -> None:
    """The whole of what `convert` looks at before it works: configuration, tokenizer, names, shapes, grids and values."""
    content = file.read_bytes()
    path = tmp_path / "model.gguf"
    refused, count = 0, 120 * SCALE
    for words, damaged in mutations(content, header_bytes(file), count, seed=2):
        path.write_bytes(damaged)
        start, message = time.process_time(), ""
        try:
            job = prepare(str(path), tmp_path / "out", ConvertOptions(formats=("onnx",)))
            (job.quantised or job.checkpoint).scan()
        except OvroundError as error:
            refused, message = refused + 1, str(error)
        assert len(message) < 2000, words
        assert time.process_time() - start < 5, words
    assert refused > count // 2
    assert not (tmp_path / "out").exists()


def entry(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def made(*entries: bytes, tensors: bytes = b"", count: int = 0, claimed: int | None = None) -> bytes:
    counts = struct.pack("<QQ", count, len(entries) if claimed is None else claimed)
    return b"GGUF" + struct.pack("<I", 3) + counts + b"".join(entries) + tensors + bytes(64)


def tensor(name: str, axes: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<{len(axes)}Q", *axes)
    return (
        struct.pack("<Q", len(name))
        + name.encode()
        + struct.pack("<I", len(axes))
        + sizes
        + struct.pack("<IQ", kind, offset)
    )


LONG = struct.pack("<Q", 1 << 62)
CASES = {
    "it claims 4611686018427387904 tensors": b"GGUF" + struct.pack("<I", 3) + LONG + bytes(64),
    "it claims 65536 metadata entries": made(claimed=1 << 16),
    "a key has 4611686018427387904 bytes": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + LONG + bytes(64),
    r"`a` has 4611686018427387904 bytes": made(entry("a", 8, LONG)),
    r"it claims 4611686018427387904 elements of `a`": made(entry("a", 9, struct.pack("<I", 4) + LONG)),
    r"it claims 3000000 elements of `a`": made(entry("a", 9, struct.pack("<IQ", 8, 3_000_000))),
    r"`a` is an array of type 9": made(entry("a", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 9, 1))),
    r"metadata `a` is of type 77": made(entry("a", 77, bytes(8))),
    r"metadata `a` is there twice": made(entry("a", 4, bytes(4)), entry("a", 4, bytes(4))),
    "is no UTF-8 text": made(entry("a", 8, struct.pack("<Q", 2) + b"\xff\xfe")),
    r"general.alignment is 24": made(entry("general.alignment", 4, struct.pack("<I", 24))),
    r"tensor `t` has 0 axes": made(tensors=tensor("t", ()), count=1),
    r"tensor `t` has 5 axes": made(tensors=tensor("t", (1, 1, 1, 1, 1)), count=1),
    r"tensor `t` of 36893488147419103232 bytes": made(tensors=tensor("t", (1 << 63,)), count=1),
    r"tensor `t` of 4 bytes from 18446744073709551\d+": made(tensors=tensor("t", (1,), offset=(1 << 64) - 1), count=1),
    r"has axes \[33\]; Q4_0 needs multiples of 32": made(tensors=tensor("t", (33,), 2), count=1),
    r"has axes \[0\]": made(tensors=tensor("t", (0,)), count=1),
    r"is of type 999, which the installed package gguf does not know": made(tensors=tensor("t", (32,), 999), count=1),
    r"tensor `t` is there twice": made(tensors=tensor("t", (1,)) * 2, count=2),
    "has version 1; 2 and 3 can be read": b"GGUF" + struct.pack("<I", 1) + bytes(64),
    "is big-endian": b"GGUF" + struct.pack(">I", 3) + bytes(64),
    "it begins with b'GGML'": b"GGML" + bytes(64),
    "it has 3 bytes": b"GGU",
}


@pytest.mark.parametrize("words", CASES)
def test_hostile_headers(tmp_path: Path, words: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(CASES[words])
    start = time.process_time()
    with pytest.raises(CheckpointError, match=words) as caught:
        open_gguf(path)
    assert time.process_time() - start < 1
    assert caught.value.hint
