"""What commands show of their work: equal layers in one line, and how far a long job is."""

from __future__ import annotations

import io
import sys
import time

import pytest

from ovround.cli import working
from ovround.cli.equal_layers import equal_layers
from ovround.cli.working import Working, say


class Screen(io.StringIO):
    """A terminal as stderr."""

    def isatty(self) -> bool:
        return True


def test_equal_layers_are_one_line() -> None:
    names = [
        "embed", *(f"layers.{i}.up" for i in (0, 1, 2, 4)), "layers.3.up", "layers.3.norm",
        *(f"layers.{i}.experts.{j}.up" for i in range(2) for j in range(3)), "conv.1", "h2.w",
    ]  # fmt: skip
    groups = equal_layers(names, str, lambda name: name == "layers.3.up")
    assert [(group.name, len(group.tensors)) for group in groups] == [
        ("embed", 1), ("layers.[0-2,4].up", 4), ("layers.3.up", 1), ("layers.3.norm", 1),
        ("layers.[0-1].experts.[0-2].up", 6), ("conv.1", 1), ("h2.w", 1),
    ]  # fmt: skip
    assert [name for group in equal_layers(names, str, str) for name in group.tensors] == names


def shown(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A terminal in which every moment is a long one."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(working, "_MOMENT_S", 0.0)
    return screen


@pytest.mark.parametrize("quiet", [False, True])
def test_what_is_counted_is_written_into_a_pipe(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    monkeypatch.setattr(working, "_LINE_S", 0.0)
    with Working("loading", quiet=quiet) as work:
        for done in (1, 2, 4):
            work.count("scored samples", done, 4)
    said = ["scored samples: 1 of 4", "scored samples: 2 of 4, 0 s left", "scored samples: 4 of 4, 0 s left"]
    assert pipe.getvalue().splitlines() == ([] if quiet else said)


def test_time_left_is_by_what_was_counted_and_not_by_the_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, now = io.StringIO(), [0.0]
    monkeypatch.setattr(sys, "stderr", pipe)
    monkeypatch.setattr(working.time, "monotonic", lambda: now[0])
    work = Working("loading")
    for done, after_s in ((1, 500.0), (2, 10.0), (3, 10.0), (1, 300.0), (2, 10.0)):  # the last two of another text
        now[0] += after_s
        work.count("scored samples", done, 5)
    assert pipe.getvalue().splitlines() == [
        "scored samples: 1 of 5", "scored samples: 2 of 5, 30 s left", "scored samples: 3 of 5, 20 s left",
        "scored samples: 1 of 5", "scored samples: 2 of 5, 30 s left",
    ]  # fmt: skip


def test_a_short_job_says_nothing_and_a_long_one_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Screen())
    with Working("loading"):
        pass
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]
    monkeypatch.setattr(working, "_MOMENT_S", 0.0)
    with Working("loading"):
        time.sleep(0.2)
    assert sys.stderr.getvalue() == "loading\r\x1b[K"  # type: ignore[attr-defined]


def test_a_long_job_on_a_pipe_says_so_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stderr", pipe)
    monkeypatch.setattr(working, "_MOMENT_S", 0.0)
    with Working("loading \x1b[2Jmodel") as work:
        time.sleep(0.1)
        assert pipe.getvalue() == "loading \\x1b[2Jmodel\n"
        work.begin("warming up")
        time.sleep(0.1)
    assert pipe.getvalue().splitlines() == ["loading \\x1b[2Jmodel", "warming up"]


def test_a_line_that_stays_goes_above_the_one_that_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = shown(monkeypatch)
    with Working("loading"):
        time.sleep(0.1)
        say("warning: the disk is slow")
    assert screen.getvalue() == "loading\r\x1b[Kwarning: the disk is slow\nloading\r\x1b[K"


def test_a_line_is_cut_to_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = shown(monkeypatch)
    with Working("x" * 200):
        time.sleep(0.1)
    assert screen.getvalue() == "x" * 79 + "\r\x1b[K"
