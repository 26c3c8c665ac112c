"""`ovround fit`: what it foretells is what is written; the same from the hub without a download; what does not fit says what would."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoint_writer import tiny_config, write_checkpoint
from command_server import CommandServer, succeeded
from gguf_model import write_model
from hub_server import HubServer
from measured_machine import keep_speed

from ovround import cached_model
from ovround.artifact.manifest import read_manifest
from ovround.conversion.convert import convert
from ovround.errors import EngineError, UsageError
from ovround.measure.benchmark import weight_bytes_per_token
from ovround.measure.fit import losses, machine, rates, table
from ovround.measure.fit.losses import MeasuredLoss, nearest_loss
from ovround.measure.fit.machine import ObservedRun, add_run, machine_speed
from ovround.measure.fit.rates import token_seconds
from ovround.measure.fit.table import Fit, best_bits, bytes_read, fit, refusal
from ovround.options.convert_options import ConvertOptions

NAME = "ovround-tests/fits"
CONFIG = tiny_config(
    hidden_size=128, intermediate_size=256, num_attention_heads=4, head_dim=32, num_key_value_heads=2,
    max_position_embeddings=8192,
)  # fmt: skip

SMOLLM2 = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
QWEN25 = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
}  # fmt: skip
GEMMA3 = {
    "model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 256, "query_pre_attn_scalar": 256, "vocab_size": 262144, "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6, "sliding_window": 512, "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("fit") / "model", CONFIG, shards=2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, in which this machine was measured before."""
    monkeypatch.setenv("OVROUND_CACHE", str(tmp_path / "cache"))
    keep_speed()
    return tmp_path / "cache"


def limited(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    monkeypatch.setattr(table, "total_bytes", lambda: size_bytes)


def test_the_files_are_as_large_as_foretold(source: Path, tmp_path: Path) -> None:
    found = fit(str(source))
    assert [row.bits for row in found.rows] == [8, 4, 3, 2]
    for format_name, file in (("openvino", "openvino_model.bin"), ("onnx", "model.onnx.data")):
        (row,) = (row for row in fit(str(source), None, format_name).rows if row.bits == 4)
        folder = cached_model(source, format=format_name)
        assert (folder / file).stat().st_size <= row.file_bytes <= 1.2 * (folder / file).stat().st_size
        decoder, plan, item_bytes = table.outline(str(source)).planned(ConvertOptions(formats=(format_name,)))
        sizes = table.written_sizes(format_name, decoder, plan, item_bytes)
        assert bytes_read(decoder, sizes) == pytest.approx(weight_bytes_per_token(folder), rel=0.1)
    assert all(row.memory_bytes > row.file_bytes for row in found.rows)


def test_of_a_configuration_alone_and_of_the_hub_it_says_the_same(
    source: Path, command: CommandServer, tmp_path: Path, cache: Path
) -> None:
    gguf = tmp_path / "gguf"
    gguf.mkdir()
    file = write_model(gguf, CONFIG)[0]
    shutil.rmtree(gguf / "source")
    file.rename(gguf / "m-F32.gguf")
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "config.json").write_text(json.dumps({**CONFIG, "torch_dtype": "float32"}))
    shutil.copy(source / "tokenizer.json", alone)
    with HubServer({NAME: source, "ovround-tests/gguf": gguf}) as hub:
        environment = hub.environment(tmp_path / "home") | {"OVROUND_CACHE": str(cache)}

        def shown(model: object) -> Fit:
            answer = command("fit", model, "--context", "300", "--json", environment=environment)
            assert "torch" not in answer.modules
            return json.loads(succeeded(answer))

        answers = [shown(model) for model in (source, alone, alone / "config.json", NAME)]
        for answer in answers[1:]:
            assert answer["rows"] == answers[0]["rows"]
        assert answers[3]["download_bytes"] > sum(path.stat().st_size for path in source.glob("*.safetensors"))
        by_file, by_name = shown(gguf / "m-F32.gguf"), shown("ovround-tests/gguf:F32")
        assert by_name["rows"] == by_file["rows"]
        assert not list((tmp_path / "home").rglob("blobs/*"))


