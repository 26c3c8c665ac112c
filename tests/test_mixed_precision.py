"""A budget in bits, bytes or milliseconds is met; written sizes are those that were counted; a plan gives the same weights."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_writer import tiny_config, write_checkpoint
from command_server import CommandServer, succeeded
from converted_weights import DATA_FILES

from ovround.artifact.manifest import ENGINE_FORMATS, read_manifest
from ovround.conversion.bit_budget import widest
from ovround.conversion.convert import Conversion, Job, convert, prepare
from ovround.conversion.latency_table import LatencyRow, LatencyTable, write_table
from ovround.errors import UsageError
from ovround.exporters.exporter import record_of
from ovround.exporters.formats import sizes_of
from ovround.exporters.onnx import matmul_nbits
from ovround.exporters.onnx.external_data import DataFile
from ovround.exporters.openvino import compressed
from ovround.exporters.openvino.constants import ConstantFile
from ovround.exporters.sizes import exact_bits
from ovround.options.budget import Budget
from ovround.options.convert_options import ConvertOptions
from ovround.options.layer_rule import LayerRule
from ovround.quant.plan import weight_shapes
from ovround.quant.plan_file import PLAN_FILE, read_plan
from ovround.tensors.float_tensor import FloatTensor
from ovround.tensors.qtensor import QTensor
from ovround.tensors.scheme import QuantScheme

TINY = ConvertOptions(recipe="rtn", group_size=32, nsamples=8, seqlen=32, formats=("onnx",))


@pytest.fixture(scope="module")
def options(text_file: Path) -> ConvertOptions:
    return replace(TINY, calibration=(text_file,))


def data_bytes(conversion: Conversion) -> list[int]:
    """The size of each weights file."""
    return [
        (folder / DATA_FILES[manifest.format]).stat().st_size
        for folder, manifest in zip(conversion.folders, conversion.manifests, strict=True)
    ]


def refused(call: Any, *arguments: Any, **keywords: Any) -> tuple[str, str | None]:
    with pytest.raises(UsageError) as caught:
        call(*arguments, **keywords)
    return str(caught.value), caught.value.hint


# Bits


@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
def test_the_average_counts_codes_scales_and_zero_points(
    tiny_source: Path, tmp_path: Path, options: ConvertOptions, symmetric: bool
) -> None:
    given = replace(options, budget=Budget(4.0, "bits"), sym=symmetric, formats=ENGINE_FORMATS)
    conversion = convert(tiny_source, tmp_path / "out", given)
    inner = [record for record in conversion.manifests[0].weights if ".layers." in record.name and record.group_size]
    weights = sum(math.prod(record.shape) for record in inner)
    nominal = sum(
        math.prod(record.shape) * (record.bits + (16 + (0 if symmetric else record.bits)) / 32) for record in inner
    )
    assert conversion.allocation is not None
    assert conversion.allocation.reached == pytest.approx(nominal / weights, rel=1e-12)
    assert 3.8 < conversion.allocation.reached <= 4.0
    assert len({record.bits for record in inner}) > 1
    assert conversion.allocation.loss_rise_nats > 0


def test_layers_that_engines_fuse_share_their_bits(tiny_source: Path, tmp_path: Path, options: ConvertOptions) -> None:
    conversion = convert(tiny_source, tmp_path / "out", replace(options, budget=Budget(4.2, "bits")))
    decoder = prepare(str(tiny_source), tmp_path / "other", options).decoder
    for layer in range(2):
        for group in decoder.fused(layer):
            assert len({conversion.plan[name] for name in group}) == 1


def test_rules_are_kept(tiny_source: Path, tmp_path: Path, options: ConvertOptions) -> None:
    rules = (LayerRule("0.*o_proj", bits=16), LayerRule("k_proj", bits=8), LayerRule("down_proj", group_size=16))
    plan = convert(tiny_source, tmp_path / "out", replace(options, budget=Budget(4.5, "bits"), layers=rules)).plan
    assert plan["model.layers.0.self_attn.o_proj"] is None
    assert {plan[f"model.layers.{n}.self_attn.k_proj"] for n in (0, 1)} == {QuantScheme(8, 32, True)}
    down = plan["model.layers.1.mlp.down_proj"]
    assert down is not None
    assert down.group_size == 16


def test_a_target_out_of_reach_names_what_can_be_reached(
    tiny_source: Path, tmp_path: Path, options: ConvertOptions
) -> None:
    out = tmp_path / "out"
    message, hint = refused(prepare, str(tiny_source), out, replace(options, budget=Budget(2.0, "bits")))
    assert message == "budget is 2 bits; 2.5 bits to 8.5 bits can be reached"
    assert hint == "larger groups, --sym, or fewer layers that --layer fixes lower it"
    message, hint = refused(prepare, str(tiny_source), out, replace(options, budget=Budget(9.0, "bits")))
    assert (message, hint) == (
        "budget is 9 bits; 2.5 bits to 8.5 bits can be reached",
        "--bits 8 takes no more than that",
    )
    rules = (LayerRule("proj", bits=4),)
    message, _ = refused(prepare, str(tiny_source), out, replace(options, budget=Budget(4.0, "bits"), layers=rules))
    assert message == "budget has nothing to choose: layer rules state the bits of every linear layer"
    assert not out.exists()


def test_the_lowest_and_the_highest_can_be_reached(tiny_source: Path, tmp_path: Path, options: ConvertOptions) -> None:
    for bits, budget_bits in ((2, 2.5), (8, 8.5)):
        conversion = convert(tiny_source, tmp_path / str(bits), replace(options, budget=Budget(budget_bits, "bits")))
        bit_widths = {scheme.bits for name, scheme in conversion.plan.items() if ".layers." in name and scheme}
        assert bit_widths == {bits}


# Bytes


def reachable(source: Path | str, out: Path, options: ConvertOptions) -> tuple[int, int]:
    """The lowest and the highest size, from the message of one that cannot be reached."""
    message, _ = refused(prepare, str(source), out, replace(options, budget=Budget(1, "bytes")))
    sizes = re.fullmatch(r"budget is 1 bytes; (\d+) bytes to (\d+) bytes can be reached", message)
    assert sizes
    return int(sizes[1]), int(sizes[2])


@pytest.mark.parametrize("formats", [("openvino",), ("onnx",), ENGINE_FORMATS], ids="+".join)
def test_the_weights_file_of_the_demo_model_is_as_small_as_was_asked(tmp_path: Path, formats: tuple[str, ...]) -> None:
    base = ConvertOptions(recipe="rtn", group_size=64, nsamples=8, seqlen=64, formats=formats)
    lowest, highest = reachable("demo", tmp_path / "out", base)
    budget_bytes = lowest + (highest - lowest) // 3
    conversion = convert("demo", tmp_path / "out", replace(base, budget=Budget(budget_bytes, "bytes")))
    assert conversion.allocation is not None
    assert conversion.allocation.reached <= budget_bytes
    largest = max(data_bytes(conversion))
    # OpenVINO's small constants are counted with some room
    assert 0.97 * conversion.allocation.reached < largest <= conversion.allocation.reached


@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize("group_size", [16, 32, -1])
@pytest.mark.parametrize(
    "ends", [{}, {"lm_head_bits": 2, "embedding_bits": 2}, {"lm_head_bits": 16, "embedding_bits": 16}]
)
@pytest.mark.parametrize("format_name", ENGINE_FORMATS)
def test_no_weights_file_is_larger_than_was_counted(
    tmp_path: Path, text_file: Path, symmetric: bool, group_size: int, ends: dict[str, int], format_name: str
) -> None:
    """Every scheme, biases, tied and untied: mixed at both ends of the reachable range."""
    for tied in (False, True):
        config = tiny_config(tie_word_embeddings=tied)
        source = write_checkpoint(tmp_path / f"source{tied}", config, dtype="F16" if tied else "F32")
        base = replace(TINY, calibration=(text_file,), group_size=group_size, sym=symmetric, formats=(format_name,))
        base = replace(base, **ends)  # type: ignore[arg-type]
        lowest, highest = reachable(source, tmp_path / "out", base)
        for size_bytes in (lowest, (lowest + highest) // 2):
            conversion = convert(source, tmp_path / "out", replace(base, budget=Budget(size_bytes, "bytes")))
            assert conversion.allocation is not None
            assert data_bytes(conversion)[0] <= conversion.allocation.reached <= size_bytes


@pytest.mark.parametrize("table", [False, True], ids=["linear", "table"])
@pytest.mark.parametrize("symmetric", [False, True], ids=["asym", "sym"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_sizes_are_those_of_the_written_file(tmp_path: Path, bits: int, symmetric: bool, table: bool) -> None:
    name = "model.embed_tokens.weight" if table else "w.weight"
    rng, (rows, columns) = np.random.default_rng(bits), (24, 192)
    for group in (32, 64, -1):
        groups = columns // (columns if group == -1 else group)
        codes = rng.integers(0, 1 << bits, (rows, columns), np.uint8)
        zero_points = None if symmetric else rng.integers(0, 1 << bits, (rows, groups), np.uint8)
        weight = QTensor(codes, np.ones((rows, groups), np.float16), zero_points, bits)
        scheme = QuantScheme(bits, group, symmetric)
        for file, write in (
            (ConstantFile(tmp_path / "openvino"), compressed.write_weight),
            (DataFile(tmp_path / "onnx"), matmul_nbits.write_weight),
        ):
            write(file, name, weight, table=table)  # type: ignore[operator]
            write(file, "next", FloatTensor(np.ones(1, np.float32), "float32"), table=False)  # type: ignore[operator]
            file.close()
            counted = sizes_of(file.path.name).weight_bytes(name, (rows, columns), scheme, 4)
            assert counted == file.entries["next"].offset, (file.path.name, group)
        assert sizes_of("gptq").weight_bytes(name, (rows, columns), scheme, 4) >= weight.size_bytes
        assert exact_bits((rows, columns), scheme) == 8 * record_of(name, weight).size_bytes


def test_space_is_looked_for_as_if_every_choice_were_the_widest(
    tiny_source: Path, tmp_path: Path, options: ConvertOptions
) -> None:
    job = prepare(str(tiny_source), tmp_path / "out", replace(options, budget=Budget(4.0, "bits")))
    assert {scheme.bits for scheme in widest(job.budget, job.plan).values() if scheme} == {8}
    assert widest(None, job.plan) == job.plan


# Milliseconds


def table_of(job: Job, **changes: Any) -> LatencyTable:
    """A table in which a weight takes a nanosecond a byte of its codes."""
    shapes = sorted({shape for shape in weight_shapes(job.decoder).values() if len(shape) == 2})
    rows = tuple(LatencyRow(n, k, bits, n * k * bits / 8e6) for n, k in shapes for bits in (2, 3, 4, 8, 16))
    table = LatencyTable("onnx", "CPU", "a processor", 1, 32, True, {"onnxruntime": "1"}, rows)
    return replace(table, **changes)


@pytest.fixture
def table_file(tiny_source: Path, tmp_path: Path, options: ConvertOptions) -> Path:
    path = tmp_path / "table.json"
    write_table(path, table_of(prepare(str(tiny_source), tmp_path / "out", options)))
    return path


def test_a_latency_is_the_tables_sum_over_linear_layers_and_head(
    tiny_source: Path, tmp_path: Path, options: ConvertOptions, table_file: Path
) -> None:
    given = replace(options, budget=Budget(0.08, "ms", table_file))
    conversion = convert(tiny_source, tmp_path / "out", given)
    read_once = [
        record for record in conversion.manifests[0].weights if record.group_size and "embed" not in record.name
    ]
    expected = sum(math.prod(record.shape) * record.bits / 8e6 for record in read_once)
    assert conversion.allocation is not None
    assert conversion.allocation.reached == pytest.approx(expected, abs=1e-5)  # of whole nanoseconds
    assert 0.07 < conversion.allocation.reached <= 0.08
    message, hint = refused(
        prepare, str(tiny_source), tmp_path / "out", replace(given, budget=Budget(0.001, "ms", table_file))
    )
    assert message.startswith("budget is 0.001 ms; 0.0")
    assert message.endswith(" ms can be reached")
    assert hint == "--lm-head-bits, or fewer layers that --layer fixes lower it"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 64}, "was measured with groups of 64, symmetric; `lm_head` has groups of 32, symmetric"),
        ({"symmetric": False}, "was measured with groups of 32, asymmetric; `lm_head` has groups of 32, symmetric"),
        ({"format": "openvino"}, "was measured for openvino; the format is onnx"),
        ({"rows": ()}, "has no row for 320 x 64 at 8 bits, which `lm_head` needs"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    tiny_source: Path, tmp_path: Path, options: ConvertOptions, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "table.json"
    write_table(path, table_of(prepare(str(tiny_source), tmp_path / "out", options), **changes))
    given = replace(options, budget=Budget(1.0, "ms", path))
    assert refused(prepare, str(tiny_source), tmp_path / "out", given)[0] == f"latency table `{path}` {message}"


# The plan, given back


@pytest.mark.parametrize("tuned", [False, True], ids=["rounded", "tuned"])
def test_a_plan_given_back_gives_the_same_weights(
    tiny_source: Path, tmp_path: Path, options: ConvertOptions, tuned: bool
) -> None:
    base = replace(options, formats=ENGINE_FORMATS, **({"recipe": "light", "iters": 3} if tuned else {}))  # type: ignore[arg-type]
    first = convert(tiny_source, tmp_path / "a", replace(base, budget=Budget(3.7, "bits")))
    file = first.folders[0] / PLAN_FILE
    again = convert(tiny_source, tmp_path / "b", replace(base, plan=file, group_size=None))
    assert again.plan == first.plan
    assert again.allocation is None
    assert len({scheme.bits for scheme in first.plan.values() if scheme}) > 2
    for a, b, manifest in zip(first.folders, again.folders, first.manifests, strict=True):
        for name in (DATA_FILES[manifest.format], PLAN_FILE):
            assert (a / name).read_bytes() == (b / name).read_bytes()
        assert PLAN_FILE in read_manifest(b).files
    assert [record.sha256 for record in again.manifests[0].weights] == [
        record.sha256 for record in first.manifests[0].weights
    ]


def test_the_same_budget_gives_the_same_plan(tiny_source: Path, tmp_path: Path, options: ConvertOptions) -> None:
    given = replace(options, budget=Budget(3.7, "bits"))
    plans = [convert(tiny_source, tmp_path / name, given).plan for name in "ab"]
    assert plans[0] == plans[1]
    assert not (convert(tiny_source, tmp_path / "c", options).folders[0] / PLAN_FILE).exists()


# Options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": Budget(3.0, "bits"), "plan": Path("p")}, "budget and plan are both given"),
        ({"budget": Budget(3.0, "bits"), "bits": 2}, "budget chooses the bits, yet bits is given"),
        ({"plan": Path("p"), "sym": False}, "plan states every scheme, yet sym is given"),
        ({"plan": Path("p"), "lm_head_bits": 4}, "plan states every scheme, yet lm-head-bits is given"),
        ({"plan": Path("p"), "layers": (LayerRule("x", bits=2),)}, "plan states every scheme, yet layer is given"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    assert refused(ConvertOptions, **changes)[0] == message


def test_a_budget_is_bits_a_size_or_a_time() -> None:
    texts = ("4.2bits", "3 bits", "900MB", "1.5 GiB", "12ms:t.json", "0.5 s:t.json", "800us:t.json")
    expected = [
        (4.2, "bits"), (3.0, "bits"), (900_000_000, "bytes"), (3 << 29, "bytes"), (12.0, "ms"), (500.0, "ms"), (0.8, "ms"),
    ]  # fmt: skip
    budgets = [Budget.parse(text) for text in texts]
    assert [(budget.value, budget.unit) for budget in budgets] == expected
    assert [Budget.parse(budget.spec) for budget in budgets] == budgets


@pytest.mark.parametrize(
    "text", ["4.2", "900", "ms", "-1ms", "1e3ms", "12 min", "12m", "900 apples", "soon", "bits", "MB", ""]
)
def test_a_budget_without_a_unit_is_refused(text: str) -> None:
    message, hint = refused(Budget.parse, text)
    assert message == f"budget is `{text}`; bits, a size or a time is needed"
    assert (
        hint
        == "examples: --budget 4.2bits (average of a weight), 900MB (weights file) or 12ms:table.json (time a token)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("12ms", "budget is 12 ms without a latency table"),
        ("12ms:", "budget is 12 ms without a latency table"),
        ("4bits:t.json", "budget in bits has a latency table, `t.json`; only one in ms reads it"),
        ("900MB:t.json", "budget in bytes has a latency table, `t.json`; only one in ms reads it"),
    ],
)
def test_a_time_goes_with_a_latency_table_and_nothing_else_does(text: str, message: str) -> None:
    assert refused(Budget.parse, text)[0] == message


@pytest.mark.parametrize(("value", "unit"), [(0.0, "bits"), (math.nan, "bits"), (0, "bytes"), (math.inf, "ms")])
def test_a_budget_is_above_zero(value: float, unit: Any) -> None:
    assert refused(Budget, value, unit)[0] == f"budget is {value} {unit}; a number above 0 is needed"


# The command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--budget", "900 apples"), "budget is `900 apples`; bits, a size or a time is needed"),
        (("--budget", "0bits"), "budget is 0.0 bits; a number above 0 is needed"),
        (("--budget", "3bits", "--plan", "p"), "budget and plan are both given"),
        (("--budget", "1bits", "--group-size", "64"), "budget is 1 bits; 2.25 bits to 8.25 bits can be reached"),
        (("--budget", "1kB", "--group-size", "64"), "budget is 1000 bytes; "),
        (("--plan", "nothing.json"), "plan `nothing.json` does not exist"),
        (("--budget", "1ms:nothing.json"), "latency table `nothing.json` does not exist"),
    ],
)
def test_what_cannot_be_is_wrong_usage_before_torch(
    command: CommandServer, words: tuple[str, ...], message: str
) -> None:
    result = command("convert", "demo", "out", "--recipe", "rtn", *words)
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {message}")
    assert "torch" not in result.modules


def test_the_command_shows_the_plan(loaded_command: CommandServer, tiny_source: Path, tmp_path: Path) -> None:
    common = ("--recipe", "rtn", "--group-size", "32", "--nsamples", "8", "--seqlen", "32", "--format", "onnx")
    result = loaded_command("convert", tiny_source, tmp_path / "a", *common, "--budget", "4bits")
    lines = succeeded(result).splitlines()
    assert lines[1].split() == ["block", "q", "k", "v", "o", "gate", "up", "down"]
    assert len(lines) == 6
    assert lines[-1].startswith("budget 4 bits: ")
    assert "allocat" in result.stderr
    document = json.loads(
        succeeded(loaded_command("convert", tiny_source, tmp_path / "b", *common, "--json", "--budget", "4bits"))
    )
    written = json.loads((tmp_path / "a" / PLAN_FILE).read_text())
    assert document["plan"] == written["modules"]
    assert document["budget"]["unit"] == "bits"
    row = written["modules"]["model.layers.1.self_attn.q_proj"]["bits"]
    assert lines[4].split()[:2] == ["1", str(row)]
    decoder = prepare(str(tiny_source), tmp_path / "c", TINY).decoder
    assert read_plan(tmp_path / "b" / PLAN_FILE, decoder) == read_plan(tmp_path / "a" / PLAN_FILE, decoder)
