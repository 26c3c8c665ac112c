"""Several processes tune one model: the same integers in all of them, near those of one process, and errors that end all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_server import CommandServer, Result
from failing_steps import contents
from free_port import free_port

from ovround.artifact.manifest import Manifest, check_files, read_manifest
from ovround.conversion.convert import convert, prepare
from ovround.errors import ResumeError, UsageError
from ovround.options.convert_options import ConvertOptions
from ovround.quant.calibration.samples import Calibration
from ovround.quant.distributed.launch import Launch
from ovround.quant.memory import MemoryNeed, memory_need

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

BLOCKS = 6
WORK = ".out.ovround-work"
TUNING = (
    "--format", "onnx", "--group-size", "64", "--bits", "3", "--nsamples", "48", "--seqlen", "32", "--iters", "8",
    "--batch-size", "4", "--initial-grid", "search", "--end-to-end", "2",
)  # fmt: skip
OPTIONS = ConvertOptions(
    formats=("onnx",),
    group_size=64,
    bits=3,
    nsamples=48,
    seqlen=32,
    iters=8,
    batch_size=4,
    initial_grid="search",
    end_to_end=2,
)


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model converted by two processes, as a user would."""
    out = tmp_path_factory.mktemp("two") / "out"
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*words, "-m", "ovround", "convert", "demo", str(out), *TUNING],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2, "only the first process prints"
    assert done.stderr.count("reading back") == 1
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return convert("demo", tmp_path_factory.mktemp("one") / "out", OPTIONS).manifests[0]


class Pair:
    """Two processes that torchrun could have started; `fault` is what happens to the second."""

    def __init__(self, servers: list[CommandServer], fault: Path) -> None:
        self._servers, self._fault = servers, fault

    def __call__(self, *arguments: object, second: tuple[str, ...] = (), fault: str = "") -> list[Result]:
        """Run a command in both, `second` behind the arguments of the second; their results."""
        self._fault.unlink(missing_ok=True)
        if fault:
            self._fault.write_text(fault, encoding="utf-8")
        with ThreadPoolExecutor(2) as threads:
            words = ((), second)
            running = [threads.submit(one, *arguments, *more) for one, more in zip(self._servers, words, strict=True)]
            return [one.result() for one in running]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    place = tmp_path_factory.mktemp("pair")
    common = {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1] / "support"), "OVROUND_TEST_FAULT": str(place / "fault"),
    }  # fmt: skip
    servers = []
    with ExitStack() as stack:
        for rank in range(2):
            modules = ["ovround.exporters.onnx", "ovround.quant.passes.blocks", *(["fault_injection"] if rank else [])]
            (place / str(rank)).mkdir()
            environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            servers.append(stack.enter_context(CommandServer(place / str(rank), modules, environment)))
        yield Pair(servers, place / "fault")


@pytest.mark.slow
def test_two_processes_end_near_one(torchrun: Path, alone: Manifest) -> None:
    manifest = read_manifest(torchrun)
    check_files(torchrun, manifest, contents=True)
    assert (manifest.processes, alone.processes) == (2, 1)
    assert "\ntorchrun --nproc-per-node 2 -m ovround convert demo " in (torchrun / "README.md").read_text()
    assert [path.name for path in torchrun.parent.iterdir()] == ["out"]
    one, two = alone.quality, manifest.quality
    assert one is not None
    assert two is not None
    assert two.tokens == one.tokens
    # The original model on the same windows: sums in another order.
    assert two.perplexity_original == pytest.approx(one.perplexity_original, rel=1e-5)
    # Other batches, so other integers.
    assert two.perplexity_quantised == pytest.approx(one.perplexity_quantised, rel=0.1)
    assert two.kl_nats == pytest.approx(one.kl_nats, rel=0.2)
    for a, b in zip(alone.blocks, manifest.blocks, strict=True):
        assert b.loss_after == pytest.approx(a.loss_after, rel=0.2)
        assert b.loss_after < b.loss_before


