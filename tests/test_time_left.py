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


def blocks_of(
    clock: Clock, left: TimeLeft, blocks: int, steps: int, begin_s: float, step_s: float
) -> list[float | None]:
    """What is said after each of these blocks, which take `begin_s` before the first step and then `step_s` for each step."""
    said = []
    for block in range(blocks):
        clock.now += begin_s
        for step in range(steps):
            clock.now += step_s
            left(Progress("quantise", block, blocks, step + 1, steps))
        said.append(left(Progress("quantise", block + 1, blocks)))
    return said


def test_what_is_loaded_before_the_first_block_is_no_part_of_the_estimate() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    left(Progress("check"))
    clock.now += 300
    said = blocks_of(clock, left, 10, 20, begin_s=1, step_s=0.45)
    assert said[0] == pytest.approx(9 * 10, rel=0.25)
    assert said[1:] == [pytest.approx(10 * (9 - block)) for block in range(1, 10)]


def test_blocks_without_steps_have_an_estimate_from_the_second_on() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    left(Progress("check"))
    clock.now += 60  # the embedding
    said = blocks_of(clock, left, 10, 0, begin_s=2, step_s=0)
    assert said[0] is None
    assert said[1:] == [pytest.approx(2 * (9 - block)) for block in range(1, 10)]


def test_a_block_of_one_step_is_measured_by_the_next() -> None:
    clock = Clock()
    said = blocks_of(clock, TimeLeft(clock), 4, 1, begin_s=1, step_s=2)
    assert said == [None, pytest.approx(6), pytest.approx(3), 0]


def test_blocks_that_end_together_count_together() -> None:
    """Of four groups of two blocks, 10 s each, the first 50 s later for what is read before it."""
    clock = Clock()
    left = TimeLeft(clock)
    seen = []
    for group in range(4):
        clock.now += 50 if group == 0 else 0
        for step in range(5):
            clock.now += 2
            left(Progress("quantise", 2 * group, 8, step + 1, 5))
        seen.append([left(Progress("quantise", 2 * group + more, 8)) for more in (1, 2)])
    assert seen[0][1] == pytest.approx(30)
    assert seen[1:] == [[pytest.approx(20)] * 2, [pytest.approx(10)] * 2, [0, 0]]


def test_steps_over_all_blocks_have_an_estimate_of_their_own() -> None:
    clock = Clock()
    left = TimeLeft(clock)
    assert left(Progress("end-to-end", 0, 1, 0, 10)) is None
    clock.now = 6
    assert left(Progress("end-to-end", 0, 1, 3, 10)) == pytest.approx(14)
    assert left(Progress("pv-tuning", 0, 1, 0, 10)) is None
