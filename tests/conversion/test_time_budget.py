"""`--time`: what is chosen, that naming the choice gives the same bytes, that a run that continues takes it, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoint_writer import tiny_config, write_checkpoint
from failing_steps import contents

from ovround.conversion import time_budget
from ovround.conversion.convert import convert
from ovround.conversion.time_budget import ENOUGH_STEPS, FEWEST_STEPS, choose_in_time
from ovround.conversion.time_choice import Choice
from ovround.errors import ResumeError, UsageError
from ovround.options.convert_options import ConvertOptions
from ovround.options.tuning_options import TuningOptions
from ovround.options.units import parse_duration, shown_duration
from ovround.progress import Progress, silent
from ovround.quant import costs as block_costs
from ovround.quant.tuning_costs import Costs, Line, Work


class StopError(Exception):
    """What stops a run between two blocks."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny", tiny_config(num_hidden_layers=3))


@pytest.fixture
def options(text_file: Path) -> ConvertOptions:
    """Short samples of few, so that much time ends at MOST_STEPS, which the tests make few."""
    tuning = TuningOptions(compile="off")
    return ConvertOptions(
        formats=("onnx",), group_size=32, seqlen=16, nsamples=8, calibration=(text_file,), tuning=tuning
    )


def test_naming_the_choice_gives_the_same_bytes_and_a_run_that_continues_takes_it(
    source: Path, options: ConvertOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_budget, "MOST_STEPS", 12)
    notes: list[str] = []

    def stop_after_one(progress: Progress) -> None:
        notes.extend([progress.note] if progress.note else [])
        if progress.stage == "quantise" and not progress.steps:
            raise StopError

    with pytest.raises(StopError):
        convert(source, tmp_path / "out", options, stop_after_one, time="1h")
    assert notes[0].startswith("time 1h: --iters 12 --nsamples 8 --seqlen 16; the tuning takes ")

    def no_measuring(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(block_costs, "measure_costs", no_measuring)
    seen: list[Progress] = []
    manifest = convert(source, tmp_path / "out", options, seen.append, time="1h").manifests[0]
    assert next(progress.note for progress in seen if progress.note).startswith(
        "time 1h, as chosen by the earlier run: --iters 12"
    )
    assert [progress.block for progress in seen if progress.stage == "resume"] == [1]
    assert (manifest.options["iters"], manifest.options["nsamples"], manifest.options["seqlen"]) == (12, 8, 16)
    assert "time" not in manifest.options
    convert(source, tmp_path / "named", replace(options, iters=12))
    assert contents(tmp_path / "named") == contents(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["named", "out"]


def test_another_time_is_measured_again(
    source: Path, options: ConvertOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And blocks of the other choice are not mixed with its own."""
    monkeypatch.setattr(time_budget, "MOST_STEPS", 12)

    def stop(progress: Progress) -> None:
        if progress.stage == "quantise" and not progress.steps:
            raise StopError

    with pytest.raises(StopError):
        convert(source, tmp_path / "out", options, stop, time="1h")
    monkeypatch.setattr(time_budget, "MOST_STEPS", 14)
    stages: list[str] = []
    with pytest.raises(ResumeError, match="iters was 12, is 14"):
        convert(source, tmp_path / "out", options, lambda progress: stages.append(progress.stage), time="2h")
    assert "measure" in stages


def test_a_time_that_is_too_short_says_the_least(source: Path, options: ConvertOptions, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        convert(source, tmp_path / "out", options, time="0.001s")
    start = f"time is 1s; the least that can be chosen, {FEWEST_STEPS} steps a block on 8 samples of 16 tokens, takes about "
    assert str(caught.value).startswith(start)
    assert caught.value.hint == "--time 1min, or --recipe rtn, which tunes nothing"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iters": 0}, "time is given, yet nothing is tuned"),
        ({"recipe": "rtn"}, "time is given, yet nothing is tuned"),
        ({"iters": 5}, "time chooses iters, nsamples and seqlen, yet all three are given"),
        ({"pv": True}, "time is given, yet what PV-Tuning takes is not known before"),
        ({"formats": ("aqlm",)}, "time is given, yet what fitting codebooks takes is not known before"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    source: Path, options: ConvertOptions, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        convert(source, tmp_path / "out", replace(options, **changes), time="10min")
    assert str(caught.value) == message


COSTS = Costs(Line(2, 0), Line(0.1, 1e-4), Line(0.1, 1e-4), Line(0, 1e-5), Line(0, 2e-5), Line(0, 1e-4), groups=3)


@pytest.fixture
def choose(
    source: Path, options: ConvertOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Choice]:
    """What is chosen for so many seconds on a machine with the costs above, which is measured no better here than elsewhere."""
    monkeypatch.setattr(block_costs, "measure_costs", lambda _: COSTS)
    monkeypatch.setattr(time_budget, "time", SimpleNamespace(monotonic=float))  # no second passes meanwhile

    def choose(time_s: float, **given: int) -> Choice:
        asked = replace(options, **{"seqlen": None, "nsamples": None, **given})
        return choose_in_time(str(source), tmp_path / "out", asked, time_s, 0.0, silent)

    return choose


def test_more_time_buys_steps_and_samples_and_then_longer_ones(choose: Callable[..., Choice]) -> None:
    times = (40, 100, 200, 1000)
    choices = [choose(seconds) for seconds in times]
    assert all(choice.seconds <= seconds for choice, seconds in zip(choices, times, strict=True))
    assert all(choice.seconds > 0.88 * seconds for choice, seconds in zip(choices[:3], times[:3], strict=True))
    assert [choice.seqlen for choice in choices] == [128, 128, 128, 256]  # the model has 256 positions
    steps = [choice.iters for choice in choices]
    assert steps == sorted(set(steps))
    assert steps[2] >= ENOUGH_STEPS
    assert all(choice.nsamples >= 16 for choice in choices)


def test_what_is_given_stays_and_the_rest_is_chosen(choose: Callable[..., Choice]) -> None:
    by_steps = choose(100, iters=50)
    tight = choose(47, iters=50)
    assert (by_steps.iters, by_steps.seqlen, tight.iters, tight.seqlen) == (50, 256, 50, 128)
    assert tight.seconds <= 47 < by_steps.seconds
    assert choose(100, seqlen=200).seqlen == 200
    assert choose(100, nsamples=24).nsamples == 24
    both = choose(100, iters=40, seqlen=64)
    assert (both.iters, both.seqlen) == (40, 64)


def test_the_estimate_counts_each_piece_as_often_as_it_is_done() -> None:
    """16 samples of 100 tokens and 2 held out, 4 a step: 20 steps, of whose later half 5 are compared, and so is the start."""
    late = 5  # of steps 11 to 20, every second
    group = 2 + 20 * (0.1 + 1e-4 * 400) + (1 + late) * 1e-5 * 200 + 2e-5 * 1800
    assert COSTS.seconds(Work(20, 16, 100, 4, 0)) == pytest.approx(3 * group + 1e-4 * 200)
    step = 3 * (0.1 + 1e-4 * 400) + 1e-4 * 400
    compared = 3 * 1e-5 * 200 + 1e-4 * 200
    more = 10 * step + (1 + 10) * compared + 2 * 3 * 2e-5 * 1800 + 1e-4 * 200
    assert COSTS.seconds(Work(20, 16, 100, 4, 10)) == pytest.approx(3 * group + 1e-4 * 200 + more)


def test_a_line_goes_through_both_measurements_and_has_no_negative_part() -> None:
    assert Line.through((10, 3.0), (30, 5.0)) == Line(2.0, 0.1)
    assert Line.through((10, 3.0), (30, 2.0)) == Line(2.0, 0.0)  # noise: more tokens in less time
    assert Line.through((10, 1.0), (30, 6.0)) == Line(0.0, 0.2)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10min", 600),
        ("10m", 600),
        ("1h30m", 5400),
        ("2h 5 min 3s", 7503),
        ("270s", 270),
        ("60s", 60),
        ("0.5h", 1800),
    ],
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration("time", text) == seconds
    assert parse_duration("time", shown_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", " ", "10", "min", "0s", "-5s", "10 parsecs", "1e3s", "99999999h", "30s 1h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="which is no time") as caught:
        parse_duration("time", text)
    assert caught.value.hint == "example: --time 10min (or 90s, 1h30m)"
