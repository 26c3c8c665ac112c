"""Several processes tune one model: equal integers in all, close to those of one process, and errors that end all."""

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
from tuning_file import tuning_file

from ovround.artifact.manifest import Manifest, check_files, read_manifest
from ovround.conversion.convert import convert, prepare
from ovround.errors import ResumeError, UsageError
from ovround.options.convert_options import ConvertOptions
from ovround.options.tuning_options import TuningOptions
from ovround.quant.calibration.samples import Calibration
from ovround.quant.distributed.launch import Launch
from ovround.quant.memory import MemoryNeed, memory_need

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

BLOCKS = 6
WORK = ".out.ovround-work"
TUNING = (
    "--format", "onnx", "--group-size", "64", "--bits", "3", "--nsamples", "48", "--seqlen", "32", "--iters", "8",
    "--tuning", str(Path(__file__).with_name("distributed.toml")),
)  # fmt: skip
OPTIONS = ConvertOptions(
    formats=("onnx",),
    group_size=64,
    bits=3,
    nsamples=48,
    seqlen=32,
    iters=8,
    tuning=TuningOptions(initial_grid="search", end_to_end_steps=2),
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
    """Two processes as torchrun would start them; `fault` is the failure of the second."""

    def __init__(self, servers: list[CommandServer], fault: Path) -> None:
        self._servers, self._fault = servers, fault

    def __call__(self, *arguments: object, second: tuple[str, ...] = (), fault: str = "") -> list[Result]:
        """The results of a command in both; the second process gets the arguments `second` too."""
        self._fault.unlink(missing_ok=True)
        if fault:
            self._fault.write_text(fault, encoding="utf-8")
        with ThreadPoolExecutor(2) as threads:
            words = ((), second)
            running = [
                threads.submit(server, *arguments, *more) for server, more in zip(self._servers, words, strict=True)
            ]
            return [result.result() for result in running]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    common = {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1] / "support"), "OVROUND_TEST_FAULT": str(folder / "fault"),
    }  # fmt: skip
    servers = []
    with ExitStack() as stack:
        for rank in range(2):
            modules = [
                "ovround.exporters.onnx.package",
                "ovround.quant.passes.tuning",
                *(["fault_injection"] if rank else []),
            ]
            (folder / str(rank)).mkdir()
            environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            servers.append(stack.enter_context(CommandServer(folder / str(rank), modules, environment)))
        yield Pair(servers, folder / "fault")


@pytest.mark.slow
def test_two_processes_end_near_one(torchrun: Path, alone: Manifest) -> None:
    manifest = read_manifest(torchrun)
    check_files(torchrun, manifest, contents=True)
    assert (manifest.processes, alone.processes) == (2, 1)
    assert "\ntorchrun --nproc-per-node 2 -m ovround convert demo " in (torchrun / "README.md").read_text()
    assert [path.name for path in torchrun.parent.iterdir()] == ["out"]
    single, shared = alone.quality, manifest.quality
    assert single is not None
    assert shared is not None
    assert shared.tokens == single.tokens
    # The original model on the same samples: sums in another order.
    assert shared.perplexity_original == pytest.approx(single.perplexity_original, rel=1e-5)
    # Other batches, so other integers.
    assert shared.perplexity_quantised == pytest.approx(single.perplexity_quantised, rel=0.1)
    assert shared.kl_nats == pytest.approx(single.kl_nats, rel=0.2)
    for a, b in zip(alone.blocks, manifest.blocks, strict=True):
        assert b.loss_after == pytest.approx(a.loss_after, rel=0.2)
        assert b.loss_after < b.loss_before


def need_of_one_process(out: Path) -> MemoryNeed:
    """Memory of one of two processes: half of the samples, half of each batch."""
    job = prepare("demo", out, OPTIONS)
    assert job.calibration is not None
    shared = replace(job.settings, batch_size=job.settings.batch_size // 2)
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
    need = need_of_one_process(out)
    limit = need.least + need.activations - 1  # the activations of each go to files
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
    other = tuning_file(tmp_path, initial_grid="search", end_to_end_steps=2, robust_loss=True)
    first, second = pair("convert", "demo", tmp_path / "out", *TUNING, "--quiet", second=("--tuning", str(other)))
    assert (first.status, second.status) == (1, 1)
    assert first.stderr.splitlines()[0] == "error: robust_loss is null in process 0, true in process 1"
    assert list(tmp_path.iterdir()) == [other]


# What is refused before anything is done


def test_how_a_process_was_started() -> None:
    environment = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert Launch.from_environment(environment) == Launch(3, 4, 1)
    assert (
        Launch.from_environment({})
        == Launch.from_environment({**environment, "WORLD_SIZE": "1", "RANK": "0"})
        == Launch()
    )
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        with pytest.raises(UsageError, match=f"WORLD_SIZE is `4`, yet {name} is not set"):
            Launch.from_environment({key: value for key, value in environment.items() if key != name})
    with pytest.raises(UsageError, match="RANK is `x`, which is no number"):
        Launch.from_environment({**environment, "RANK": "x"})
    with pytest.raises(UsageError, match="process 4 of 4"):
        Launch.from_environment({**environment, "RANK": "4"})


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        (
            ConvertOptions(group_size=64, tuning=TuningOptions(batch_size=8)),
            "batch_size is 8; 3 processes share a batch, which must be a multiple of that",
            "echo 'batch_size = 9' > tuning.toml, then --tuning tuning.toml",
        ),
        (
            ConvertOptions(group_size=64, recipe="rtn"),
            "3 processes were started, yet nothing is tuned",
            "run it without torchrun",
        ),
        (
            ConvertOptions(group_size=64, tuning=TuningOptions(batch_size=3), nsamples=2, seqlen=32),
            "2 samples to tune on are fewer than 3 processes",
            "start fewer",
        ),
    ],
)
def test_work_that_cannot_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: ConvertOptions, error: str, hint: str
) -> None:
    environment = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        prepare("demo", tmp_path / "out", options)
    assert (str(caught.value), caught.value.hint) == (error, hint)


@pytest.mark.parametrize(("samples", "held_out", "size"), [(18, 2, 2), (9, 1, 2), (21, 2, 4)])
def test_every_sample_belongs_to_one_process(samples: int, held_out: int, size: int) -> None:
    whole = Calibration(np.arange(samples, dtype=np.int64).reshape(-1, 1), held_out)
    parts = [whole.part(rank, size) for rank in range(size)]
    train = samples - held_out
    tuned_on = [row for part in parts for row in part.samples[: len(part.samples) - part.held_out].ravel()]
    kept = [row for part in parts for row in part.samples[len(part.samples) - part.held_out :].ravel()]
    assert sorted(tuned_on) == list(range(train))
    assert sorted(kept) == list(range(train, samples))
    assert whole.part(0, 1) is whole
