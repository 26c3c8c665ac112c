"""Four processes tune one model and each is killed once: the others end soon and name it, and the same command continues."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from checkpoint_writer import tiny_config, write_checkpoint
from command_server import CommandServer, Result
from failing_steps import contents
from free_port import free_port
from mutations import SCALE

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")]

SIZE, BLOCKS = 4, 4
END_S = 120  # seconds; on an idle machine it is less than 30
TUNING = (
    "--format", "onnx", "--group-size", "32", "--bits", "3", "--nsamples", "16", "--seqlen", "32", "--iters", "4",
    "--quiet",
)  # fmt: skip


class Processes:
    """The processes that torchrun starts with `--nproc-per-node 4`."""

    def __init__(self, servers: list[CommandServer], faults: list[Path]) -> None:
        self._servers, self._faults = servers, faults

    def __call__(self, *arguments: object, die: tuple[int, int] | None = None) -> tuple[list[Result], list[float]]:
        """The results and end times of all processes; `die` (rank, block) kills one process when it finishes the block."""
        for rank, fault in enumerate(self._faults):
            fault.write_text(f"die {die[1]}" if die is not None and rank == die[0] else "nothing 0", encoding="utf-8")

        def run_command(server: CommandServer) -> tuple[Result, float]:
            return server(*arguments), time.monotonic()

        with ThreadPoolExecutor(SIZE) as threads:
            outcomes = list(threads.map(run_command, self._servers))
        return [result for result, _ in outcomes], [ended for _, ended in outcomes]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    root = tmp_path_factory.mktemp("four")
    common = {
        "WORLD_SIZE": str(SIZE), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1] / "support"),
    }  # fmt: skip
    faults = [root / f"fault-{rank}" for rank in range(SIZE)]
    with ExitStack() as stack:
        servers = []
        for rank, fault in enumerate(faults):
            (root / str(rank)).mkdir()
            environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OVROUND_TEST_FAULT": str(fault)}
            modules = ["ovround.exporters.onnx.package", "fault_injection"]
            servers.append(stack.enter_context(CommandServer(root / str(rank), modules, environment)))
        yield Processes(servers, faults)


def test_each_process_is_killed_once(processes: Processes, text_file: Path, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "tiny", tiny_config(num_hidden_layers=BLOCKS))
    words = ("convert", source, tmp_path / "output" / "out", *TUNING, "--calibration", text_file)
    results, _ = processes("convert", source, tmp_path / "undisturbed" / "out", *TUNING, "--calibration", text_file)
    assert [result.status for result in results] == [0] * SIZE, results[0].stderr
    for turn in range(min(SCALE, 10)):
        for rank in range(SIZE):  # each rank dies one block later, where the run before has stopped
            results, ended = processes(*words, die=((rank + turn) % SIZE, rank))
            survivors = [number for number in range(SIZE) if number != (rank + turn) % SIZE]
            assert results[(rank + turn) % SIZE].status == -signal.SIGKILL
            for number in survivors:
                assert results[number].status == 1, results[number].stderr
                first = next(line for line in results[number].stderr.splitlines() if line.startswith("error: "))
                assert first.startswith("error: process ")
                assert str((rank + turn) % SIZE) in first.partition(" ended")[0], first
                assert ended[number] - ended[(rank + turn) % SIZE] < END_S
        results, _ = processes(*words)
        assert [result.status for result in results] == [0] * SIZE, results[0].stderr
        assert contents(tmp_path / "output" / "out") == contents(tmp_path / "undisturbed" / "out")
        assert [path.name for path in (tmp_path / "output").iterdir()] == ["out"]
        (tmp_path / "output").rename(tmp_path / f"done-{turn}")