def need_of_one(out: Path) -> MemoryNeed:
    """Memory of one of two processes: half of the windows, half of each batch."""
    job = prepare("demo", out, OPTIONS)
    assert job.calibration is not None
    shared = replace(OPTIONS, batch_size=OPTIONS.batch_size // 2)
    return memory_need(job.checkpoint, job.decoder, job.plan, shared, job.calibration.part(0, 2))


@pytest.mark.slow
def test_a_process_that_dies_ends_both_and_the_same_command_continues(
    torchrun: Path, pair: Pair, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first, second = pair("convert", "demo", out, *TUNING, "--quiet", fault="die 1")
    assert (first.status, second.status) == (1, -signal.SIGKILL)
    error, hint, note = first.stderr.splitlines()
    assert error.startswith("error: process 1 ended: ")
    assert hint == "hint: its own message says why; the same command continues from the blocks that are finished"
    assert note == f"note: 2 of {BLOCKS} blocks are kept in `{tmp_path / WORK}`; the same command continues"
    with pytest.raises(ResumeError) as caught:
        convert("demo", out, OPTIONS)
    assert str(caught.value).endswith(" were made from other inputs: processes was 2, is 1")
    need = need_of_one(out)
    limit = need.least + need.chains - 1  # the chains of each go to files
    first, second = pair("convert", "demo", out, *TUNING, "--memory-limit", limit)
    assert (first.status, second.status, second.stdout) == (0, 0, ""), first.stderr + second.stderr
    assert contents(out) == contents(torchrun)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_other_integers_in_one_process_are_noticed(pair: Pair, tmp_path: Path) -> None:
    first, second = pair("convert", "demo", tmp_path / "out", *TUNING, "--quiet", fault="differ 1")
    assert (first.status, second.status) == (1, 1)
    assert first.stderr.splitlines()[0] == "error: process 1 found other integers for block 1 than process 0"
    assert f"1 of {BLOCKS} blocks are kept" in first.stderr
    assert second.stderr.splitlines()[-1] == "note: the first process keeps the blocks that are finished"


@pytest.mark.slow
def test_other_inputs_in_one_process_are_named(pair: Pair, tmp_path: Path) -> None:
    first, second = pair("convert", "demo", tmp_path / "out", *TUNING, "--quiet", second=("--robust-loss",))
    assert (first.status, second.status) == (1, 1)
    assert first.stderr.splitlines()[0] == "error: robust-loss is null in process 0, true in process 1"
    assert list(tmp_path.iterdir()) == []


# What is refused before anything is done


def test_how_a_process_was_started() -> None:
    told = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert Launch.from_environment(told) == Launch(3, 4, 1)
    assert Launch.from_environment({}) == Launch.from_environment({**told, "WORLD_SIZE": "1", "RANK": "0"}) == Launch()
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        with pytest.raises(UsageError, match=f"WORLD_SIZE is `4`, yet {name} is not set"):
            Launch.from_environment({key: value for key, value in told.items() if key != name})
    with pytest.raises(UsageError, match="RANK is `x`, which is no number"):
        Launch.from_environment({**told, "RANK": "x"})
    with pytest.raises(UsageError, match="process 4 of 4"):
        Launch.from_environment({**told, "RANK": "4"})


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        (
            ConvertOptions(group_size=64, batch_size=8),
            "batch-size is 8; 3 processes share a batch, which must be a multiple of that",
            "--batch-size 9",
        ),
        (
            ConvertOptions(group_size=64, recipe="rtn"),
            "3 processes were started, yet nothing is tuned",
            "run it without torchrun",
        ),
        (
            ConvertOptions(group_size=64, batch_size=3, nsamples=2, seqlen=32),
            "2 windows to tune on are fewer than 3 processes",
            "start fewer",
        ),
    ],
)
def test_work_that_cannot_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: ConvertOptions, error: str, hint: str
) -> None:
    told = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        prepare("demo", tmp_path / "out", options)
    assert (str(caught.value), caught.value.hint) == (error, hint)


@pytest.mark.parametrize(("windows", "held_out", "size"), [(18, 2, 2), (9, 1, 2), (21, 2, 4)])
def test_every_window_belongs_to_one_process(windows: int, held_out: int, size: int) -> None:
    whole = Calibration(np.arange(windows, dtype=np.int64).reshape(-1, 1), held_out)
    parts = [whole.part(rank, size) for rank in range(size)]
    train = windows - held_out
    tuned_on = [row for part in parts for row in part.windows[: len(part.windows) - part.held_out].ravel()]
    kept = [row for part in parts for row in part.windows[len(part.windows) - part.held_out :].ravel()]
    assert sorted(tuned_on) == list(range(train))
    assert sorted(kept) == list(range(train, windows))
    assert whole.part(0, 1) is whole
