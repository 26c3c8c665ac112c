"""What the tests share: the folder of real models, tiny checkpoints, and the demo model converted once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoint_writer import write_checkpoint
from command_server import CommandServer, Result
from cpp_build import ROOT, SOURCE, built, need_compiler
from damaged_checkpoint import Case
from hypothesis import HealthCheck, settings
from mutations import SCALE

from ovround.artifact.manifest import ENGINE_FORMATS
from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions

pytest_plugins = ["tiny_model"]

_CACHE = tempfile.TemporaryDirectory(prefix="ovround-tests-")  # commands of tests keep no model in the user's own cache
os.environ["OVROUND_CACHE"] = _CACHE.name
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the forks of the tests
torch.set_num_threads(1)

# No time limit for an example, since the machine may be busy; the same examples in each run, but others in `make nightly`.
settings.register_profile("suite", deadline=None, derandomize=SCALE == 1, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Files of few tests that take minutes: they begin, so that no worker waits for another in the end.
LONG = (
    "test_cpp_sanitizers.py", "test_cpp_package.py", "test_cpp.py", "test_lm_eval_harness.py", "test_power_cut.py",
    "test_resume.py", "test_device.py", "test_payloads.py",
)  # fmt: skip
CALIBRATION = Path(__file__).resolve().parents[1] / "ovround" / "calibration.txt"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_runtest_setup(item: pytest.Item) -> None:
    torch.manual_seed(0)  # before the test's fixtures: no test depends on those that ran before it


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of trained models and texts that may lie beside the repository."""
    folder = Path(__file__).resolve().parents[1].parent / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("no folder shared/models beside the repository")
    return folder


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder that the C++ runtime is built in."""
    need_compiler()
    return built(SOURCE, ROOT / "build" / "cpp")


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint that nobody changes."""
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny")


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few thousand words of the built-in calibration text: enough for tiny models, quick to tokenise."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(CALIBRATION.read_text(encoding="utf-8")[:20_000], encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_folders(tiny_source: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny checkpoint, tuned for a few steps, by format."""
    options = ConvertOptions(
        formats=ENGINE_FORMATS, group_size=32, sym=False, iters=3, nsamples=8, seqlen=32, calibration=(text_file,)
    )
    folders = convert(tiny_source, tmp_path_factory.mktemp("tiny") / "out", options).folders
    return dict(zip(ENGINE_FORMATS, folders, strict=True))


@pytest.fixture(scope="session")
def demo_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo model in 4 bits, rounded to nearest, by format."""
    options = ConvertOptions(formats=ENGINE_FORMATS, group_size=64, recipe="rtn")
    return dict(
        zip(ENGINE_FORMATS, convert("demo", tmp_path_factory.mktemp("demo") / "out", options).folders, strict=True)
    )


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    """The command line in a process that has not imported torch."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    with CommandServer(tmp_path_factory.mktemp("commands"), ["ovround.conversion.convert"]) as server:
        yield server


@pytest.fixture(scope="session")
def loaded_command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    """The command line in a process that has imported torch and both engines: conversions start at once."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    modules = [
        "ovround.exporters.openvino.package", "ovround.exporters.onnx.package", "ovround.quant.passes.tuning",
        "ovround.runtime",
    ]  # fmt: skip
    with CommandServer(tmp_path_factory.mktemp("commands"), modules) as server:
        yield server


@pytest.fixture(scope="session")
def tuning() -> tuple[str, ...]:
    """Options of `convert` that tune the demo model in seconds, and enough to change weights."""
    steps = ("--iters", "12", "--nsamples", "8", "--seqlen", "64")
    return (*steps, "--group-size", "64", "--bits", "3", "--asym")


@pytest.fixture(scope="session")
def converted(
    tmp_path_factory: pytest.TempPathFactory, loaded_command: CommandServer, tuning: tuple[str, ...]
) -> tuple[Path, Result]:
    """The demo model tuned a little by the command itself, both formats; the folder and what was printed."""
    out = tmp_path_factory.mktemp("cli") / "out"
    result = loaded_command("convert", "demo", out, *tuning, "--format", "openvino", "--format", "onnx")
    return out, result


@pytest.fixture
def case(tmp_path: Path, command: CommandServer) -> Case:
    """A sound tiny checkpoint, to be damaged."""
    return Case(tmp_path, command)
