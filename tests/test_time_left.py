"""Estimates of the time left: none before a block is whole, and near what a real tuning then takes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from checkpoint_writer import tiny_config, write_checkpoint

from ovround.cli.time_left import TimeLeft
from ovround.conversion.convert import convert
from ovround.options.convert_options import ConvertOptions
from ovround.options.tuning_options import TuningOptions
from ovround.progress import Progress

BLOCKS = 6


def estimated_and_taken(source: Path, out: Path, options: ConvertOptions) -> list[tuple[float, float]]:
    """Of one conversion, what was said after each block from the second on, and what was taken, on the clock of this process."""
    left, estimates, ends = TimeLeft(time.process_time), {}, {}

    def watch(progress: Progress) -> None:
        seconds, now = left(progress), time.process_time()
        if progress.stage == "quantise" and progress.steps:
            assert (seconds is None) == (progress.block == 0), "an estimate begins with the second block"
        elif progress.stage == "quantise" and seconds is not None:
            estimates[progress.block], ends[progress.block] = seconds, now

    convert(source, out, options, watch)
    assert estimates[BLOCKS] == 0
    return [(estimates[block], ends[BLOCKS] - ends[block]) for block in range(2, BLOCKS)]


@pytest.mark.slow
def test_estimates_of_a_real_tuning_are_within_a_quarter(tmp_path: Path, text_file: Path) -> None:
    """Of three tries, since other work on the cores can disturb one: an estimate that is wrong by itself fails them all."""
    config = tiny_config(num_hidden_layers=BLOCKS, hidden_size=128, intermediate_size=256)
    source, pairs = write_checkpoint(tmp_path / "source", config), []
    options = ConvertOptions(
        formats=("onnx",), group_size=32, iters=40, nsamples=8, seqlen=32, calibration=(text_file,),
        tuning=TuningOptions(end_to_end_steps=0),
    )  # fmt: skip
    for attempt in range(3):
        pairs.append(estimated_and_taken(source, tmp_path / str(attempt), options))
        if all(estimate == pytest.approx(taken, rel=0.25, abs=0.05) for estimate, taken in pairs[-1]):
            return
    pytest.fail(f"estimated and taken: {pairs}")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_blocks_that_end_together_count_together() -> None:
    """Of four groups of two blocks, 10 s each, the first 5 s later for what is read before it."""
    clock = Clock()
    left = TimeLeft(clock)
    seen = []
    for group in range(4):
        clock.now += 15 if group == 0 else 10
        left(Progress("quantise", 2 * group, 8, 1, 1))
        seen.append([left(Progress("quantise", 2 * group + more, 8)) for more in (1, 2)])
    assert seen[0][1] == pytest.approx(45)  # the first group's 5 s count while nothing else is known
    assert [pair[1] for pair in seen[1:]] == [pytest.approx(20), pytest.approx(10), 0]


def test_steps_over_all_blocks_have_an_estimate_of_their_own() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    assert left(Progress("end-to-end", 0, 1, 0, 10)) is None
    clock.now = 6
    assert left(Progress("end-to-end", 0, 1, 3, 10)) == pytest.approx(14)
    assert left(Progress("pv-tuning", 0, 1, 0, 10)) is None
