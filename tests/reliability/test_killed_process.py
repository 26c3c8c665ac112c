"""Four processes tune one model, and each of them is killed once: the others end soon and name it, the same command continues."""

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
    "--batch-size", "4", "--quiet",
)  # fmt: skip


class Processes:
    """What torchrun would have started, as `--nproc-per-node 4`."""

    def __init__(self, servers: list[CommandServer], faults: list[Path]) -> None:
        self._servers, self._faults = servers, faults

    def __call__(self, *arguments: object, die: tuple[int, int] | None = None) -> tuple[list[Result], list[float]]:
        """Results of all, and when each ended; with `die` one is killed as it finishes a block: its rank, the block."""
        for rank, fault in enumerate(self._faults):
            fault.write_text(f"die {die[1]}" if die is not None and rank == die[0] else "nothing 0", encoding="utf-8")

        def one(server: CommandServer) -> tuple[Result, float]:
            return server(*arguments), time.monotonic()

        with ThreadPoolExecutor(SIZE) as threads:
            found = list(threads.map(one, self._servers))
        return [result for result, _ in found], [ended for _, ended in found]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    place = tmp_path_factory.mktemp("four")
    common = {
        "WORLD_SIZE": str(SIZE), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1] / "support"),
    }  # fmt: skip
    faults = [place / f"fault-{rank}" for rank in range(SIZE)]
    with ExitStack() as stack:
        servers = []
        for rank, fault in enumerate(faults):
            (place / str(rank)).mkdir()
            environment = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OVROUND_TEST_FAULT": str(fault)}
            modules = ["ovround.exporters.onnx", "fault_injection"]
            servers.append(stack.enter_context(CommandServer(place / str(rank), modules, environment)))
        yield Processes(servers, faults)


def test_each_process_is_killed_once(processes: Processes, text_file: Path, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "tiny", tiny_config(num_hidden_layers=BLOCKS))
    words = ("convert", source, tmp_path / "place" / "out", *TUNING, "--calibration", text_file)
    results, _ = processes("convert", source, tmp_path / "undisturbed" / "out", *TUNING, "--calibration", text_file)
    assert [result.status for result in results] == [0] * SIZE, results[0].stderr
    for turn in range(min(SCALE, 10)):
        for rank in range(SIZE):  # the first at the first block, the next at the second, from which it continues
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
        assert contents(tmp_path / "place" / "out") == contents(tmp_path / "undisturbed" / "out")
        assert [path.name for path in (tmp_path / "place").iterdir()] == ["out"]
        (tmp_path / "place").rename(tmp_path / f"done-{turn}")
