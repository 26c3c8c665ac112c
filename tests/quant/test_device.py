"""The tuning device: how it is chosen, the errors where it is missing, and that the CPU's results stay the same.

No accelerator is needed: torch's answers about them are replaced, and `fake_device` stands in for one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from command_server import CommandServer
from failing_steps import contents
from fake_device import AT, fake_device
from passes_of_job import context_of

from ovround.conversion.convert import convert, prepare
from ovround.errors import EngineError, UsageError
from ovround.options.convert_options import ConvertOptions
from ovround.options.tuning_options import TuningOptions
from ovround.quant import device as device_module
from ovround.quant.block_store import END_TO_END, TUNED, block_store
from ovround.quant.device import CPU, Device, open_device, resolve
from ovround.quant.passes.block_pass import BlockPass
from ovround.quant.passes.model_pass import ModelPass
from ovround.quant.product_dtype import product_dtype

Machine = Callable[..., list[int]]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A function that sets the number of accelerators by kind, and returns the list of chosen devices."""

    def have(**counts: int) -> list[int]:
        chosen: list[int] = []

        def accelerator(count: int) -> SimpleNamespace:
            return SimpleNamespace(
                is_available=lambda: count > 0,
                device_count=lambda: count,
                set_device=chosen.append,
                get_device_name=lambda at: f"Model {at}",
            )

        for kind in device_module.ACCELERATORS:
            actual = accelerator(counts.get(kind, 0))
            monkeypatch.setattr(torch, kind, actual, raising=False)
        for name in ("habana_frameworks", "habana_frameworks.torch"):
            if "hpu" in counts:
                module = ModuleType(name)
                module.__spec__ = SimpleNamespace(name=name)  # type: ignore[assignment]
                monkeypatch.setitem(sys.modules, name, module)
            else:
                monkeypatch.delitem(sys.modules, name, raising=False)
        return chosen

    return have


@pytest.mark.parametrize(
    ("available", "name", "expected"),
    [
        ({}, "cpu", "cpu"),
        ({}, "auto", "cpu"),
        ({"cuda": 1}, "cpu", "cpu"),
        ({"cuda": 1}, "auto", "cuda"),
        ({"cuda": 1, "xpu": 1, "hpu": 8}, "auto", "cuda"),
        ({"xpu": 1, "hpu": 8}, "auto", "xpu"),
        ({"hpu": 8}, "auto", "hpu"),
        ({"cuda": 1, "hpu": 8}, "hpu", "hpu"),
        ({"hpu": 0}, "auto", "cpu"),
    ],
)
def test_what_a_name_means(machine: Machine, available: dict[str, int], name: str, expected: str) -> None:
    machine(**available)
    assert resolve(name) == expected


NOT_FOUND = f"which torch {torch.__version__} does not find on this machine"


@pytest.mark.parametrize(
    ("there", "name", "error", "hint"),
    [
        ({}, "cuda", f"device is cuda, {NOT_FOUND}", "available: auto, cpu"),
        ({"xpu": 1}, "cuda", f"device is cuda, {NOT_FOUND}", "available: auto, cpu, xpu"),
        (
            {"cuda": 1},
            "hpu",
            "device is hpu, which needs `habana_frameworks.torch`; it is not installed",
            "available: auto, cpu, cuda",
        ),
        ({"hpu": 0}, "hpu", f"device is hpu, {NOT_FOUND}", "available: auto, cpu"),
    ],
)
def test_a_device_that_is_not_there(
    machine: Machine, tmp_path: Path, there: dict[str, int], name: str, error: str, hint: str
) -> None:
    machine(**there)
    with pytest.raises(EngineError) as caught:
        prepare("demo", tmp_path / "out", ConvertOptions(group_size=64, device=name, nsamples=8, seqlen=32))
    assert (str(caught.value), caught.value.hint) == (error, hint)
    assert list(tmp_path.iterdir()) == []


def test_each_process_of_a_machine_has_its_own(machine: Machine) -> None:
    chosen = machine(cuda=2)
    assert open_device("cpu", 5) is CPU
    second = open_device("cuda", 1)
    assert (second.at, second.kind, second.model()) == (torch.device("cuda", 1), "cuda", "Model cuda:1")
    assert chosen == [1]
    with pytest.raises(EngineError) as caught:
        open_device("cuda", 2)
    assert str(caught.value) == "process 2 of this machine finds 2 cuda devices"
    assert caught.value.hint == "torchrun --nproc-per-node 2, or --device cpu"


def test_the_cpu_moves_nothing() -> None:
    tensor = torch.zeros(3)
    assert CPU.put(tensor) is tensor
    assert CPU.model() == ""
    CPU.end_step()


