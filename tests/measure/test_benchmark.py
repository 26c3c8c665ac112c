"""The benchmark's figures belong together; its weight count follows the manifest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ovround.artifact.manifest import Manifest, WeightRecord, write_manifest
from ovround.errors import GenerationError, UsageError
from ovround.measure.bandwidth import measure_read_bandwidth
from ovround.measure.bench_options import BenchOptions
from ovround.measure.benchmark import bench, weight_bytes_per_token
from ovround.runtime.devices import available_cores, last_cache_bytes


def record(name: str, rows: int, size_bytes: int) -> WeightRecord:
    return WeightRecord(name, (rows, 8), 4, 32, True, size_bytes, "", 0.0)


@pytest.fixture
def fast_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovround.measure.benchmark.measure_read_bandwidth", lambda threads: 1e9)


@pytest.mark.usefixtures("fast_memory")
def test_a_result_adds_up(folder: Path) -> None:
    result = bench(folder, BenchOptions(prompt_tokens=16, new_tokens=8, repeat=3, threads=1))
    assert (result.prompt_tokens, result.new_tokens, result.repeat, result.warm_up_runs) == (16, 8, 3, 1)
    assert "CPU" in result.device
    assert 0 < result.time_to_first_token_median_s <= result.time_to_first_token_p90_s
    assert 0 < result.time_per_output_token_median_s <= result.time_per_output_token_p90_s
    assert result.tokens_per_s > 0 < result.load_s
    assert result.peak_memory_bytes is None or result.peak_memory_bytes > 10_000_000
    share = result.weight_bytes_per_token / result.time_per_output_token_median_s / 1e9
    assert result.bandwidth_share == pytest.approx(share)
    assert result.weight_bytes_per_token > 4 * 100_000  # the tiny model has some hundred thousand float32 weights
    assert json.loads(json.dumps(dataclasses.asdict(result)))["repeat"] == 3


@pytest.mark.parametrize("fields", [{"prompt_tokens": 0}, {"new_tokens": 1}, {"repeat": 0}, {"repeat": 2.5}])
def test_counts_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(fields))):
        BenchOptions(**fields)


def test_what_does_not_fit_the_context(folder: Path) -> None:
    with pytest.raises(GenerationError, match="640"):
        bench(folder, BenchOptions(prompt_tokens=640))


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([record("model.embed_tokens.weight", 10, 4000), record("model.layers.0.mlp.up_proj.weight", 4, 300)], 4300),
        ([record("model.embed_tokens.weight", 10, 4000), record("lm_head.weight", 10, 500)], 900),
    ],
)
def test_a_table_that_is_only_looked_up_counts_one_row(
    tmp_path: Path, weights: list[WeightRecord], expected: int
) -> None:
    write_manifest(tmp_path, Manifest("0", "openvino", "tiny", "llama", {}, {}, {}, tuple(weights)))
    assert weight_bytes_per_token(tmp_path) == expected


def test_read_bandwidth_is_plausible() -> None:
    assert 1e8 < measure_read_bandwidth(1) < 1e13
    assert available_cores() >= 1
    assert last_cache_bytes() >= 0
