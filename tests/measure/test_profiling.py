"""The latency table: measured on a tiny model with both engines, written, read, and refused where it cannot be one."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_server import CommandServer, succeeded

from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.checkpoint import open_checkpoint
from ovround.conversion.latency_table import LatencyRow, LatencyTable, check_table_path, read_table, write_table
from ovround.errors import EngineError, OutputError, UsageError
from ovround.measure.profiling import measure as measuring
from ovround.measure.profiling import onnx, openvino
from ovround.measure.profiling.measure import linear_shapes, measure
from ovround.models import from_config
from ovround.tensors.qtensor import QTensor

ROW = LatencyRow(64, 32, 4, 0.25)
TABLE = LatencyTable("onnx", "CPU", "a processor", None, 32, True, {"onnxruntime": "1"}, (ROW,))
SHAPES = [(128, 64), (64, 64), (64, 128), (96, 64), (64, 96), (320, 64)]


@pytest.mark.parametrize("format", ENGINE_FORMATS)
def test_every_shape_is_measured_at_every_width(tiny_source: Path, format: str) -> None:  # noqa: A002
    table = measure(str(tiny_source), format=format, group_size=32, sym=False, threads=1, repeat=2)
    times_by_shape = {(row.outputs, row.inputs): {} for row in table.rows}  # type: dict[tuple[int, int], dict[int, float]]
    for row in table.rows:
        times_by_shape[row.outputs, row.inputs][row.bits] = row.ms
    assert set(times_by_shape) == set(SHAPES)
    for times in times_by_shape.values():
        assert list(times) == [2, 3, 4, 8, 16]
        assert times[3] == times[4]  # stored alike, measured once
        assert all(0 < ms < 100 for ms in times.values())
    assert (table.format, table.device, table.group_size, table.symmetric, table.threads) == (
        format,
        "CPU",
        32,
        False,
        1,
    )
    assert table.device_name
    assert set(table.versions) == {{"openvino": "openvino", "onnx": "onnxruntime"}[format]}


def test_shapes_are_counted_and_the_head_is_one_of_them(tiny_source: Path) -> None:
    counts = linear_shapes(from_config(open_checkpoint(tiny_source).config))
    assert counts == {(128, 64): 2, (64, 64): 4, (64, 128): 2, (96, 64): 4, (64, 96): 2, (320, 64): 1}


@pytest.mark.parametrize("probe", [openvino, onnx])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_what_is_timed_is_the_product(tmp_path: Path, probe: Any, bits: int) -> None:
    rng = np.random.default_rng(bits)
    weights = [
        QTensor(
            rng.integers(0, 1 << bits, (48, 64), np.uint8),
            rng.random((48, 2)).astype(np.float16),
            rng.integers(0, 1 << bits, (48, 2), np.uint8),
            bits,
        )
        for _ in range(3)
    ]
    products = probe.compiled(tmp_path, weights, "CPU", 1)()
    values = list(products.values()) if probe is openvino else products
    assert len(values) == 3
    for value, weight in zip(values, weights, strict=True):
        # the token is 0.5 everywhere; int8 activations hold it exactly, bfloat16 sums need not
        expected = weight.dequantize().sum(1) / 2
        np.testing.assert_allclose(value.reshape(-1), expected, rtol=0.02, atol=0.02 * np.abs(expected).max())


def test_a_graph_reads_as_much_as_the_model_or_the_cache_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "last_cache_bytes", lambda: 1000)
    assert measuring._copies(100, 10**6) == 20
    assert measuring._copies(100, 1500) == 15
    assert measuring._copies(10**6, 10**7) == 4
    monkeypatch.setattr(measuring, "last_cache_bytes", lambda: 0)
    assert measuring._copies(100, 1500) == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "gguf"}, "format is `gguf`; allowed: openvino, onnx"),
        ({"group_size": 48}, "group-size is `48`; allowed: 16, 32, 64, 128, 256, -1"),
        ({"group_size": 64}, "group size 64 does not divide the 96 inputs of a 64 x 96 weight"),
        ({"repeat": 0}, "repeat is 0; a whole number of 1 or more is needed"),
        ({"threads": 0}, "threads is 0; a whole number of 1 or more is needed"),
    ],
)
def test_what_cannot_be_measured_is_refused(tiny_source: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        measure(str(tiny_source), **{"group_size": 32, **changes})
    assert str(caught.value) == message


@pytest.mark.parametrize("format", ENGINE_FORMATS)
def test_a_device_that_is_not_there_is_refused(tiny_source: Path, format: str) -> None:  # noqa: A002
    with pytest.raises(EngineError, match="`XPU9`"):
        measure(str(tiny_source), format=format, group_size=32, device="XPU9")


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write_table(path, TABLE)
    assert read_table(path) == TABLE
    check_table_path(path)
    write_table(path, replace(TABLE, threads=2))
    assert read_table(path).threads == 2
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": None}, {"rows": [{**asdict(ROW), "ms": 0.0}]}, {"rows": [{**asdict(ROW), "ms": float("nan")}]},
        {"rows": [{**asdict(ROW), "bits": 5}]}, {"rows": [{**asdict(ROW), "inputs": 0}]}, {"rows": [7]},
        {"format": "gguf"}, {"format_version": 2}, {"group_size": 48}, {"surprise": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_a_damaged_table_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**asdict(TABLE), **changes}))
    with pytest.raises(UsageError, match="is no latency table of format 1"):
        read_table(path)
    with pytest.raises(OutputError, match="exists and is no latency table"):
        check_table_path(path)


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no table")
    with pytest.raises(UsageError, match=r"text` cannot be read"):
        read_table(tmp_path / "text")
    with pytest.raises(OutputError, match="is no folder"):
        check_table_path(tmp_path / "missing" / "table.json")


def test_the_command_writes_a_table(loaded_command: CommandServer, tiny_source: Path, tmp_path: Path) -> None:
    words = ("--format", "onnx", "--group-size", "32", "--threads", "1", "--repeat", "1")
    result = loaded_command("profile", tiny_source, tmp_path / "t.json", *words)
    lines = succeeded(result).splitlines()
    assert lines[0].startswith(f"{tmp_path / 't.json'}: onnx on ")
    assert len(lines) == 3 + len(SHAPES)
    assert result.stderr.splitlines()[-1] == "shape 6/6  320 x 64"
    document = json.loads(
        succeeded(loaded_command("profile", tiny_source, tmp_path / "t.json", *words, "--json", "--quiet"))
    )
    assert document == json.loads((tmp_path / "t.json").read_text())
    refused = loaded_command("profile", tiny_source, tiny_source / "config.json", *words)
    assert (refused.status, refused.stdout) == (1, "")
    assert "exists and is no latency table" in refused.stderr