def test_a_quantised_source_has_one_row(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "gptq", ConvertOptions(formats=("gptq",), bits=8, group_size=64, recipe="rtn"))
    found = fit(str(tmp_path / "gptq"))
    assert [(row.bits, row.loss, row.tune_s, row.best) for row in found.rows] == [(8, None, 0.0, True)]
    assert found.method == "gptq"
    assert best_bits(str(tmp_path / "gptq"), "openvino") is None


def test_what_fits_best(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(source)
    assert fit(model).best == fit(model).rows[0]
    machine._keep(replace(machine_speed(), bandwidth=1e5))  # nothing is as fast as people read: the fastest
    rows = fit(model).rows
    assert fit(model).best == min(rows, key=lambda row: row.token_s)
    machine._keep(replace(machine_speed(), bandwidth=20e9))
    between = (rows[0].memory_bytes + rows[1].memory_bytes) / 2
    limited(monkeypatch, int(between / table._USABLE))
    assert [row.fits for row in fit(model).rows] == [False, True, True, True]
    assert fit(model).best == fit(model).rows[1]
    row = best_bits(model, "openvino")
    assert row is not None
    assert row.bits == 4
    with pytest.raises(UsageError, match="context is 9000; the model allows 1 to 8192"):
        fit(model, 9000)


def test_what_does_not_fit_says_what_would(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(source)
    least = fit(model, 1000).rows[-1].memory_bytes
    limited(monkeypatch, int(least / table._USABLE))
    with pytest.raises(
        EngineError, match=r"does not fit: 2 bits with a context of 4096 take about 0\.\d+ GB"
    ) as caught:
        best_bits(model, "openvino")
    shorter = re.match(
        r"--bits 2 takes it all the same, for a chat of at most (\d+) tokens, or a smaller", str(caught.value.hint)
    )
    assert shorter is not None
    assert fit(model, int(shorter[1])).best is not None
    assert fit(model, int(shorter[1]) + 1).best is None
    assert f"`ovround fit {model} --context {shorter[1]}` fits" in str(refusal(fit(model)).hint)
    limited(monkeypatch, 1000)
    with pytest.raises(EngineError) as caught:
        best_bits(model, "openvino")
    assert str(caught.value.hint).startswith("a smaller model, or a machine with ")


def test_the_machine_is_measured_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def measure() -> float:
        calls.append(1)
        return 7e9

    monkeypatch.setattr(machine, "measure_read_bandwidth", measure)
    assert machine_speed().bandwidth == 20e9
    monkeypatch.setattr(machine, "_identity", lambda: "another machine that shares this home")
    assert [machine_speed().bandwidth, machine_speed().bandwidth] == [7e9, 7e9]
    (cache / machine.FILE).write_text("{}")
    assert machine_speed().bandwidth == 7e9
    assert len(calls) == 2


def test_a_later_measurement_replaces_a_lower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([(7e9, 50e9), (9e9, 40e9), (3e9, 60e9)])
    now = [0.0]

    def measure() -> float:
        bandwidth, operations = next(measured)
        monkeypatch.setattr(machine, "_core_operations", lambda: operations)
        return bandwidth

    monkeypatch.setattr(machine, "measure_read_bandwidth", measure)
    monkeypatch.setattr(machine, "_identity", lambda: "this machine")
    monkeypatch.setattr(machine.time, "time", lambda: now[0])
    reached = []
    for now[0] in (0.0, 500.0, 1000.0, 1700.0):
        speed = machine_speed()
        reached.append((speed.bandwidth, speed.core_operations))
    assert reached == [(7e9, 50e9), (7e9, 50e9), (9e9, 50e9), (9e9, 60e9)]
    add_run(ObservedRun("openvino", "engine", 4, 30, 85_000_000, 0.02, 8e9))
    assert (machine_speed().bandwidth, len(machine_speed().runs)) == (9e9, 1)


@pytest.mark.parametrize(("config", "hours"), [(SMOLLM2, 1.22), (GEMMA3, 2.81), (QWEN25, 2.20)])
def test_the_time_to_tune_is_about_what_time_measures(
    config: dict[str, object], hours: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of one core of 68 billion operations a second, by what `--time` measured of these models."""
    (tmp_path / "config.json").write_text(json.dumps({**config, "torch_dtype": "bfloat16"}))
    machine._keep(replace(machine_speed(), core_operations=68e9))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert 0.5 < fit(str(tmp_path / "config.json")).rows[1].tune_s / 3600 / hours < 2
    monkeypatch.setattr("ovround.measure.fit.tuning_time.available_cores", lambda: 4)
    one = fit(str(tmp_path / "config.json")).rows[1].tune_s
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert fit(str(tmp_path / "config.json")).rows[1].tune_s < one


def test_what_bench_reached_here_is_foretold_from_then_on() -> None:
    run = ObservedRun("openvino", "engine", 4, 30, 85_000_000, 0.012, 25e9)
    before = token_seconds(machine_speed(), "openvino", "engine", 4, 30, 85_000_000)
    for number in range(40):
        add_run(replace(run, seconds=9.0) if number % 2 else run)  # others slow every second run
    speed = machine_speed()
    assert (speed.bandwidth, len(speed.runs)) == (25e9, 30)
    assert token_seconds(speed, "openvino", "engine", 4, 30, 85_000_000) == pytest.approx(0.012)
    twice = token_seconds(speed, "openvino", "engine", 4, 60, 170_000_000)
    assert twice == pytest.approx(0.024)
    assert token_seconds(speed, "onnx", "engine", 4, 30, 85_000_000) != pytest.approx(0.012)
    slow = replace(speed, runs=(replace(run, seconds=9.0),))
    assert token_seconds(slow, "openvino", "engine", 4, 30, 85_000_000) < 4 * before


def test_memory_or_the_cores_limit_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "available_cores", lambda: 2)
    slow_cores, slow_memory = (
        replace(machine_speed(), core_operations=operations, bandwidth=bandwidth)
        for operations, bandwidth in ((1e9, 50e9), (1e12, 5e9))
    )
    for speed, by_bits in ((slow_cores, True), (slow_memory, False)):
        four, eight = (token_seconds(speed, "openvino", "engine", bits, 30, 85_000_000) for bits in (4, 8))
        assert (four > eight) == by_bits
    assert token_seconds(slow_cores, "openvino", "native", 4, 30, 85_000_000) < 0.01


@pytest.mark.slow
def test_bench_is_remembered_and_chat_takes_what_fits(source: Path, loaded_command: CommandServer, cache: Path) -> None:
    environment = {"OVROUND_CACHE": str(cache)}
    words = (source, "--prompt-tokens", "4", "--new-tokens", "3", "--repeat", "1")
    first = loaded_command("bench", *words, environment=environment)
    assert succeeded(first)
    assert re.search(
        r"8 bits fit best here: about 0\.\d GB of memory, \d+ tokens/s \(`ovround fit .*`, --bits\)", first.stderr
    )
    assert "its weights are rounded to 8 bits" in first.stderr
    (run,) = machine_speed().runs
    (folder,) = (path for path in (cache / "models").iterdir() if path.is_dir())
    assert (run.format, run.bits, run.layers) == ("openvino", 8, CONFIG["num_hidden_layers"])
    assert run.bytes_per_token == weight_bytes_per_token(folder)
    assert read_manifest(folder).options["bits"] == 8
    second = loaded_command("run", source, "hello", "--max-new-tokens", "2", environment=environment)
    assert succeeded(second)
    assert "fit best" not in second.stderr
    assert succeeded(
        loaded_command("run", source, "hello", "--max-new-tokens", "2", "--bits", "4", environment=environment)
    )
    assert len(list((cache / "models").glob("*.json"))) == 2


def test_losses_are_those_of_the_nearest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    for bits in table.WIDTHS:
        known = nearest_loss(100_000_000, bits)
        assert known is not None
        assert known.kl_nats is not None  # of one protocol
    small, large = MeasuredLoss("small", 100_000_000, 4, 0.3, 0.4), MeasuredLoss("large", 500_000_000, 4, 0.1, 0.2)
    monkeypatch.setattr(losses, "_rows", lambda: (small, large))
    assert [nearest_loss(size, 4) for size in (1, 200_000_000, 300_000_000, 7_000_000_000)] == [
        small,
        small,
        large,
        large,
    ]
    assert nearest_loss(100_000_000, 5) is None