def test_accelerators_take_bfloat16_steps_up_to_four_bits() -> None:
    for kind in device_module.ACCELERATORS:
        device = Device(torch.device(kind, 0))
        assert [product_dtype([bits], device) for bits in (2, 4, 8)] == [torch.bfloat16, torch.bfloat16, None]
    assert product_dtype([8, 4]) is None


def test_auto_is_written_down_as_what_was_used(
    machine: Machine, tiny_source: Path, text_file: Path, tmp_path: Path
) -> None:
    machine()
    bytes_of = []
    for number, name in enumerate(("cpu", "auto")):
        options = ConvertOptions(
            formats=("onnx",), group_size=32, iters=2, nsamples=8, seqlen=32, device=name, calibration=(text_file,)
        )
        conversion = convert(tiny_source, tmp_path / str(number) / "out", options)
        assert conversion.manifests[0].options["device"] == "cpu"
        bytes_of.append(contents(conversion.folders[0]))
    assert bytes_of[0] == bytes_of[1]


def test_rounding_has_no_device(machine: Machine, tmp_path: Path) -> None:
    machine(cuda=1)
    job = prepare("demo", tmp_path / "out", ConvertOptions(group_size=64, recipe="rtn", device="auto"))
    assert job.options.device == "cpu"
    with pytest.raises(UsageError, match="device is cuda, yet nothing is tuned"):
        prepare("demo", tmp_path / "out", ConvertOptions(group_size=64, recipe="rtn", device="cuda"))
    with pytest.raises(UsageError, match="device is `tpu`; allowed: auto, cpu, cuda, xpu, hpu"):
        ConvertOptions(device="tpu")


def test_torch_is_imported_for_other_devices_only(command: CommandServer, tmp_path: Path) -> None:
    """A refused memory limit ends the command at a point where the imported modules can be checked."""
    words = ("--group-size", "64", "--nsamples", "8", "--seqlen", "32", "--memory-limit", "1 MB")
    for name, imported in (("cpu", False), ("auto", True)):
        result = command("convert", "demo", tmp_path / "out", "--device", name, *words)
        assert (result.status, "torch" in result.modules) == (2, imported), result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"bits": 8, "sym": False, "activation_engine": "openvino"},
        {"bits": 8, "tuning": TuningOptions(batch_size=4, scales="clipped", end_to_end_steps=0)},
        {"bits": 3, "sym": False, "tuning": TuningOptions(batch_size=4, initial_grid="search", end_to_end_steps=2)},
    ],
    ids=["asym, 8-bit activations", "clipped", "3 bits"],
)
def test_tensors_of_two_devices_never_meet(
    tiny_source: Path, text_file: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    """The whole tuning, on a device that computes like the CPU and refuses tensors that were not moved to it."""
    base = ConvertOptions(
        group_size=32, iters=2, nsamples=8, seqlen=32, tuning=TuningOptions(batch_size=4, end_to_end_steps=2)
    )
    job = prepare(str(tiny_source), tmp_path / "out", replace(base, calibration=(text_file,), **changes))
    assert job.calibration is not None
    actual = []
    for device in (CPU, Device(AT)):
        with block_store(tmp_path / device.kind, job.checkpoint, job.decoder.config.num_hidden_layers) as store:
            store.begin({})
            context, stage = context_of(job, device=device), TUNED
            with contextlib.nullcontext() if device is CPU else fake_device():
                BlockPass(context).run(store)
                if job.settings.end_to_end_steps:
                    stage = END_TO_END
                    ModelPass(context, job.settings.end_to_end_steps).run(store)
            actual.append((store.read_quality(stage), [store.read(layer, stage) for layer in range(store.blocks)]))
    (quality, blocks), (other_quality, other_blocks) = actual
    assert quality is not None
    assert other_quality is not None
    # Attention of another kernel, and bfloat16 steps on one side: levels differ here and there, and 8 bits lose little.
    assert other_quality.perplexity_original == pytest.approx(quality.perplexity_original, rel=1e-4)
    assert other_quality.perplexity_quantised == pytest.approx(quality.perplexity_quantised, rel=0.05)
    for block, other in zip(blocks, other_blocks, strict=True):
        assert block.record is not None
        assert other.record is not None
        assert other.record.loss_before == pytest.approx(block.record.loss_before, rel=0.2)
        assert [tensor.name for tensor in other.tensors] == [tensor.name for tensor in block.tensors]


def test_a_tensor_that_was_not_moved_is_noticed() -> None:
    """The smallest fault that the test above must detect."""
    with fake_device(), pytest.raises(AssertionError, match="tensors on two devices"):
        Device(AT).put(torch.zeros(2)) + torch.zeros(2)
